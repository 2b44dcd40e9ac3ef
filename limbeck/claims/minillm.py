"""Claim: the divergence of whole answers ends smaller where what a token leads to is learnt too.

Bed: all sequences can be enumerated, so the divergence between two models of them is exact. The language-modelling
term is off: there is no pre-training text whose skill it would keep.
"""

from __future__ import annotations

from limbeck.probes.enumerated import sequence_kl_reverse
from limbeck.recipe import Arm, Claim, Tune, less

RATES = {"student.optimizer.lr.start": (1e-2, 3e-2, 1e-1)}
EPOCHS = [f"distill.epoch-{k}" for k in range(1, 5)]
SIZE = {
    f"{e}.{p}": v for e in EPOCHS for p, v in (("batch.mixed_rollout.max_new_tokens", 6), ("loss.language.weight", 0.0))
}

claim = Claim(
    bed="oracle_lm",
    arms={
        "minillm": Arm(set={**SIZE, "distill.steps": 150}),
        "single": Arm(set={**SIZE, **{f"{e}.loss.long.weight": 0.0 for e in EPOCHS}}),
        "gkd": Arm("gkd", set={"distill.student.loss.beta": 1.0, "distill.student.batch.on_policy.max_new_tokens": 6}),
        "kd": Arm("kd"), "seqkd": Arm("seqkd", set={"ask.rows.max_new_tokens": 6}),
    },
    probes={"sequence_kl_reverse": sequence_kl_reverse()},
    says=(
        less("sequence_kl_reverse", "minillm", "gkd", by=0.2),
        less("sequence_kl_reverse", "minillm", "kd", by=0.2),
        less("sequence_kl_reverse", "minillm", "seqkd", by=0.2),
    ),
    set={"warm.steps": 120, "warm.batch_size": 64, "distill.steps": 150, "distill.batch_size": 64},
    tune=Tune("sequence_kl_reverse", dict.fromkeys(("minillm", "single", "gkd", "kd", "seqkd"), RATES)),
    seeds=6, control="single",
)  # fmt: skip
