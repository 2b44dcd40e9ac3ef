"""Claim: wrong answers, unlearnt, teach more than right ones learnt for longer; as much unlearnt as learnt breaks down.

Bed: the teacher slips in every sixth step or so, and every answer can be checked; the student begins as its equal.
0.01 of all answers is a tenth of the errors that imitation leaves. The highest rate of the grid is where the paper
finds that symmetric weights collapse, so two arms are held to it. The control unlearns as many answers, right or wrong.
"""

from __future__ import annotations

from limbeck.beds.chain import right_answer
from limbeck.parts.rollout import rollout
from limbeck.parts.shuffled import tossed
from limbeck.parts.transcript import repeated
from limbeck.probes.language import answer_accuracy
from limbeck.recipe import Arm, Claim, Tune, more

verifier = right_answer()
said = (repeated(copies=4) >> rollout(max_new_tokens=6)).on(student="teacher")

RATE, ALPHA = "student.optimizer.lr.peak", "contrast.student.loss.alpha"
RATES = {RATE: (1e-4, 3e-4, 1e-3)}

claim = Claim(
    bed="chain",
    arms={
        "redi": Arm(), "imitation": Arm(set={ALPHA: 0.0}), "any answers": Arm(set={"apart.rows.verifier": tossed()}),
        "redi at once": Arm(set={RATE: 1e-3}), "symmetric at once": Arm(set={RATE: 1e-3, ALPHA: 1.0}),
    },
    probes={"accuracy": answer_accuracy(verifier=verifier, samples=3, limit=0, max_new_tokens=6)},
    says=(
        more("accuracy", "redi", "imitation", by=0.01),
        more("accuracy", "redi at once", "symmetric at once", by=0.05),
    ),
    set={
        "asking.ask.rows": said, "asking.ask.chunk": 512, "right.rows.verifier": verifier,
        "apart.rows.verifier": verifier, "reference.optimizer.lr.peak": 1e-3, "first.imitate.batch_size": 64,
        "contrast.steps": 80,
    },
    tune=Tune("accuracy", dict.fromkeys(("redi", "imitation", "any answers"), RATES)),
    players={"student": "base", "teacher": "base"}, control="any answers",
)  # fmt: skip
