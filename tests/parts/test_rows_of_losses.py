"""What losses of fields keep: rows stand alone, pictures are points, exact fields lose nothing, some stand still."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import UnknownName
from limbeck.part import Expr, part
from limbeck.parts import continuous, flow_matching, halving, hinge, mean_velocity, own_states, pairs
from limbeck.parts import sample_preference as sp
from limbeck.parts.adapters import guided_matching, guided_noised
from limbeck.parts.bootstrap import bootstrapped, boundary, noise_and_levels
from limbeck.parts.consistency import consistency, gap_weight, reverse_consistency
from limbeck.parts.distance import huber_each, pseudo_huber, squared
from limbeck.parts.expanded import expanded_divergence
from limbeck.parts.flowmap import LogWeight, triangle_states
from limbeck.parts.gan import Head
from limbeck.parts.general_multistep import General, end_regression
from limbeck.parts.langevin import displacement_matching, langevin_states
from limbeck.parts.plan import solved_ends
from limbeck.parts.ratio import Staircase, f_matching, ratio_drift
from limbeck.parts.scale_time import ScaleTime, exact_path, rmse_bound
from limbeck.parts.solver import even, heun
from limbeck.parts.states import like, noise_states, uniform_levels
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen

SHAPE, N = (2, 3, 2), 12
FIELDS = ("student", "teacher", "target", "critic", "reference")
INSIDE = uniform_levels(low=0.2, high=0.8)


class Field(nn.Module):
    """The field of one datum, c: x0 = c whatever is seen, and straight lines from it; bent coordinate by coordinate."""

    classes = 3

    def __init__(self, bend: float, off: float = 0.0) -> None:
        super().__init__()
        self.bend, self.off = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (bend, off))

    def forward(self, batch, want):
        x, s = batch["x"], batch.get("s", torch.zeros_like(batch["t"]))
        t, told = like(batch["t"], x), like(s + 0.3 * batch["y"], x)
        x0 = datum(x) + self.off + self.bend * (x + told).sin()
        v = (x - x0) / t.clamp(min=1e-6)
        features = (x + self.off).tanh().flatten(1)
        return {"x0": x0, "eps": x0 + v, "velocity": v, "features": features}


def datum(x: Tensor) -> Tensor:
    return torch.linspace(-1, 1, N, dtype=x.dtype).view(x.shape[1:]).expand_as(x)


def cast(bend: float = 0.4, solver: nn.Module | None = None) -> Players:
    # players differ from each other where the field is bent, and are all exact where it is not
    nets = {name: Field(bend * (1 + 0.1 * k), 0.2 * bend * k) for k, name in enumerate(FIELDS)} | {
        "ladder": halving.Ladder(4), "weights": LogWeight(4, 2),
        "path": flow_matching.straight_path(sigma_min=0.0)(None, None), "step": mean_velocity.DifferenceStep(1e-4, 0.0),
        "heads": hinge.FrozenHeads((N,), ("features",), 4, 0), "head": Head(N, 4, "features"), "usual": Staircase(3),
        "solver": copy.deepcopy(solver) or nn.Identity(),
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for p in (p for name in ("heads", "head", "weights") for p in nets[name].parameters()):
            nn.init.normal_(p, std=0.5)
    likes = Player("reward", frozen(), answer=lambda batch, want: {"reward": batch.x.flatten(1).mean(1)})
    return Players({name: Player(name, frozen(), net.double()) for name, net in nets.items()} | {"reward": likes})


def rows(n: int = 6, shape: tuple[int, ...] = SHAPE) -> Batch:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, N, dtype=torch.float64, generator=g).view(n, *shape)
    w = 1 + torch.rand(n, dtype=torch.float64, generator=g)
    return Batch({"x": x, "y": torch.arange(n) % 3, "w": w}, rng=Rng(("rows",), torch.arange(n)))


def of_datum(n: int = 6) -> Batch:
    batch = rows(n)
    return batch.with_(x=datum(batch.x))


@part
def neighbours(players: Players, batch: Batch) -> Batch:
    """A state with a neighbour on either side of the straight line between datum and noise, and a level below all."""
    t, e = 0.3 + 0.4 * batch.rng.uniform("level").view(-1).double(), batch.rng.normal("e", *batch.x.shape[1:]).double()
    levels = {"x": t, "near": t - 0.1, "far": t + 0.2}
    states = {name: like(1 - u, e) * batch.x + like(u, e) * e for name, u in levels.items()}
    return batch.with_(**states, t=t, r=t - 0.1, q=t + 0.2, s=t / 8, real=batch.x)


@dataclass(frozen=True)
class Case:
    """A loss on its states, and what its docstring says: what it needs, who stands still, whether exact fields win."""

    states: Expr
    loss: Expr
    needs: str = ""
    asks: str = ""
    still: str = ""
    exact: str = (
        "zero"  # "zero": and a student that is off loses; "equal": one that is off by a constant does not; or ""
    )
    solver: nn.Module | None = None

    def __call__(self, players: Players, batch: Batch) -> Tensor:
        with torch.no_grad():  # states are made without slopes, as in the loop
            seen = self.states(players, batch)
        return self.loss(players, seen.with_())


FREE, NOISE, LEVELS = triangle_states(), noise_states(), continuous.level_states(levels=INSIDE)
OWN, CHAINS = own_states.teacher_path(times=even(3), merge=2), sp.preferred_chains()
EDGED = neighbours()
CASES = {
    "flow matching": Case(flow_matching.path_states(least=0.1), flow_matching.flow_matching(), "velocity"),
    "huber": Case(flow_matching.path_states(least=0.1), flow_matching.huber_matching(c=0.1), "velocity"),
    "path weight": Case(flow_matching.path_states(), flow_matching.path_weight(), "pace", exact=""),
    "landing": Case(halving.landing_states(), halving.landing(), "landed", still="teacher"),
    "ends": Case(pairs.sampled_pairs(times=even(3)) >> pairs.pair_ends(), pairs.end_matching(), "real"),
    "lines": Case(pairs.independent_pairs() >> pairs.straight_states(levels=INSIDE), pairs.end_matching(), "real"),
    "inverted": Case(
        pairs.inverted_pairs(times=even(3, 0.1, 1.0)) >> pairs.straight_states(levels=INSIDE),
        flow_matching.flow_matching(), "velocity",
    ),
    "consistency": Case(EDGED, consistency(distance=squared()), "near r", "target", "target"),
    "untold": Case(EDGED, consistency(distance=huber_each(), told=False), "near r", "target", "target"),
    "backwards": Case(EDGED, reverse_consistency(distance=pseudo_huber(c=0.1)), "far q", "target", "target"),
    "gap": Case(EDGED, gap_weight(), exact=""),
    "bootstrapped": Case(noise_and_levels(gap=0.2), bootstrapped(), "", "teacher", "teacher"),
    "boundary": Case(noise_and_levels(), boundary(), "", "teacher"),
    "continuous": Case(LEVELS, continuous.continuous_consistency(), "", "teacher", "teacher", "equal"),
    "eased": Case(LEVELS, continuous.continuous_consistency(eased=True, soft=0.3), "", "teacher", "teacher", "equal"),
    "weighed": Case(FREE, continuous.level_weighed(loss=flow_matching.flow_matching().on(student="critic")),
                    "velocity", "weights", exact=""),
    "mean velocity": Case(FREE, mean_velocity.mean_velocity(), "velocity"),
    "by difference": Case(FREE, mean_velocity.mean_velocity_by_difference(), "velocity", "step"),
    "hinge heads": Case(LEVELS, hinge.hinge_discriminator(), "real", "heads", "student", ""),
    "hinge student": Case(LEVELS, hinge.hinge_generator(), "", "heads", exact=""),
    "penalty": Case(LEVELS, hinge.gradient_penalty(), "real", "heads", "student", ""),
    "difference": Case(LEVELS, hinge.difference_penalty(), "real", "heads", "student", ""),
    "one step": Case(OWN, own_states.one_step(step=1)),
    "given step": Case(OWN, own_states.one_step(step=2, own=False)),
    "all steps": Case(OWN, own_states.all_steps()),
    "bound": Case(exact_path(merge=2), rmse_bound(), "path", "solver", exact="equal", solver=ScaleTime(even(3))),
    "regression": Case(solved_ends(solver=heun(), times=even(5, 1.0, 0.1)), end_regression(), "end", "solver",
                       exact="equal", solver=General(even(3, 1.0, 0.1), 2, True)),
    "adapters": Case(guided_noised(levels=INSIDE), guided_matching(), "velocity"),
    "langevin": Case(langevin_states(steps=2, latent_rate=0.01), displacement_matching(), "target", "",
                     "teacher critic", "equal"),
    "f": Case(NOISE, f_matching(), "", "teacher critic head", "teacher critic head usual", "equal"),
    "drift": Case(NOISE, ratio_drift(), "", "usual head", "student critic head", ""),
    "expanded": Case(NOISE, expanded_divergence(), "", "teacher critic head", "head usual", "equal"),
    "chains": Case(CHAINS, sp.chain_preference(), "chain rival", "reference", "reference", ""),
    "samples": Case(CHAINS, sp.sample_preference(), "better worse", "reference", "reference", ""),
    "denoising": Case(sp.data_over_samples(), sp.better_denoising(), "better"),
}  # fmt: skip
each = pytest.mark.parametrize("name", CASES)


@each
def test_a_row_loses_the_same_alone_and_among_others(name: str) -> None:
    case, cut = CASES[name], 2
    whole, players = rows(), cast(solver=case.solver)
    found = case(players, whole)
    assert found.shape == (6,) and found.dtype == torch.float64 and found.isfinite().all()
    parts = [case(players, whole.rows(half)) for half in (slice(0, cut), slice(cut, 6))]
    torch.testing.assert_close(torch.cat(parts), found, rtol=1e-9, atol=1e-12)
    x = torch.where(torch.arange(6).view(-1, 1, 1, 1) < cut, whole.x, whole.x + 1)
    torch.testing.assert_close(case(players, whole.with_(x=x))[:cut], found[:cut], rtol=1e-9, atol=1e-12)


@each
def test_a_picture_loses_what_its_numbers_as_a_point_lose(name: str) -> None:
    case = CASES[name]
    found = [case(cast(solver=case.solver), rows(shape=shape)) for shape in (SHAPE, (N,), (N, 1))]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-9, atol=1e-12)


@each
def test_draws_come_from_the_rows_and_from_nothing_else(name: str) -> None:
    case, players = CASES[name], cast(solver=CASES[name].solver)
    before = torch.random.get_rng_state()
    first = case(players, rows())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(case(players, rows()), first)
    drawn = case(players, replace(rows(), rng=Rng(("another",), torch.arange(6))))
    assert name == "path weight" or (drawn != first).any()  # straight lines are gone along at one pace


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.exact])
def test_exact_fields_of_a_picture_lose_nothing(name: str) -> None:
    case = CASES[name]
    players = cast(0.0, case.solver)
    assert case(players, of_datum()).abs().max() < 1e-6
    with torch.no_grad():
        players.student.module.off += 0.3
    found = case(players, of_datum())
    assert (found > 1e-4).all() if case.exact == "zero" else found.abs().max() < 1e-6


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.still])
def test_no_slope_goes_to_players_that_stand_still(name: str) -> None:
    case, players = CASES[name], cast(solver=CASES[name].solver)
    for player in players.values():  # even if they were asked to learn
        player.turn("test", True)
    case(players, rows()).sum().backward()
    moved = {who for who, player in players.items() if any(p.grad is not None and p.grad.any() for p in player.params)}
    assert moved and not moved & set(case.still.split())


@each
def test_what_is_missing_is_named(name: str) -> None:
    case, players = CASES[name], cast(solver=CASES[name].solver)
    with torch.no_grad():
        seen = case.states(players, rows())
    for column in case.needs.split():
        left = replace(seen, columns={k: c for k, c in seen.columns.items() if k != column}, memo={})
        with pytest.raises(UnknownName, match=f"unknown column '{column}' in the batch"):
            case.loss(players, left)
    for who in case.asks.split():
        others = Players({k: p for k, p in players.items() if k != who})
        with pytest.raises(UnknownName, match=f"unknown player '{who}' in this run"):
            case.loss(others, seen.with_())
