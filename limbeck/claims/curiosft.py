"""Claim: imitation that is drawn towards a flattened self stays open where it may, and right where it must be.

Bed: an expert of one style, for a player who knows that the digits of a column stand in either order; an opening is
where the order is chosen, which in the language is a fair coin. The weight of the bonus is the one that leaves openings
about as open. The self of the control never follows: it is the one of the start.
"""

from __future__ import annotations

from limbeck.beds.arith import right_answer
from limbeck.parts.exploration import negative_entropy
from limbeck.probes.language import answer_accuracy
from limbeck.probes.openings import opening_entropy
from limbeck.recipe import Arm, Claim, Tune, more

CURIOUS = "first.imitate.novice.loss.curious"
arms = {
    "curiosft": Arm(), "imitation": Arm(set={f"{CURIOUS}.weight": 0.0}),
    "first self": Arm(set={"past.decay": 1.0}),
    "bonus": Arm(set={CURIOUS: 0.25 * negative_entropy().on(student="novice")}),
}  # fmt: skip

claim = Claim(
    bed="arith_ordered",
    arms=arms,
    probes={
        "accuracy": answer_accuracy(verifier=right_answer(), temperature=0.6, limit=0, max_new_tokens=32),
        "openness": opening_entropy(end=";"),
    },
    says=(more("openness", "curiosft", "imitation", by=0.03), more("accuracy", "curiosft", "bonus", by=0.01)),
    set={
        "first.imitate.steps": 60, "first.imitate.batch_size": 32, "explore.steps": 0, "explore.epochs": 0.0,
        "explore.batch_size": 8, "explore.student.batch.rollout.max_new_tokens": 32,
        "explore.student.batch.graded.verifier": right_answer(),
    },
    tune=Tune("accuracy", {name: {"novice.optimizer.lr.start": (1e-3, 3e-3)} for name in arms}),
    players={"student": "warm_student"}, control="first self",
)  # fmt: skip
