"""Claim: five steps of DDIM that lean come nearer to the exact trajectories than five, and than eight, that do not.

Bed: trajectories that bend, known exactly. A tenth less at the end is a fifth of a component's length; the times of
every arm are tuned. In the control each step has the number of another, the last first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.part import part
from limbeck.parts.lean import fit_lean, leaning
from limbeck.parts.plan import planned_sample
from limbeck.parts.solver import even, karras, shifted
from limbeck.players import Players
from limbeck.probes.endpoint import endpoint_error
from limbeck.recipe import Arm, Claim, Tune, less


def grids(n: int) -> dict[str, tuple[tuple[float, ...], ...]]:
    """The times among which an arm of n steps may choose."""
    return {"solver.builder.times": (even(n), shifted(n, 3.0), shifted(n, 0.5), karras(n, 0.05, 20.0))}


@part
def turned_lean(players: Players, batch: Batch, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Find how far the steps lean, and let them do so in reverse order; the first has nothing to lean away from.

    l_i <- l_{n - i}, i = 1 .. n - 1

    Args:
        players: `solver`, which is changed, and the student, whose field it is.
        batch: rows, each of which gives one trajectory.
        state: kept as it is.

    Returns:
        The state, and the error before.
    """
    state, error = fit_lean()(players, batch, state)
    amounts = players.solver.lean
    with torch.no_grad():
        amounts[1:] = amounts[1:].flip(0)
    return state, error


PLAIN = {"fit.steps": 0}
TURNED = {"fit.step": turned_lean().on(student="teacher")}

claim = Claim(
    bed="mog5",
    arms={"d-ddim": Arm(), "ddim": Arm(set=PLAIN), "ddim-8": Arm(set=PLAIN), "turned": Arm(set=TURNED)},
    probes={"error": endpoint_error(draw=planned_sample(solver=leaning()).on(student="teacher"))},
    says=(less("error", "d-ddim", "ddim", by=0.1), less("error", "d-ddim", "ddim-8", by=0.02)),
    tune=Tune("error", {"d-ddim": grids(5), "ddim": grids(5), "ddim-8": grids(8), "turned": grids(5)}),
    control="turned",
)  # fmt: skip
