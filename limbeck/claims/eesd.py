"""Claim: an exit that learns what the whole model says has more of its drafts kept than one that learns the corpus.

Bed: a character model of six layers, left after the first. The share that is kept is exact at every token; it is taken
where the model writes. 0.02 more are a twentieth of what such an exit has refused.
The control asks the model about random text.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.rollout import rollout
from limbeck.parts.token import cross_entropy
from limbeck.parts.trace import first
from limbeck.probes.drafted import expected_share
from limbeck.recipe import Arm, Claim, Tune, more

RATES = {"student.optimizer.lr.start": (3e-3, 1e-2)}
OWN = {"ask.rows": first(rows=1024) >> rollout(max_new_tokens=32).on(student="teacher"), "ask.chunk": 0}
HARD = {"distill.student.loss": terms(labels=cross_entropy())}
RANDOM = {"ask.rows": first(rows=1024) >> rollout(max_new_tokens=32, temperature=1e6).on(student="teacher")}

claim = Claim(
    bed="chars_deep",
    arms={
        "self-distilled": Arm(set=OWN),
        "random text": Arm(set=OWN | RANDOM),
        "own-text": Arm(set={**OWN, **HARD}),
        "corpus": Arm(set={**OWN, **HARD, "distill.data": "train"}),
    },
    probes={"expected_share": expected_share(rows=128, max_new_tokens=32)},
    says=(
        more("expected_share", "self-distilled", "corpus", by=0.02),
        more("expected_share", "self-distilled", "own-text", by=0.01),
    ),
    set={"student.builder.layers": 1, "distill.steps": 60},
    tune=Tune("expected_share", dict.fromkeys(("self-distilled", "random text", "own-text", "corpus"), RATES)),
    seeds=3, control="random text",
)  # fmt: skip
