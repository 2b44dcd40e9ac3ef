"""Claim: the divergence of whole answers ends smaller where what a token leads to is learnt too.

Bed: all sequences can be enumerated, so the divergence between two models of them is exact. The language-modelling
term is off: there is no pre-training text whose skill it would keep. Every arm takes 160 updates; four of them share
the same answers but in the baselines; "single" has the exact part of every token alone, and the control values tokens
by what those of other answers led to.
"""

from __future__ import annotations

from limbeck.parts.shuffled import shuffled
from limbeck.probes.enumerated import sequence_kl_reverse
from limbeck.recipe import Arm, Claim, Tune, less
from limbeck.recipes.lm.minillm import states

EPOCHS = [f"distill.epoch-{k}" for k in range(1, 5)]
SHORT = {f"{epoch}.batch.mixed_rollout.max_new_tokens": 6 for epoch in EPOCHS}
OWN = {**SHORT, **{f"{epoch}.loss.language.weight": 0.0 for epoch in EPOCHS}, "distill.steps": 40}
RATES = {"student.optimizer.lr.start": (1e-2, 3e-2, 1e-1)}
SHUFFLED = states >> shuffled(columns=("advantage",))

claim = Claim(
    bed="oracle_lm",
    arms={
        "minillm": Arm(set=OWN), "shuffled": Arm(set={**{f"{e}.batch": SHUFFLED for e in EPOCHS}, **OWN}),
        "single": Arm(set={**OWN, **{f"{e}.loss.long.weight": 0.0 for e in EPOCHS}}),
        "kd": Arm("kd"), "seqkd": Arm("seqkd", set={"ask.rows.max_new_tokens": 6}),
    },
    probes={"sequence_kl_reverse": sequence_kl_reverse()},
    says=(
        less("sequence_kl_reverse", "minillm", "kd", by=0.2),
        less("sequence_kl_reverse", "minillm", "seqkd", by=0.2),
        less("sequence_kl_reverse", "minillm", "single", by=0.1),
    ),
    set={"warm.steps": 120, "warm.batch_size": 64, "distill.steps": 160, "distill.batch_size": 64},
    tune=Tune("sequence_kl_reverse", dict.fromkeys(("minillm", "single", "shuffled", "kd", "seqkd"), RATES)),
    seeds=5, control="shuffled",
)  # fmt: skip
