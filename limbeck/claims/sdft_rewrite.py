"""Claim: a task is learnt as well from answers in one's own writing, and what was known before is kept.

Bed: two writings of one language; answers are right in either, so what is lost is skill and not style. The other
writing takes longer to learn than there are steps, so that references teach little of the task as well.
Where nothing is rewritten this is fine-tuning, so the baseline is the control.
"""

from __future__ import annotations

from limbeck.beds.styles import REQUEST, right_solution
from limbeck.parts.rewriting import rewritten
from limbeck.parts.rollout import rollout
from limbeck.probes.elsewhere import on_split
from limbeck.probes.language import answer_accuracy
from limbeck.recipe import Arm, Claim, Tune, more

RATES = {"student.optimizer.lr.start": (3e-4, 1e-3, 3e-3)}
right = answer_accuracy(verifier=right_solution(), max_new_tokens=10, limit=0)
own = rewritten(request=REQUEST, said=rollout(max_new_tokens=8), verifier=right_solution())

OWN = {"rewrite.rows": own, "rewrite.chunk": 256}

claim = Claim(
    bed="styles",
    arms={
        "rewritten": Arm(set=OWN), "sft": Arm("sft"),
        "start": Arm(set={**OWN, "distill.steps": 0, "distill.epochs": 0.0}),
    },
    probes={"target": right, "old": on_split(of=right, split="old")},
    says=(
        more("old", "rewritten", "sft", by=0.05), more("target", "rewritten", "sft", by=0.0),
        more("target", "rewritten", "start", by=0.2),
    ),
    set={"distill.steps": 100, "distill.batch_size": 32},
    tune=Tune("target", dict.fromkeys(("rewritten", "sft"), RATES)),
    control="sft",
)  # fmt: skip
