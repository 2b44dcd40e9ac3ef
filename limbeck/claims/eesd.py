"""Claim: an exit that learns what the whole model says has more of its drafts kept than one that learns the corpus.

Bed: a character model of six layers, left after the first. The share that is kept is exact at every token; it is taken
where the model writes. 0.02 more are a twentieth of what such an exit has refused.
"""

from __future__ import annotations

from limbeck.probes.drafted import expected_share
from limbeck.recipe import Arm, Claim, Tune, more

RATES = {"student.optimizer.lr.start": (1e-3, 3e-3, 1e-2)}
OWN = {"ask.rows.max_new_tokens": 56}

claim = Claim(
    bed="chars_deep",
    arms={
        "self-distilled": Arm(set=OWN),
        "own-text": Arm("eesd/hard-labels", set=OWN),
        "corpus": Arm("eesd/given-data", set={**OWN, "distill.student.loss.teacher": 0.0}),
    },
    probes={"expected_share": expected_share(rows=128, max_new_tokens=56)},
    says=(
        more("expected_share", "self-distilled", "corpus", by=0.02),
        more("expected_share", "self-distilled", "own-text", by=0.01),
    ),
    set={"student.builder.layers": 1, "distill.steps": 100},
    tune=Tune("expected_share", dict.fromkeys(("self-distilled", "own-text", "corpus"), RATES)),
    seeds=3, control="own-text",
)  # fmt: skip
