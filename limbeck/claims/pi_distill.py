"""Claim: learning from what one says with a hint in view beats rewards of what one says without.

Bed: the base player is mostly wrong, and right with the textbook's answer in view. Every arm draws as many answers, and
the likeliest answers are marked, so that mere certainty is no gain. Nothing is told in the control.
"""

from __future__ import annotations

from limbeck.beds.hints import HINT, right_answer
from limbeck.parts.context import remembered
from limbeck.parts.policy import clipped_surrogate, graded, group_standardised
from limbeck.parts.rollout import rollout
from limbeck.parts.subset import every_nth
from limbeck.parts.transcript import repeated
from limbeck.probes.language import answer_accuracy
from limbeck.recipe import Arm, Claim, Tune, more

RATES = {"student.optimizer.lr": (5e-4, 1e-3, 2e-3)}
LOSS, BATCH = "distill.student.loss", "distill.student.batch"
PLACES = (f"{LOSS}.teacher.context", f"{BATCH}.said_under.context", f"{BATCH}.noted_under.context")
asked, mark = remembered() >> repeated(copies=8), graded(verifier=right_answer()) >> group_standardised(copies=8)
ours = asked >> rollout(max_new_tokens=8) >> mark

claim = Claim(
    bed="hints_misled",
    arms={
        "pi-distill": Arm(), "grpo": Arm(set={BATCH: ours, LOSS: clipped_surrogate()}),
        "untold": Arm(set={place: every_nth(n=1) for place in PLACES}),
    },
    probes={"accuracy": answer_accuracy(verifier=right_answer(), temperature=0.0, max_new_tokens=8, limit=0)},
    says=(more("accuracy", "pi-distill", "grpo", by=0.03),),
    set={
        "distill.steps": 8, "distill.batch_size": 8, **{f"{place}.template": HINT for place in PLACES},
        f"{BATCH}.said_under.on_policy.max_new_tokens": 8, f"{BATCH}.graded.verifier": right_answer(),
    },
    tune=Tune("accuracy", dict.fromkeys(("pi-distill", "grpo", "untold"), RATES)),
    players={"student": "base"}, control="untold",
)  # fmt: skip
