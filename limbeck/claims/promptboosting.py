"""Claim: boosted prompts beat the best prompt and the best learner alone, at the queries that were promised.

Bed: no answer of the black box stands for a class, so prompts must be combined; and every query is counted.
"""

from __future__ import annotations

from limbeck.beds.cloze import CLASSES, PROMPTS, VOCABULARY
from limbeck.parts.boosting import keep_best_learner, readout
from limbeck.probes.blackbox import excess_queries
from limbeck.probes.classification import accuracy
from limbeck.recipe import Arm, Claim, Tune, more, within

BED = {"student.builder.prompts": PROMPTS, "student.builder.classes": CLASSES, "boost.step.top": 10, "boost.steps": 100}
READOUT = readout(prompts=PROMPTS, words=len(VOCABULARY), classes=CLASSES)
LOGISTIC = Arm(set={"student.builder": READOUT, "boost.steps": 1, "choose.steps": 0})
SINGLE = Arm(set={"boost.steps": 10, "choose.step": keep_best_learner()})
ALONE = {"boost.step": tuple(f"fit_alone(top={k})" for k in range(1, 11))}
GRID = {
    "boosted": {"boost.step.top": (2, 3, 5, 8, 10), "boost.step.lr": (0.5, 1.0)},
    "one prompt": {"student.builder.prompts": tuple((prompt,) for prompt in PROMPTS)}, "one learner": ALONE,
    "equal weights": ALONE, "logistic": {"boost.step": tuple(f"fit_logistic(strength=1e{k})" for k in range(-3, 7))},
}  # fmt: skip

claim = Claim(
    bed="cloze",
    set=BED,
    arms={
        "boosted": Arm(), "one prompt": Arm(), "equal weights": Arm(), "one learner": SINGLE, "logistic": LOGISTIC,
    },
    probes={"excess": excess_queries(), "accuracy": accuracy()},
    says=(
        more("accuracy", "boosted", "one learner", by=0.05), more("accuracy", "boosted", "one prompt", by=0.02),
        within("excess", "boosted", 0.0),
    ),
    tune=Tune("accuracy", GRID, seeds=2),  # type: ignore[arg-type]
    seeds=6,
    control="equal weights",
)  # fmt: skip
