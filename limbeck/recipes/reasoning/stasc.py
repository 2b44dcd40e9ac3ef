"""STaSC: rounds of sampling two turns, keeping the corrections that a verifier finds better, and learning them."""

from __future__ import annotations

from limbeck.beds.chain import REQUEST, right_answer
from limbeck.parts.optimizer import adamw
from limbeck.parts.rollout import rollout
from limbeck.parts.token import cross_entropy
from limbeck.parts.transcript import accepted, improved, repeated, requested
from limbeck.probes.correction import broken, correction_gain, second_accuracy, two_turns
from limbeck.recipe import Arm, Claim, Learn, Make, Measure, Phase, Recipe, Repeat, Tune, more
from limbeck.roles import learning

START = {"F": {"fixed.times": 1, "rounds.evolving.times": 0}, "E": {}}
KEEP = {"I": {}, "N": {"rounds.correct.rows.improved.gain": 0.0, "rounds.correct.rows.improved.least": 1.0}}
TUNED = {"F": {"rounds.learn.fresh": ("student",)}, "E": {}}
FIGURES = {"second": second_accuracy, "gain": correction_gain, "broken": broken}

said, short = rollout(temperature=0.6, top_p=0.9, max_new_tokens=256), rollout(max_new_tokens=6)
turns, verifier = two_turns(temperature=0.6, top_p=0.9, max_new_tokens=256), right_answer()
on_bed = {"turns": two_turns(REQUEST, max_new_tokens=6), "verifier": verifier, "limit": 64}
alone = repeated(copies=6) >> short >> accepted(verifier=verifier)
first = Make("first", rows=repeated(copies=5) >> said, into="first")
correct = Make("correct", rows=requested() >> repeated(copies=5) >> said >> improved(), into="kept", data="first")

claim = Claim(
    bed="chain",
    arms={
        "stasc": Arm(), "start": Arm(set={"rounds.times": 0}),
        "first turn": Arm(set={"rounds.correct.data": "train", "rounds.correct.rows": alone}),
        "unfiltered": Arm(set={"rounds.correct.rows.improved.gain": -1.0}),
    },
    probes={name: figure(**{**on_bed, "limit": 0}) for name, figure in FIGURES.items()},
    says=(
        more("second", "stasc", "start", by=0.1), more("gain", "stasc", "start", by=0.1),
        more("gain", "stasc", "first turn", by=0.1),
    ),
    set={
        "rounds.evolving.first.rows": repeated(copies=2) >> short,
        "rounds.correct.rows": requested(request=REQUEST) >> repeated(copies=2) >> short >> improved(verifier=verifier),
        **{f"rounds.figures.{name}.{key}": value for name in FIGURES for key, value in on_bed.items()},
        **{"rounds.evolving.first.chunk": 512, "rounds.correct.chunk": 512},
        **{"rounds.times": 4, "rounds.learn.steps": 30, "rounds.learn.batch_size": 64},
    },
    tune=Tune(
        "second", {a: {"student.optimizer.lr": (1e-4, 3e-4, 1e-3)} for a in ("stasc", "first turn", "unfiltered")}
    ),
    players={"student": "base"}, control="unfiltered",
)  # fmt: skip

recipe = Recipe(
    key="stasc", title="Self-Taught Self-Correction for Small Language Models", paper="arXiv:2503.08681",
    family="reasoning", kind="method", learns="student weights", teacher="self",
    players={"student": learning(adamw(lr=1e-6, weight_decay=0.01))},
    stages=(
        Repeat("fixed", (first,), times=0),
        Repeat(
            "rounds",
            (
                Repeat("evolving", (first,)), correct,
                Learn("learn", (Phase("student", ("student",), cross_entropy()),), data="kept"),
                Measure("figures", {name: figure(turns=turns) for name, figure in FIGURES.items()}),
            ),
            times=10,
        ),
    ),
    variants={x + y + z: {**START[x], **KEEP[y], **TUNED[z]} for x in START for y in KEEP for z in TUNED},
    deviates=(
        "as it stands the recipe is EIE, which the paper finds among the best; the others are variants",
        "N keeps corrections that are better or as right, as the paper has it; its code keeps only right to right",
    ),
    claim=claim,
)  # fmt: skip
