"""Claim: distilling the reviser of one's answers beats keeping right answers, and rewards alone, at equal samples.

Bed: the base player slips half as often when it has read that an attempt was wrong, and follows one that was right; an
attempt without its mark tells it nothing but what it has said. Every arm draws 512 answers.
"""

from __future__ import annotations

from limbeck.beds.hints import HINT, right_answer
from limbeck.parts.context import told
from limbeck.parts.informed import said_under
from limbeck.parts.policy import clipped_surrogate, graded, group_relative
from limbeck.parts.revision import attempted
from limbeck.parts.rollout import rollout
from limbeck.parts.subset import every_nth
from limbeck.parts.token import cross_entropy
from limbeck.parts.transcript import accepted, repeated
from limbeck.probes.language import answer_accuracy
from limbeck.recipe import Arm, Claim, Tune, more

RATES = {"student.optimizer.lr": (1e-4, 3e-4, 1e-3)}
said, mark = rollout(max_new_tokens=8), graded(verifier=right_answer())
reviser, read = told(column="attempt", template=HINT), attempted(right=".", wrong="!")
revised, kept = said_under(context=reviser, on_policy=said), accepted(verifier=right_answer())
none = {"distill.steps": 0, "distill.epochs": 0.0}

claim = Claim(
    bed="hints",
    arms={
        "sd-zero": Arm(), "revision": Arm(set=none),
        "rft": Arm(set={"revise.ask.rows": every_nth(n=2) >> said >> kept, "revise.learn.student.loss": cross_entropy(), **none}),
        "grpo": Arm(
            set={
                "revise.times": 0, "distill.steps": 16, "distill.batch_size": 4,
                "distill.student.batch": repeated(copies=8) >> said >> mark >> group_relative(copies=8),
                "distill.student.loss": clipped_surrogate(),
            }
        ),
        "unmarked": Arm(set={"distill.student.batch.attempted.right": "", "distill.student.batch.attempted.wrong": ""}),
    },
    probes={"accuracy": answer_accuracy(verifier=right_answer(), max_new_tokens=8, limit=0)},
    says=(
        more("accuracy", "sd-zero", "rft", by=0.05), more("accuracy", "sd-zero", "grpo", by=0.05),
        more("accuracy", "sd-zero", "revision", by=0.05),
    ),
    set={
        "revise.ask.rows": every_nth(n=8) >> said >> mark >> read >> revised >> kept,
        "revise.ask.chunk": 256, "revise.learn.student.loss.revision.context": reviser,
        "distill.student.batch": said >> mark >> read, "teacher.context": reviser,
        "distill.steps": 16, "distill.batch_size": 16, "past.every": 4,
    },
    tune=Tune("accuracy", dict.fromkeys(("sd-zero", "revision", "rft", "grpo", "unmarked"), RATES)),
    players={"student": "base"}, control="unmarked",
)  # fmt: skip
