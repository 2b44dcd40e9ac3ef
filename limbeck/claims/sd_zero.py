"""Claim: distilling the reviser of one's answers beats keeping right answers, and rewards alone, at equal samples.

Bed: the base player errs with certainty, but half as often when it has read that its attempt was wrong; an attempt
without its mark tells it nothing but what it said. Every arm draws 512 answers, and the likeliest answers are marked,
so that mere certainty is no gain. The reviser's second thoughts are at the first wrong token, and not before it.
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
from limbeck.probes.hint_spans import step_that_matters
from limbeck.probes.language import answer_accuracy
from limbeck.probes.localisation import before_the_error
from limbeck.recipe import Arm, Claim, Tune, more, within

ARMS, RATES = ("sd-zero", "rft", "grpo", "revision", "unmarked"), {"student.optimizer.lr": (5e-4, 1e-3, 2e-3)}
BATCH, LEARN, ASK = "distill.student.batch", "revise.learn.student", "revise.ask.rows"
said, mark, kept = rollout(max_new_tokens=8), graded(verifier=right_answer()), accepted(verifier=right_answer())
reviser, read = told(column="attempt", template=HINT), attempted(right=".", wrong="!")
tried, none = said >> mark >> read, {"distill.steps": 0, "distill.epochs": 0.0}
eight = {"revise.times": 0, "distill.steps": 8, "distill.batch_size": 8}
twice, copied = every_nth(n=4) >> repeated(copies=2), repeated(copies=8) >> said >> mark >> group_relative(copies=8)

claim = Claim(
    bed="hints_misled",
    arms={
        "sd-zero": Arm(), "revision": Arm(set=none),
        "rft": Arm(set={ASK: twice >> said >> kept, f"{LEARN}.loss": cross_entropy(), **none}),
        "grpo": Arm(set={**eight, BATCH: copied, "distill.student.loss": clipped_surrogate()}),
        "unmarked": Arm(set={f"{BATCH}.attempted.right": "", f"{BATCH}.attempted.wrong": ""}),
    },
    probes={
        "accuracy": answer_accuracy(verifier=right_answer(), temperature=0.0, max_new_tokens=8, limit=0),
        "before": before_the_error(answered=tried, annotator=step_that_matters()),
    },
    says=(*(more("accuracy", "sd-zero", arm, by=0.05) for arm in ARMS[1:4]), within("before", "revision", 1 / 3)),
    set={
        ASK: every_nth(n=8) >> tried >> said_under(context=reviser, on_policy=said) >> kept, "revise.ask.chunk": 256,
        f"{LEARN}.loss.revision.context": reviser, BATCH: tried, "teacher.context": reviser,
        "distill.steps": 4, "distill.batch_size": 64, "past.every": 1,
    },
    tune=Tune("accuracy", dict.fromkeys(ARMS, RATES)),
    players={"student": "base"}, control="unmarked",
)  # fmt: skip
