"""Claim: a pruned model that learns from what the whole one wrote again keeps more of its old skills than one that
learns from the references; and the block of layers chosen by angle costs less than the middle.

Bed: two writings of one language; answers are right in either, so what is lost is skill and not style.
Answers are the references where nothing is rewritten, so that arm is the control.
"""

from __future__ import annotations

from limbeck.beds.styles import REQUEST, right_solution
from limbeck.parts.rewriting import never, rewritten
from limbeck.parts.rollout import rollout
from limbeck.probes.elsewhere import on_split
from limbeck.probes.language import answer_accuracy, nll
from limbeck.recipe import Arm, Claim, Tune, less, more

RATES = {"student.optimizer.lr.start": (3e-4, 1e-3, 3e-3)}
RAW = {"distill.steps": 0, "distill.epochs": 0.0}
right = answer_accuracy(verifier=right_solution(), max_new_tokens=10, limit=0)
own, kept = (
    rewritten(request=REQUEST, said=rollout(max_new_tokens=8), verifier=check).on(student="teacher")
    for check in (right_solution(), never())
)

claim = Claim(
    bed="styles",
    arms={
        "self-data": Arm(), "sft": Arm(set={"rewrite.rows": kept}),
        "pruned": Arm(set=RAW), "middle": Arm(set={**RAW, "prune.steps": 0}),
    },
    probes={"target": right, "old": on_split(of=right, split="old"), "old nll": on_split(of=nll(), split="old")},
    says=(
        more("old", "self-data", "sft", by=0.05), more("target", "self-data", "sft", by=0.0),
        more("target", "self-data", "pruned", by=0.05),
        less("old nll", "pruned", "middle", by=0.1),
    ),
    set={
        "student.builder.share": 4 / 6, "rewrite.rows": own, "rewrite.chunk": 256,
        "distill.steps": 100, "distill.batch_size": 32,
    },
    tune=Tune("target", {"self-data": RATES, "sft": RATES}),
    control="sft",
)  # fmt: skip
