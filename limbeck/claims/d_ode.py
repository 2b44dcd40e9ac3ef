"""Claim: five steps of DDIM that lean come nearer to the exact trajectories than five, and than eight, that do not.

Bed: trajectories that bend, known exactly. A tenth less at the end is a fifth of a component's length; the times of
every arm are tuned.
"""

from __future__ import annotations

from limbeck.parts.lean import leaning
from limbeck.parts.plan import planned_sample
from limbeck.parts.solver import even, karras, shifted
from limbeck.probes.endpoint import endpoint_error
from limbeck.recipe import Arm, Claim, Tune, less


def grids(n: int) -> dict[str, tuple[tuple[float, ...], ...]]:
    """The times among which an arm of n steps may choose."""
    return {"solver.builder.times": (even(n), shifted(n, 3.0), shifted(n, 0.5), karras(n, 0.05, 20.0))}


PLAIN = {"fit.steps": 0}

claim = Claim(
    bed="mog5",
    arms={"d-ddim": Arm(), "ddim": Arm(set=PLAIN), "ddim-8": Arm(set=PLAIN)},
    probes={"error": endpoint_error(draw=planned_sample(solver=leaning()).on(student="teacher"))},
    says=(less("error", "d-ddim", "ddim", by=0.1), less("error", "d-ddim", "ddim-8", by=0.02)),
    tune=Tune("error", {"d-ddim": grids(5), "ddim": grids(5), "ddim-8": grids(8)}),
    control="ddim",
)  # fmt: skip
