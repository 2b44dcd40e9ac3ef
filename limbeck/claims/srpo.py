"""Claim: wrong answers that learn from a right one in view, and right ones from rewards, beat rewards or views alone.

Bed: the base player is mostly wrong, and nearly always right with a right solution in view. Every arm draws as many
answers, and the likeliest answers are marked, so that mere certainty is no gain. All answers learn from both in the
control.
"""

from __future__ import annotations

from limbeck.beds.hints import HINT, right_answer
from limbeck.parts.policy import clipped_surrogate, graded, group_relative
from limbeck.parts.rollout import rollout
from limbeck.parts.routing import all_told
from limbeck.parts.transcript import repeated
from limbeck.probes.language import answer_accuracy
from limbeck.recipe import Arm, Claim, Tune, more

RATES = {"student.optimizer.lr": (5e-4, 1e-3, 2e-3)}
said = repeated(copies=8) >> rollout(max_new_tokens=8)
answered = said >> graded(verifier=right_answer()) >> group_relative(copies=8)

LOSS, BATCH = "distill.student.loss", "distill.student.batch"

claim = Claim(
    bed="hints_misled",
    arms={
        "srpo": Arm(), "sdpo": Arm(set={"variant": "sdpo"}),
        "grpo": Arm(set={BATCH: answered, LOSS: clipped_surrogate(high=0.28)}),
        "unrouted": Arm(set={f"{BATCH}.failures": all_told(), f"{LOSS}.grpo.weight": 1.0}),
    },
    probes={"accuracy": answer_accuracy(verifier=right_answer(), temperature=0.0, max_new_tokens=8, limit=0)},
    says=(more("accuracy", "srpo", "grpo", by=0.02), more("accuracy", "srpo", "sdpo", by=0.02)),
    set={
        "distill.steps": 12, "distill.batch_size": 8, f"{BATCH}.rollout.max_new_tokens": 8,
        f"{BATCH}.graded.verifier": right_answer(), "teacher.context.template": HINT,
    },
    tune=Tune("accuracy", dict.fromkeys(("srpo", "grpo", "sdpo", "unrouted"), RATES)),
    players={"student": "base"}, control="unrouted",
)  # fmt: skip
