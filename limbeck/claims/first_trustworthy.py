"""Claim: a student of a recalibrated teacher knows better than others how sure it may be, and is no less often right.

Bed: answers are noisy with known probabilities, few enough rows that a student can learn them by heart, and a teacher
three times too sure. The control takes the teacher's probabilities as they are.
"""

from __future__ import annotations

from limbeck.probes.options import option_accuracy, option_ece
from limbeck.recipe import Arm, Claim, Tune, less, more

RATES = {"student.optimizer.lr.start": (1e-3, 3e-3, 1e-2)}
ARMS = ("first", "sft", "uncalibrated")

claim = Claim(
    bed="majority",
    arms={"first": Arm(), "sft": Arm("sft"), "uncalibrated": Arm(set={"calibrate.steps": 0})},
    probes={
        "ece": option_ece(), "accuracy": option_accuracy(),
        "shifted_ece": option_ece(split="shifted"), "shifted_accuracy": option_accuracy(split="shifted"),
    },
    says=(
        less("ece", "first", "sft", by=0.05), less("ece", "first", "uncalibrated", by=0.05),
        less("shifted_ece", "first", "sft", by=0.05), more("accuracy", "first", "sft", by=0.02),
    ),
    set={"distill.steps": 200, "distill.batch_size": 32},
    tune=Tune("accuracy", dict.fromkeys(ARMS, RATES)),
    seeds=4, control="uncalibrated",
)  # fmt: skip
