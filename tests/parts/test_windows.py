"""Windows: straight pieces of the exact flow, sampled by a step each, and differences of weights."""

from __future__ import annotations

import pytest
import torch

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.beds._nets import fresh
from limbeck.errors import BadValue, Mismatch
from limbeck.parts.solver import even, heun
from limbeck.parts.windows import add_delta, window_states
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen

ORACLE = load_bed("mog5").players["oracle"](0)
TEACHER = Players({"teacher": Player("teacher", frozen(), ORACLE)})


def data(n: int = 400) -> Batch:
    x = load_bed("mog5").data(0)["train"].take(torch.arange(n))["x"].double()
    return Batch({"x": x}, rng=Rng(("windows", 0), torch.arange(n)))


def test_a_line_joins_both_ends_of_the_exact_flow_in_its_window() -> None:
    borders = (1.0, 0.5, 0.2, 0.0)
    seen = window_states(solver=heun(), borders=borders, steps=60)(TEACHER, data())
    levels = torch.tensor(borders, dtype=torch.float64)
    k = torch.bucketize(seen.t, levels.flip(0))
    lo, hi = levels.flip(0)[k - 1], levels.flip(0)[k]
    assert k.unique().tolist() == [1, 2, 3] and ((lo <= seen.t) & (seen.t <= hi)).all()
    bottom = seen.x + (lo - seen.t)[:, None] * seen.velocity
    top = seen.x + (hi - seen.t)[:, None] * seen.velocity
    some = slice(0, 60)
    exact = ORACLE.mixture.flow_map(top[some], hi[some], lo[some], tol=1e-8)
    # a second way to the same end; trajectories that pass a ridge part, hence the median
    assert float((bottom[some] - exact).abs().median()) < 2e-4
    # the top of a window is noised data: its moments are those of the path
    upper = top[hi == 0.5]
    mean, cov = ORACLE.mixture.moments
    torch.testing.assert_close(upper.mean(0), 0.5 * mean, atol=0.15, rtol=0)
    torch.testing.assert_close(upper.T.cov(), 0.25 * cov + 0.25 * torch.eye(2).double(), atol=0.15, rtol=0)


def test_with_one_step_the_slope_is_the_teachers_at_the_top() -> None:
    seen = window_states(borders=even(4), steps=1)(TEACHER, data())
    hi = (seen.t * 4).ceil() / 4
    top = seen.x + (hi - seen.t)[:, None] * seen.velocity
    torch.testing.assert_close(TEACHER.teacher(Batch({"x": top, "t": hi}), "velocity"), seen.velocity)


@pytest.mark.parametrize("borders", [(1.0,), (0.0, 1.0), (1.0, 0.5, 0.5)])
def test_windows_that_do_not_fall_are_refused(borders: tuple[float, ...]) -> None:
    with pytest.raises(BadValue, match="borders of windows must fall"):
        window_states(borders=borders)(TEACHER, data(4))


def test_a_difference_of_weights_moves_another_net_by_as_much() -> None:
    nets = {name: fresh(seed, 2, width=8) for seed, name in enumerate(("student", "origin", "other"))}
    players = Players({name: Player(name, frozen(), net) for name, net in nets.items()})
    before = {k: v.clone() for k, v in nets["other"].state_dict().items()}
    _, figures = add_delta()(players, data(2), {})
    squares = 0.0
    for k, v in nets["other"].state_dict().items():
        delta = nets["student"].state_dict()[k] - nets["origin"].state_dict()[k]
        torch.testing.assert_close(v, before[k] + delta)
        squares += float(delta.double().square().sum())
    assert figures["delta"] == pytest.approx(squares**0.5)
    wider = Players({**players, "other": Player("other", frozen(), fresh(0, 2, width=9))})
    with pytest.raises(Mismatch, match="differ at 'trunk"):
        add_delta()(wider, data(2), {})
