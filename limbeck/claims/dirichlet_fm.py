"""Claim: letters that the flow along Dirichlet paths makes of noise are better taught than those of straight paths.

Bed: sequences with exact likelihoods, and the exact fields of both flows, asked equally often. The flow itself in one
pass says what it expects behind pure noise; the control learns the letters of other noise.
"""

from __future__ import annotations

from limbeck.parts.dirichlet import dirichlet_states, flow_pairs, straight_pairs
from limbeck.parts.optimizer import adam
from limbeck.parts.schedule import cosine
from limbeck.parts.shuffled import shuffled
from limbeck.probes.sequences import chain_nll, word_divergence
from limbeck.recipe import Arm, Claim, Tune, less

GRID = {"student.optimizer.lr.start": (1e-3, 3e-3)}
ARMS = {
    "distilled": Arm(),
    "straight": Arm(set={"pairs.rows": straight_pairs(steps=20)}),
    "flow in one pass": Arm(set={"distill.student.batch": dirichlet_states(scale=0.0)}),
    "shuffled": Arm(set={"pairs.rows": flow_pairs(steps=20) >> shuffled(columns=("tokens",))}),
}

claim = Claim(
    bed="hairpins",
    set={"pairs.rows.steps": 20, "distill.steps": 500, "student.optimizer": adam(lr=cosine(start=1e-3))},
    arms=ARMS,
    probes={"nll": chain_nll(), "words": word_divergence()},
    says=(less("nll", "distilled", "straight", by=0.05), less("nll", "distilled", "flow in one pass", by=0.5)),
    tune=Tune("nll", dict.fromkeys(ARMS, GRID)),
    control="shuffled",
)
