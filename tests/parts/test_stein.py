"""Stein's variates against quadrature, finite differences and the best weights there are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.errors import BadValue, UnknownName
from limbeck.loop import Loop, Options
from limbeck.part import Part, part
from limbeck.parts.optimizer import adam
from limbeck.parts.scene import Particles, particle_views, particles
from limbeck.parts.score_direction import score_distillation
from limbeck.parts.states import like, uniform_levels
from limbeck.parts.stein import Variate, nearness, resemblance, stein_moment, stein_score, stein_variate, variate
from limbeck.players import Player, Players
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.rng import Rng
from limbeck.roles import built, frozen

TEACHER = load_bed("mog8c").players["oracle"](0)
X, N = torch.tensor([0.3, 0.4], dtype=torch.float64), 4096


class Eye(nn.Module):
    """A smooth judge that looks at data of any shape."""

    def __init__(self, size: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(3)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(size, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        for p in self.net.parameters():
            p.data = torch.randn(p.shape, generator=rng).double()

    def forward(self, batch: Batch, want: frozenset[str]) -> dict[str, Tensor]:
        return dict.fromkeys(want, self.net.to(batch["x"].dtype)(batch["x"]))


@part
def one(players: Players, batch: Batch) -> Tensor:
    """A constant baseline."""
    return torch.ones_like(batch.t)


def cast(**nets: nn.Module) -> Players:
    return Players({name: Player(name, frozen(), net) for name, net in nets.items()})


def at(level: float) -> Part:
    return uniform_levels(low=level, high=level)


def world(n: int = N, seed: int = 0, dtype: torch.dtype = torch.float64, **nets: nn.Module) -> tuple[Players, Batch]:
    """Rows that all look at one point, with the exact score of the mixture, prompt 0."""
    own = {
        "scene": Particles(X.to(dtype)[None, None].clone()),
        "teacher": TEACHER,
        "variate": Variate(10, (2,)).to(dtype),
    }
    rows = {"x": X.to(dtype).repeat(n, 1), "y": torch.zeros(n, dtype=torch.int64)}
    return cast(**own | nets), Batch(rows, rng=Rng(("seed", seed), torch.arange(n)))


def directions(loss: Part, players: Players, batch: Batch) -> Tensor:
    """g of each row: the slope of the loss with respect to what is seen."""
    seen = batch.x.clone().requires_grad_()  # the scene is that point
    looked = Players({**players, "scene": Player("scene", frozen(), answer=lambda b, want: {"x0": seen})})
    return torch.autograd.grad(loss(looked, batch.with_()).sum(), seen)[0]


def spread(g: Tensor) -> float:
    return float(g.var(0).sum())


def fitted(loss: Part, rows: int = 64, steps: int = 200, **nets: nn.Module) -> Variate:
    """The weights after some steps of Adam on fresh noise, the scene standing still."""
    players, _ = world(**nets)
    net: Variate = players.variate.module  # type: ignore[assignment]
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - step / steps)
        _, batch = world(rows, seed=1000 + step)
        optimizer.zero_grad()
        loss(players, batch).mean().backward()
        optimizer.step()
    return net


@pytest.mark.parametrize(("baseline", "error"), [(nearness(), 1e-10), (one(), 1e-10), (resemblance(), 1e-6)])
def test_the_mean_of_a_variate_is_zero_by_quadrature(baseline: Part, error: float) -> None:
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    e = torch.cartesian_prod(torch.from_numpy(nodes), torch.from_numpy(nodes))
    share = torch.cartesian_prod(*[torch.from_numpy(weights / math.sqrt(2 * math.pi))] * 2).prod(1)
    for t in (0.1, 0.5, 0.9):
        level = torch.full((len(e),), t, dtype=torch.float64)
        seen = Batch({"x": (1 - t) * X + t * e, "clean": X.expand_as(e), "t": level})
        xi = stein_variate(cast(judge=Eye(2)), seen, e, baseline)
        assert (share[:, None] * xi).sum(0).abs().max() < error < (share[:, None] * xi.abs()).sum(0).min()


def test_a_constant_baseline_gives_the_noise() -> None:
    players, batch = world(5)
    e = batch.rng.normal("e", 2)
    seen = batch.with_(t=torch.full((5,), 0.3), clean=batch.x)
    assert torch.equal(stein_variate(players, seen, e, one()), e)


@pytest.mark.parametrize("baseline", [nearness(), resemblance()])
def test_slopes_are_finite_differences(baseline: Part) -> None:
    rng, h = torch.Generator().manual_seed(5), 1e-6
    x, clean, e, way = torch.randn(4, 6, 2, 3, generator=rng).double()
    players, t = cast(judge=Eye(6)), torch.linspace(0.1, 0.9, 6).double()

    def phi(x: Tensor) -> Tensor:
        return baseline(players, Batch({"x": x, "clean": clean, "t": t}))

    xi = stein_variate(players, Batch({"x": x, "clean": clean, "t": t}), e, baseline)
    slope = (like(phi(x), e) * e - xi) / like(t, e)
    torch.testing.assert_close((slope * way).flatten(1).sum(1), (phi(x + h * way) - phi(x - h * way)) / (2 * h))


def test_what_weights_and_baselines_learn_are_finite_differences() -> None:
    eye = Eye(2)
    players, batch = world(7, judge=eye)
    loss = stein_moment(scale=2.0, baseline=resemblance())
    players.variate.weight.data[:, 1] = 0.5
    for tensor in (players.variate.weight, eye.net[1].weight, eye.net[3].weight):
        assert torch.autograd.gradcheck(lambda _: loss(players, batch.with_()).sum(), (tensor,))


def test_it_starts_as_score_distillation_on_data_of_any_shape() -> None:
    bed = load_bed("splat")
    scene, teacher = bed.players["scene"](0), bed.players["teacher"](0)
    rows = bed.data(0)["train"].take(torch.arange(6))
    batch = Batch(rows, rng=Rng(("seed",), torch.arange(6)))
    players = cast(scene=scene, teacher=teacher, variate=variate()(Players({}), batch))
    sds, own = (
        torch.autograd.grad(loss(players, batch.with_()).sum(), list(scene.parameters()))
        for loss in (score_distillation(scale=2.0), stein_score(scale=2.0))
    )
    for a, b in zip(sds, own, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        assert a.abs().max() > 0


def test_for_one_gaussian_the_best_weight_leaves_no_noise_at_all() -> None:
    # eps = t (x_t - a m) / (a^2 s^2 + t^2), in which e stands t^2 / (a^2 s^2 + t^2) times
    t, mean, s = 0.3, torch.tensor([[1.0, -1.0]]), 0.5
    a, var = 1 - t, (1 - t) ** 2 * 0.25 + t**2
    players, batch = world(teacher=ExactField(Mixture(torch.ones(1), mean, s)))
    players.variate.weight.data[:, 0] = t**2 / var
    g = directions(stein_score(levels=at(t), scale=1.0), players, batch)
    due = t**2 / (a**2 + t**2) * t * a * (X - mean[0].double()) / var
    torch.testing.assert_close(g, due.expand_as(g), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("level", [0.25, 0.55, 0.85])
def test_the_mean_stays_and_the_variance_falls_to_what_the_best_weights_leave(level: float) -> None:
    hyper = {"levels": at(level), "scale": 1.0}
    players, batch = world()
    sds = directions(score_distillation(**hyper), players, batch)
    players.variate.load(fitted(stein_moment(**hyper)).state_dict())
    own = directions(stein_score(**hyper), players, batch)
    gap = own - sds
    assert (gap.mean(0).abs() < 4 * gap.std(0) / math.sqrt(N)).all()
    # the best weights for these very draws: least squares on both variates
    left = 0.0
    plain = players.variate.weight.data
    columns = []
    for m in (0, 1):  # what either variate adds to the direction
        players.variate.weight.data = torch.zeros_like(plain)
        raw = directions(stein_score(**hyper), players, batch)
        players.variate.weight.data[:, m] = 1
        columns.append(raw - directions(stein_score(**hyper), players, batch))
    for d in (0, 1):
        seen = torch.stack([c[:, d] for c in columns] + [torch.ones(N).double()], 1)
        left += float((raw[:, d : d + 1] - seen @ torch.linalg.lstsq(seen, raw[:, d : d + 1]).solution).var())
    assert left <= spread(own) < left + 0.05 * (spread(sds) - left) and spread(own) < min(
        0.5 * spread(sds), spread(raw)
    )


def test_the_direction_in_half_precision_is_that_in_double() -> None:
    found = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        players, batch = world(200, dtype=dtype, judge=Eye(2))
        players.variate.weight.data[:, 1] = 0.5
        for baseline in (nearness(), resemblance()):
            g = directions(stein_score(scale=1.0, baseline=baseline), players, batch)
            assert g.dtype == dtype and g.isfinite().all()
            found[baseline, dtype] = g.double()
            if dtype != torch.float64:
                gap = (g.double() - found[baseline, torch.float64]).abs().max()
                assert gap < (0.1 if dtype == torch.bfloat16 else 1e-4)


@part
def eye(players: Players, batch: Batch) -> nn.Module:
    """Build a judge."""
    return Eye(2).float()


LOSS = {"levels": uniform_levels(low=0.05, high=0.95), "scale": 1.0}


@pytest.mark.parametrize("learnt", [False, True])
def test_scene_and_variate_learn_in_turn(learnt: bool) -> None:
    loss = LOSS | ({"baseline": resemblance()} if learnt else {})
    rate = adam(lr=3e-2)
    roles = {"scene": built(particles(count=4), adam(lr=1e-2)), "teacher": frozen(), "variate": built(variate(), rate)}
    phases = (
        Phase("scene", ("scene",), stein_score(**loss), particle_views()),
        Phase("variate", ("variate", "judge") if learnt else ("variate",), stein_moment(**loss), particle_views()),
    )
    recipe = Recipe(
        key="stein", title="", paper="", family="", kind="", learns="", teacher="",
        players=roles | ({"judge": built(eye(), rate)} if learnt else {}),
        stages=(Learn("distill", phases, steps=60, batch_size=64),),
    )  # fmt: skip
    loop = Loop(recipe, {"teacher": TEACHER}, {"train": load_bed("mog8c").data(0)["train"]}, Options(seed=1))
    loop.execute()
    loop.players.turn("probe")
    players, rows = loop.players, load_bed("mog8c").data(1)["test"].take(torch.arange(2000))
    batch = Batch(dict(rows), rng=Rng(("probe",), torch.arange(2000)))
    with torch.no_grad():
        own = float(stein_moment(**loss)(players, batch).mean())
        fresh = Players({**players, "variate": Player("variate", frozen(), Variate(10, (2,)))})
        sds = float(stein_moment(**loss)(fresh, batch.with_()).mean())
    assert 0 < own < 0.85 * sds


def test_what_cannot_be_is_refused() -> None:
    players, batch = world(3)
    with pytest.raises(BadValue, match="pieces=0"):
        variate(pieces=0)(players, batch)
    without = Players({name: player for name, player in players.items() if name != "variate"})
    with pytest.raises(UnknownName, match="variate"):
        stein_score(scale=1.0)(without, batch.with_())
