"""Claim: a skewed divergence on own answers, half of them kept ones, ends nearer than a plain one or given answers do.

Bed: all sequences can be enumerated, so the divergence between two models of them is exact. In a run of this length the
held-out loss does not grow by what makes the share of own answers rise, so the share is 1 from the start: what is tried
are the skew and the memory, not the rise. "on-policy" has a memory that is never full, and speaks at every step.
The control learns on answers of random tokens.
"""

from __future__ import annotations

from limbeck.parts.token import forward_kl
from limbeck.probes.enumerated import sequence_kl_forward, sequence_kl_reverse
from limbeck.probes.replay import spoken
from limbeck.recipe import Arm, Claim, Tune, less

RATES = {"student.optimizer.lr.start": (1.5e-2, 3e-2)}
MEMORY = {"replay.builder.capacity": 256, "replay.builder.width": 7, "replay.builder.held": 64}
OWN = {**MEMORY, "replay.builder.share": 1.0, "distill.student.batch.on_policy.max_new_tokens": 6}
ARMS = {
    "distillm": Arm(set=OWN), "forward-kl": Arm(set={**OWN, "distill.student.loss": forward_kl()}),
    "random": Arm(set={**OWN, "distill.student.batch.on_policy.temperature": 1e6}),
    "given": Arm(set={**OWN, "replay.builder.share": 0.0}),
    "on-policy": Arm(set={**OWN, "replay.builder.capacity": 20_000}),
}  # fmt: skip

claim = Claim(
    bed="oracle_lm", arms=ARMS,
    probes={
        "sequence_kl_reverse": sequence_kl_reverse(), "sequence_kl_forward": sequence_kl_forward(), "spoken": spoken()
    },
    says=(
        less("sequence_kl_reverse", "distillm", "forward-kl", by=0.05),
        less("sequence_kl_reverse", "distillm", "given", by=0.05), less("spoken", "distillm", "on-policy", by=20.0),
    ),
    set={"warm.steps": 120, "warm.batch_size": 64, "distill.steps": 150, "distill.batch_size": 64},
    tune=Tune("sequence_kl_reverse", dict.fromkeys(ARMS, RATES)),
    seeds=4, control="random",
)  # fmt: skip
