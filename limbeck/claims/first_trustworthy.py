"""Claim: a student of a recalibrated teacher knows better than others how sure it may be, and is more often right.

Bed: answers are noisy with known probabilities, few enough rows that a student learns some of them by heart, and a
teacher three times too sure. One arm takes the teacher's probabilities as they are;
the control is calibrated on other rows' answers. As in the paper the error
against fine-tuning is also the mean over rows like those learned from and others; on the others alone fine-tuning may
be as well calibrated here, for the teacher is a little off and its temperature was found elsewhere.
"""

from __future__ import annotations

from limbeck.parts.calibration import remember_likeliest
from limbeck.parts.shuffled import shuffled
from limbeck.probes.options import both_ways, option_accuracy, option_ece
from limbeck.recipe import Arm, Claim, Tune, less, more

RATES = {"student.optimizer.lr.start": (2e-3, 6e-3)}
ARMS = ("first", "sft", "uncalibrated", "shuffled")
ASKED = remember_likeliest(k=5) >> shuffled(columns=("cache.ids", "cache.logp"))

claim = Claim(
    bed="majority",
    arms={
        "first": Arm(), "sft": Arm("sft"), "uncalibrated": Arm(set={"calibrate.steps": 0}),
        "shuffled": Arm(set={"ask_held_out.rows": ASKED}),
    },
    probes={
        "ece": option_ece(), "mean_ece": both_ways(), "shifted_ece": option_ece(split="shifted"),
        "accuracy": option_accuracy(),
    },
    says=(
        less("ece", "first", "sft", by=0.03), less("mean_ece", "first", "sft", by=0.015),
        less("ece", "first", "uncalibrated", by=0.1), less("shifted_ece", "first", "uncalibrated", by=0.05),
        more("accuracy", "first", "sft", by=0.01),
    ),
    set={"distill.steps": 200, "distill.batch_size": 32},
    tune=Tune("accuracy", dict.fromkeys(ARMS, RATES)),
    seeds=4, control="shuffled",
)  # fmt: skip
