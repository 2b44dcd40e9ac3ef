"""Claim: of the three objectives the Lagrangian one teaches the most exact jumps; the control only matches the flow.

Bed: the flow map is known in closed form.
"""

from __future__ import annotations

from limbeck.parts.schedule import cosine
from limbeck.probes.trajectory import trajectory_error
from limbeck.recipe import Arm, Claim, Tune, less
from limbeck.recipes.trajectory.flow_map_self_distill import ESD, PSD

GRID = {"student.optimizer.lr.start": (3e-3, 5e-3, 8e-3, 1.2e-2)}
# learned weights are off, as in the code's experiments in two dimensions
QUICK = {"distill.student.learns": ("student",), "distill.steps": 300, "student.optimizer.lr": cosine(start=5e-3)}
FLOW = {"distill.student.batch.diagonal": 1.0}
ARMS = {"lsd": Arm(), "esd": Arm(set=ESD), "psd": Arm(set=PSD), "flow matching": Arm(set=FLOW)}

claim = Claim(
    bed="mog8",
    set=QUICK,
    arms=ARMS,
    probes={"error": trajectory_error()},
    says=(less("error", "lsd", "esd", by=0.01), less("error", "lsd", "psd", by=0.05)),
    tune=Tune("error", dict.fromkeys(ARMS, GRID)),
    control="flow matching",
)
