"""Claim: where text is scarce, a student of two teachers of its own size predicts better than both, and than of one.

Bed: teachers and student have read the same few characters; the teachers are the best of twelve settings. The number of
steps is tuned for all, since training alone forgets to generalise; so training alone is not what is weak here.
The same teacher taken twice is one teacher, so that arm is the control.
"""

from __future__ import annotations

from limbeck.parts.token import forward_kl
from limbeck.probes.elsewhere import behind_best
from limbeck.probes.language import nll
from limbeck.recipe import Arm, Claim, Tune, less, within

GRID = {"distill.steps": (200, 400), "student.optimizer.weight_decay": (0.1, 1.0)}
ARMS = {
    "two": Arm(),
    "one": Arm(set={"distill.student.loss.teachers": 0.5 * forward_kl(temperature=1.0)}),
    "alone": Arm("sft"),
}

claim = Claim(
    bed="chars_few",
    arms=ARMS,
    probes={"nll": nll(), "behind the best teacher": behind_best(rivals=("teacher", "second"), lead=0.02)},
    says=(
        less("nll", "two", "alone", by=0.02),
        less("nll", "two", "one", by=0.01),
        within("behind the best teacher", "two", 0.0),
    ),
    set={"distill.batch_size": 16, "student.optimizer.lr.start": 1e-2},
    tune=Tune("nll", dict.fromkeys(ARMS, GRID)),
    control="one",
)
