"""STaSC: rounds of sampling two turns, keeping the corrections that a verifier finds better, and learning them."""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.rollout import rollout
from limbeck.parts.token import cross_entropy
from limbeck.parts.transcript import improved, repeated, requested
from limbeck.probes.correction import broken, correction_gain, second_accuracy, two_turns
from limbeck.recipe import Learn, Make, Measure, Phase, Recipe, Repeat
from limbeck.roles import learning

START = {"F": {"fixed.times": 1, "rounds.evolving.times": 0}, "E": {}}
KEEP = {"I": {}, "N": {"rounds.correct.rows.improved.gain": 0.0, "rounds.correct.rows.improved.least": 1.0}}
TUNED = {"F": {"rounds.learn.fresh": ("student",)}, "E": {}}
FIGURES = {"second": second_accuracy, "gain": correction_gain, "broken": broken}

said = rollout(temperature=0.6, top_p=0.9, max_new_tokens=256)
turns = two_turns(temperature=0.6, top_p=0.9, max_new_tokens=256)
first = Make("first", rows=repeated(copies=5) >> said, into="first")
correct = Make("correct", rows=requested() >> repeated(copies=5) >> said >> improved(), into="kept", data="first")

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
)  # fmt: skip
