"""Distillation scaling law: runs over students, tokens and teachers, and the law that foretells the next one."""

from __future__ import annotations

from limbeck.parts.graded import sized, tempered
from limbeck.parts.optimizer import adamw
from limbeck.parts.scaling import laws, step_distilled, step_supervised
from limbeck.parts.schedule import cosine
from limbeck.parts.token import cross_entropy, forward_kl, sequence_mean
from limbeck.parts.trace import first
from limbeck.probes.scaling import loss_of, tokens_of, weights_of
from limbeck.recipe import Learn, Make, Phase, Recipe, Repeat, Solve, Sub
from limbeck.roles import built, frozen

learn = Phase("pupil", ("pupil",), (sequence_mean() * forward_kl()).on(student="pupil", teacher="tempered"))
by, alone = ("laws",), (sequence_mean() * cross_entropy()).on(student="pupil")
students = {"pupil.builder.width": (0.25, 0.5, 1.0), "text.rows.rows": (1_000, 4_000, 16_000)}
runs = {"sweep.times": (0,), **students}  # a run of the sweep is this recipe without the sweep
figures = {"loss": loss_of(of="pupil"), "n": weights_of(of="pupil"), "d": tokens_of(of="text")}

recipe = Recipe(
    key="distillation-scaling-law", title="Distillation Scaling Laws", paper="arXiv:2502.08606",
    family="lm", kind="study", learns="coefficients of laws", teacher="white-box",
    players={
        "student": frozen(), "teacher": frozen(), "tempered": built(tempered()),
        "pupil": built(sized(), adamw(lr=cosine(start=1e-3, warmup=0.05))), "laws": built(laws()),
    },
    stages=(
        Make("text", first(rows=4_000), into="text", chunk=0), Learn("learn", (learn,), batch_size=32, data="text"),
        Repeat("sweep", (
            Sub("supervised", recipe="distillation-scaling-law", over={"learn.pupil.loss": (alone,), **runs},
                probes=figures, into="supervised"),
            Sub("distilled", recipe="distillation-scaling-law",
                over={"tempered.builder.temperature": (1.0, 1.4, 2.0), **runs},
                probes={**figures, "teacher": loss_of(of="tempered")}, into="distilled"),
            Solve("alone", step_supervised(), by, data="supervised"),
            Solve("under", step_distilled(), by, data="distilled"),
        )),
    ),
    product="distilled",
    deviates=(
        "other teachers are the given one at other temperatures, instead of other sizes and lengths of training",
        "students are cut from the given one by width; one pass over the text, its length the number of tokens",
        "the published coefficients are not shipped: they could not be checked",
    ),
)  # fmt: skip
