"""Claim: a student that learns on its own answers ends nearer to the teacher, in reverse KL, than on given ones.

Bed: all sequences can be enumerated, so the divergence between two models of them is exact. The control
learns on answers of as many random tokens.
"""

from __future__ import annotations

from limbeck.probes.enumerated import sequence_kl_reverse
from limbeck.recipe import Arm, Claim, Tune, less

RATES = {"student.optimizer.lr.start": (1e-2, 3e-2, 1e-1)}
REVERSE = {"distill.student.loss.beta": 1.0, "distill.student.batch.on_policy.max_new_tokens": 6}
RANDOM = {"distill.student.batch.on_policy.temperature": 1e6}

claim = Claim(
    bed="oracle_lm",
    arms={
        "on-policy": Arm(set=REVERSE), "off-policy": Arm(set={**REVERSE, "distill.student.batch.share": 0.0}),
        "random": Arm(set=REVERSE | RANDOM),
        "kd": Arm("kd"), "seqkd": Arm("seqkd", set={"ask.rows.max_new_tokens": 6}), "sft": Arm("sft"),
    },
    probes={"sequence_kl_reverse": sequence_kl_reverse()},
    says=(
        less("sequence_kl_reverse", "on-policy", "kd", by=0.2),
        less("sequence_kl_reverse", "on-policy", "seqkd", by=0.2),
        less("sequence_kl_reverse", "on-policy", "sft", by=0.2),
        less("sequence_kl_reverse", "on-policy", "off-policy", by=0.2),
    ),
    set={"warm.steps": 120, "warm.batch_size": 64, "distill.steps": 150, "distill.batch_size": 64},
    tune=Tune("sequence_kl_reverse", dict.fromkeys(("on-policy", "off-policy", "random", "kd", "seqkd", "sft"), RATES)),
    seeds=6, control="random",
)  # fmt: skip
