"""Claim: wrong answers of the teacher, unlearnt, teach more than its right ones learnt for longer.

Bed: the teacher slips in every sixth step or so, and every answer can be checked; the student begins as its equal.
0.01 of all answers is a tenth of the errors that imitation leaves.
"""

from __future__ import annotations

from limbeck.beds.chain import right_answer
from limbeck.parts.rollout import rollout
from limbeck.parts.transcript import repeated
from limbeck.probes.language import answer_accuracy
from limbeck.recipe import Arm, Claim, Tune, more

verifier = right_answer()
said = (repeated(copies=4) >> rollout(max_new_tokens=6)).on(student="teacher")

claim = Claim(
    bed="chain",
    arms={"redi": Arm(), "imitation": Arm(set={"contrast.student.loss.alpha": 0.0})},
    probes={"accuracy": answer_accuracy(verifier=verifier, samples=2, limit=0, max_new_tokens=6)},
    says=(more("accuracy", "redi", "imitation", by=0.01),),
    set={
        "asking.ask.rows": said, "asking.ask.chunk": 512, "right.rows.verifier": verifier,
        "apart.rows.verifier": verifier, "reference.optimizer.lr.peak": 1e-3, "first.imitate.steps": 100,
        "first.imitate.batch_size": 64, "contrast.steps": 80, "contrast.batch_size": 32,
    },
    tune=Tune("accuracy", dict.fromkeys(("redi", "imitation"), {"student.optimizer.lr.peak": (1e-4, 3e-4, 1e-3)})),
    seeds=4, players={"student": "base", "teacher": "base"}, control="imitation",
)  # fmt: skip
