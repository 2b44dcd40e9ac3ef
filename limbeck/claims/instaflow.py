"""Claim: distilling the straightened flow gives a better one-step student than distilling the guided teacher at once.

Both begin as the same flow of the data, as the paper begins with the teacher, and learn from as many pairs for as many
steps; the baseline spends all of them on distillation. In the control noise and samples are paired anew, so that
nothing is straightened. Bed: the guided teacher is exact, and is what the samples are measured against.
"""

from __future__ import annotations

from limbeck.parts.pairs import sampled_pairs
from limbeck.parts.schedule import cosine
from limbeck.parts.shuffled import shuffled
from limbeck.parts.solver import euler, even, heun, ode_sample
from limbeck.parts.states import few_step
from limbeck.probes.samplers import sampler_gap
from limbeck.probes.straightness import curvature, transport_cost
from limbeck.recipe import Arm, Claim, Tune, less
from limbeck.recipes.trajectory.instaflow import recipe

GUIDED = ode_sample(solver=euler(), times=even(25)).on(student="guided")
GAP = sampler_gap(draw=few_step(), other=GUIDED, rows=4_000)
GRID = {"student.optimizer.lr.start": (5e-3, 1e-2)}
ASKED = sampled_pairs(solver=heun(), times=even(16)).on(teacher="guided") >> shuffled(columns=("e",))
ARMS = {
    "straightened": Arm(), "shuffled": Arm(set={"ask.rows": ASKED}),
    "direct": Arm(set={**recipe.variants["direct"], "distill.steps": 600}),
}  # fmt: skip

claim = Claim(
    bed="mog8c",
    set={
        "guided.builder.scale": 3.0, "flow.builder.scale": 1.0, "ask.rows.solver": heun(), "ask.rows.times": even(16),
        "ask.chunk": 0, "straighten.again.chunk": 0, "begin.times": 1, "begin.flow.steps": 300,
        "straighten.reflow.steps": 300, "distill.steps": 300, "distill.batch_size": 256,
        "student.optimizer.lr": cosine(start=5e-3),
    },
    arms=ARMS,
    probes={"gap": GAP, "bend": curvature(), "cost": transport_cost()},
    says=(less("gap", "straightened", "direct", by=0.02),),
    tune=Tune("gap", dict.fromkeys(ARMS, GRID)),
    control="shuffled",
)  # fmt: skip
