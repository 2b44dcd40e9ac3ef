"""Claim: a student over characters finds pieces of held-out text as likely as a teacher over BPE tokens does.

Bed: the teacher is exact, so that the distance to it is the distance to the truth, but for the texts that its tokens
leave out. The control gives each chunk the teacher's likelihood of the next one.
"""

from __future__ import annotations

from limbeck.parts.chunks import displaced, in_teacher_tokens, joined
from limbeck.probes.chunks import bits_gap, chunk_gap
from limbeck.recipe import Arm, Claim, Tune, less

RATES = {"student.optimizer.lr.start": (1e-2, 3e-2)}
ARMS = ("alm", "sft", "uld", "displaced")

claim = Claim(
    bed="lexicon",
    arms={
        "alm": Arm(), "sft": Arm("sft"), "uld": Arm("uld"),
        "displaced": Arm(set={"align.rows": in_teacher_tokens() >> joined() >> displaced()}),
    },
    probes={"chunk_gap": chunk_gap(), "bits_gap": bits_gap()},
    says=(
        less("chunk_gap", "alm", "sft", by=0.1), less("chunk_gap", "alm", "uld", by=0.1),
        less("bits_gap", "alm", "sft", by=0.03),
    ),
    set={"distill.steps": 150, "distill.batch_size": 16, "student.optimizer.lr.warmup": 0.1},
    tune=Tune("chunk_gap", dict.fromkeys(ARMS, RATES)),
    seeds=3, control="displaced",
)  # fmt: skip
