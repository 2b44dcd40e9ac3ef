"""Claim: a draft distilled on its own texts has more of its proposals kept than one that only learned to write.

Bed: all texts can be enumerated, so the share that is kept is exact; it is taken where the target writes. 0.05 more
are a tenth more tokens a call of the target, the least that the paper gains. One thing is the other way round here:
texts of the target ("teacher-data") teach more than the draft's own, for they are where the share is taken, they are
the texts of the bed, and they cost nothing.
The control learns on texts of random tokens.
"""

from __future__ import annotations

from limbeck.parts.rollout import rollout
from limbeck.parts.token import forward_kl, sequence_mean
from limbeck.probes.speculative import acceptance
from limbeck.recipe import Arm, Claim, Tune, more

RATES = {"student.optimizer.lr.start": (1e-2, 3e-2, 1e-1)}
BATCH, LOSS = "distill.student.batch.on_policy", "distill.student.loss"
OWN = {f"{BATCH}.max_new_tokens": 6}

claim = Claim(
    bed="oracle_lm",
    arms={
        "on-policy": Arm(set=OWN), "forward-kl": Arm(set={**OWN, LOSS: sequence_mean() * forward_kl()}),
        "teacher-data": Arm(set={BATCH: rollout(max_new_tokens=6).on(student="teacher")}),
        "random": Arm(set={**OWN, f"{BATCH}.temperature": 1e6}),
        "undistilled": Arm(set={"distill.steps": 0, "distill.epochs": 0.0}),
        "seqkd": Arm("seqkd", set={"ask.rows.max_new_tokens": 6}), "sft": Arm("sft", set={"distill.steps": 180}),
    },
    probes={"acceptance": acceptance()},
    says=(
        more("acceptance", "on-policy", "undistilled", by=0.05),
        more("acceptance", "on-policy", "sft", by=0.01), more("acceptance", "on-policy", "seqkd", by=0.01),
        more("acceptance", "on-policy", "forward-kl", by=0.01),
    ),
    set={"warm.steps": 60, "warm.batch_size": 64, "distill.steps": 120, "distill.batch_size": 64},
    tune=Tune(
        "acceptance",
        dict.fromkeys(("on-policy", "random", "forward-kl", "teacher-data", "undistilled", "seqkd", "sft"), RATES),
    ),
    seeds=4, control="random",
)  # fmt: skip
