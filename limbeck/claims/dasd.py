"""Claim: cool answers first and warm ones after teach more than either alone, and chosen ones no less than any.

Bed: every answer can be checked, and only its prompts are used. The teacher is right always when it is cool, and errs
in every eighth answer when it is warm. The control learns them in the other order.
"""

from __future__ import annotations

from limbeck.beds.arith import right_answer
from limbeck.probes.language import answer_accuracy
from limbeck.recipe import Arm, Claim, Tune, more

MAKES = ("cool", "warm")
COOL, WARM = 0.6, 1.5


def asked(cool: float, warm: float, copies: int) -> Arm:
    """An arm that asks at these temperatures, and so often."""
    heats = {f"{name}.rows.rollout.temperature": heat for name, heat in zip(MAKES, (cool, warm), strict=True)}
    return Arm(set={**heats, **{f"{name}.rows.repeated.copies": copies for name in MAKES}})


arms = {
    "dasd": asked(COOL, WARM, 4), "schedule": asked(COOL, WARM, 1), "cool": asked(COOL, COOL, 1),
    "warm": asked(WARM, WARM, 1), "warm first": asked(WARM, COOL, 4),
}  # fmt: skip

claim = Claim(
    bed="arith_ordered",
    arms=arms,
    probes={"accuracy": answer_accuracy(verifier=right_answer(), temperature=0.6, limit=0, max_new_tokens=32)},
    says=(
        more("accuracy", "dasd", "cool", by=0.02), more("accuracy", "dasd", "warm", by=0.02),
        more("accuracy", "schedule", "cool", by=0.01), more("accuracy", "schedule", "warm", by=0.01),
        more("accuracy", "dasd", "schedule", by=0.005),
    ),
    set={
        "mixed.times": 0, **{f"{name}.rows.rollout.max_new_tokens": 32 for name in MAKES},
        **{f"{name}.chunk": 32 for name in MAKES},
        **{f"{name}.{key}": n for name in ("first", "second") for key, n in (("steps", 50), ("batch_size", 64))},
    },
    tune=Tune("accuracy", {name: {"student.optimizer.lr.start": (1e-3, 3e-3)} for name in arms}),
    players={"student": "warm_student"}, control="warm first",
)  # fmt: skip
