"""Claim: with as much training, four straight steps sample the straight path better than the path of diffusion.

Each arm is trained and sampled at even times of its own path, as in the paper; the control is the other path. Bed: the
data are known exactly.
"""

from __future__ import annotations

from limbeck.parts.flow_matching import path_sample
from limbeck.parts.schedule import cosine
from limbeck.probes.distribution import sliced_w2
from limbeck.recipe import Arm, Claim, Tune, less
from limbeck.recipes.trajectory.flow_matching import recipe

GRID = {"student.optimizer.lr.start": (5e-3, 1e-2)}
ARMS = {"straight": Arm(), "diffusion": Arm(set=recipe.variants["diffusion"])}

claim = Claim(
    bed="mog8",
    set={"fit.steps": 600, "student.optimizer.lr": cosine(start=5e-3)},
    arms=ARMS,
    probes={"sw2": sliced_w2(draw=path_sample(steps=4))},
    says=(less("sw2", "straight", "diffusion", by=0.1),),
    tune=Tune("sw2", dict.fromkeys(ARMS, GRID)),
    control="diffusion",
)
