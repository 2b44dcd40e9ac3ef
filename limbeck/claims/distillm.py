"""Claim: draft."""

from __future__ import annotations

from limbeck.probes.enumerated import sequence_kl_reverse
from limbeck.recipe import Arm, Claim, less

claim = Claim(
    bed="oracle_lm",
    arms={"distillm": Arm(set={"distill.student.batch.on_policy.max_new_tokens": 6}), "kd": Arm("kd")},
    probes={"sequence_kl_reverse": sequence_kl_reverse()},
    says=(less("sequence_kl_reverse", "distillm", "kd", by=0.2),),
    set={"warm.steps": 120, "warm.batch_size": 64, "distill.steps": 150, "distill.batch_size": 64},
    seeds=3, no_control="draft of a claim", no_tune="draft",
)  # fmt: skip
