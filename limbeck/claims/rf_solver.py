"""Claim: at equal evaluations, steps of order two find the noise of data, and come back from it, nearer than Euler's.

Bed: trajectories that bend, known exactly. Twenty evaluations each way; a tenth is a fifth of a component's length.
Without its half-steps the rule is Euler's, so the baseline is the control.
"""

from __future__ import annotations

from limbeck.parts.solver import euler, even
from limbeck.probes.editing import displacement, inversion_error
from limbeck.recipe import Arm, Claim, less

claim = Claim(
    bed="mog5",
    set={"edit.rows.times": even(10), "edit.rows.target": 1.0, "edit.rows.kept": 0, "edit.chunk": 0},
    arms={"rf-solver": Arm(), "euler": Arm(set={"edit.rows.solver": euler(), "edit.rows.times": even(20)})},
    probes={"inversion": inversion_error(), "round trip": displacement()},
    says=(less("inversion", "rf-solver", "euler", by=0.1), less("round trip", "rf-solver", "euler", by=0.1)),
    no_tune="nothing is learned: both arms have even times and twenty evaluations each way",
    players={"student": "teacher"},
    control="euler",
)
