"""The sampler that goes back to its first noise."""

from __future__ import annotations

import torch

from limbeck.batch import Batch
from limbeck.parts.endpoint import endpoint
from limbeck.parts.solver import even, heun, solve
from limbeck.players import Player, Players
from limbeck.roles import frozen


def test_the_endpoint_sampler_is_exact_for_straight_flows_and_for_one_step() -> None:
    still = Players({"student": Player("student", frozen(), answer=lambda b, w: {"x0": torch.full_like(b.x, 2.0)})})
    z = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    states = solve(still.student, Batch({"x": z}), endpoint(), z, [torch.tensor(t) for t in (1.0, 0.4, 0.0)])
    torch.testing.assert_close(states[1], 0.6 * 2.0 + 0.4 * z)
    torch.testing.assert_close(states[2], torch.full_like(z, 2.0))
    # where x0 does not change along a line, it is the way of every solver
    mapped = Player(
        "s", frozen(), answer=lambda b, w: {"x0": torch.ones_like(b.x), "velocity": (b.x - 1) / b.t[:, None]}
    )
    ours, other = (solve(mapped, Batch({"x": z}), one, z, even(4)) for one in (endpoint(), heun()))
    torch.testing.assert_close(ours[-1], other[-1])
