"""DASD: imitate cool answers, then warm ones, of which each is chosen for the sentences that the student lacks."""

from __future__ import annotations

from limbeck.parts.mended import completed, from_start, unfinished, well_formed
from limbeck.parts.optimizer import adamw
from limbeck.parts.rollout import rollout
from limbeck.parts.schedule import cosine
from limbeck.parts.sentences import chosen
from limbeck.parts.token import cross_entropy
from limbeck.parts.transcript import repeated
from limbeck.recipe import Learn, Make, Phase, Recipe, Repeat
from limbeck.roles import frozen, learning

imitate = (Phase("student", ("student",), cross_entropy()),)
cool, warm, asked = (rollout(temperature=t, max_new_tokens=2048).on(student="teacher") for t in (0.6, 1.0, 1.0))
fit, best = well_formed(), chosen()
mended = rollout(max_new_tokens=3072) >> unfinished() >> completed(finish=asked)

recipe = Recipe(
    key="dasd", title="Distribution-Aligned Sequence Distillation for Superior Long-CoT Reasoning",
    paper="arXiv:2601.09088", family="lm", kind="data-pipeline", learns="student weights", teacher="white-box",
    players={
        "student": learning(adamw(lr=cosine(start=5e-5, end=1e-5, warmup=0.1), betas=(0.9, 0.95), weight_decay=0.1)),
        "teacher": frozen(),
    },
    stages=(
        Make("cool", repeated(copies=4) >> cool >> fit >> best, into="cool answers"),
        Learn("first", imitate, epochs=6.0, batch_size=64, data="cool answers", clip=1.0),
        Make("warm", repeated(copies=4) >> warm >> fit >> best, into="warm answers"),
        Learn("second", imitate, epochs=6.0, batch_size=64, data="warm answers", clip=1.0),
        Repeat("mixed", (
            Make("mend", mended >> from_start() >> fit, into="mended"),
            Learn("third", imitate, batch_size=64, data="mended", clip=1.0),
        )),
    ),
    variants={"teacher-half": {"mixed.mend.rows": mended >> fit}, "unmixed": {"mixed.times": 0}},
    deviates=(
        "the report has no rule for choosing: ours keeps the answer of four with the greatest mean_s max(0, P_T - P_S)",
        "the teacher must be at hand: a server tells no probabilities of what it said, and finishes nothing",
        "each prompt is asked at both temperatures, 64 rows a batch, answers not checked against a truth: all ours",
    ),
)  # fmt: skip
