"""Trajectory matching against what it must be: real training, finite differences, and itself with less memory."""

from __future__ import annotations

import itertools

import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from limbeck.adapters.modules import Plain
from limbeck.batch import Batch
from limbeck.data import Table
from limbeck.errors import BadData, BadValue, Mismatch
from limbeck.parts.descent import descent_step, fresh_weights, scores, unroll
from limbeck.parts.synthetic import Learnt, begin_at, class_centres, learnt_rate, learnt_rows, real_rows, write_rows
from limbeck.parts.trajectory_matching import expert_trajectories, trajectory_distance
from limbeck.players import Player, Players
from limbeck.probes.dataset import retrained_accuracy
from limbeck.rng import Rng
from limbeck.roles import frozen

RATE = 0.3


def small_net() -> Plain:
    torch.manual_seed(0)
    return Plain(nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))).double()


def rows(n: int = 12) -> Batch:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(n, 1, 2, 2, generator=g, dtype=torch.float64)
    return Batch({"x": x, "y": torch.arange(n) % 3}, rng=Rng(("test",), torch.arange(n)))


def players(x: Tensor, y: Tensor, rate: float = RATE) -> Players:
    nets = {
        "student": small_net(),
        "images": Learnt(x.clone(), y),
        "rate": Learnt(torch.tensor(rate, dtype=torch.float64)),
    }
    return Players({name: Player(name, frozen(), net) for name, net in nets.items()})


def trajectories(batch: Batch, **hyper: float) -> Batch:
    made = expert_trajectories(**{"experts": 2, "epochs": 3, "lr": RATE, "batch_size": 12} | hyper)
    path = made(players(batch.x, batch.y), batch).path
    return Batch({"path": path}, rng=Rng(("steps",), torch.arange(len(path))))


def test_real_rows_at_the_experts_rate_repeat_the_expert() -> None:
    # One step of the whole data is an epoch: M epochs of the expert are M steps on the same rows, so nothing is left.
    batch = rows()
    experts = trajectories(batch)
    given = players(batch.x, batch.y)
    assert trajectory_distance(steps=2, ahead=2, starts=2)(given, experts).max() < 1e-20
    assert trajectory_distance(steps=1, ahead=2, starts=2)(given, experts).min() > 1e-3


def test_standing_still_leaves_the_whole_distance() -> None:
    # At rate 0 the net ends where it began: the distance in units of the expert's own is 1.
    batch = rows()
    left = trajectory_distance(steps=3, ahead=1, starts=3)(players(batch.x, batch.y, rate=0.0), trajectories(batch))
    assert torch.allclose(left, torch.ones(2, dtype=torch.float64))


def test_an_expert_is_what_sgd_makes_of_its_rows() -> None:
    # torch.optim.SGD over the same start and the same order of rows, the short last batch included.
    batch = rows()
    path = trajectories(batch, epochs=2, batch_size=5).path[1]
    net = small_net()
    nn.utils.vector_to_parameters(path[0], net.parameters())
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    for epoch in range(2):
        order = batch.rng.fold(1, epoch).uniform("order").view(-1).argsort()
        for some in order.split(5):
            optimizer.zero_grad()
            cross_entropy(net({"x": batch.x[some]}, frozenset({"logits"}))["logits"], batch.y[some]).backward()
            optimizer.step()
        after = nn.utils.parameters_to_vector(net.parameters())
        assert torch.allclose(after, path[epoch + 1], atol=1e-12)


def test_experts_differ_in_start_and_order() -> None:
    path = trajectories(rows(), batch_size=4).path
    assert not torch.allclose(path[0, 0], path[1, 0])
    assert path.shape == (2, 4, 43)  # 4 x 5 + 5 + 5 x 3 + 3 weights


@pytest.mark.parametrize("recompute", [False, True])
def test_its_gradient_is_that_of_finite_differences(recompute: bool) -> None:
    batch = rows()
    experts, few = trajectories(batch), players(batch.x[:3], batch.y[:3])
    loss = trajectory_distance(steps=4, ahead=2, starts=2, recompute=recompute)

    def value(x: Tensor, rate: Tensor) -> Tensor:
        few.images.module.value, few.rate.module.value = nn.Parameter(x), nn.Parameter(rate)  # type: ignore[union-attr]
        return loss(few, experts).sum()

    x, rate = batch.x[:3].clone(), torch.tensor(RATE, dtype=torch.float64)
    value(x, rate).backward()
    found = few.images.value.grad.flatten(), few.rate.value.grad
    eps = 1e-5
    for i in range(x.numel()):
        bump = torch.zeros_like(x).flatten().index_fill_(0, torch.tensor(i), eps).view_as(x)
        slope = (value(x + bump, rate) - value(x - bump, rate)) / (2 * eps)
        assert abs(found[0][i] - slope) < 1e-7
    slope = (value(x, rate + eps) - value(x, rate - eps)) / (2 * eps)
    assert abs(found[1] - slope) < 1e-7


def test_recomputing_gives_the_same_gradient_also_in_the_start() -> None:
    net, batch = small_net(), rows(6)
    begin = fresh_weights(net, 0)[0]
    grads = []
    for recompute in (False, True):
        w, x = begin.clone().requires_grad_(), batch.x.clone().requires_grad_()
        rate = torch.tensor(RATE, dtype=torch.float64, requires_grad=True)
        unroll(net, w, x, batch.y, rate, steps=7, recompute=recompute).sin().sum().backward()
        grads.append([t.grad for t in (w, x, rate)])
    for kept, again in zip(*grads, strict=True):
        assert kept is not None and again is not None and torch.allclose(kept, again, rtol=1e-12, atol=1e-14)


def test_recomputing_remembers_no_graph() -> None:
    # What hangs on the end is one weight vector a step and the rows, whatever a step itself needs.
    net, batch = small_net(), rows(6)
    x, rate = batch.x.clone().requires_grad_(), torch.tensor(RATE, dtype=torch.float64)
    end = unroll(net, fresh_weights(net, 0)[0], x, batch.y, rate, steps=7, recompute=True)
    assert end.grad_fn is not None
    kept = end.grad_fn.saved_tensors  # type: ignore[attr-defined]
    assert sum(t.numel() for t in kept) == 7 * 43 + x.numel() + len(batch.y) + 1
    assert [f for f, _ in end.grad_fn.next_functions if f is not None] == [torch.autograd.graph.get_gradient_edge(x)[0]]


def test_a_step_keeps_no_graph_where_gradients_are_off() -> None:
    net, batch = small_net(), rows()
    with torch.no_grad():
        end = descent_step(net, fresh_weights(net, 0)[0], batch.x, batch.y, torch.tensor(RATE))
    assert not end.requires_grad


def test_scores_with_its_own_weights_are_the_nets() -> None:
    net, batch = small_net(), rows()
    own = nn.utils.parameters_to_vector(net.parameters())
    assert torch.equal(scores(net, own, batch.x), net({"x": batch.x}, frozenset({"logits"}))["logits"])


def test_a_net_that_cannot_be_drawn_afresh_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))

    with pytest.raises(Mismatch, match=r"module of 'scale' has no reset_parameters"):
        fresh_weights(Odd(), 0)


def test_fresh_weights_leave_net_and_generator_alone() -> None:
    net = small_net()
    before, state = [p.clone() for p in net.parameters()], torch.get_rng_state()
    assert torch.equal(fresh_weights(net, "a"), fresh_weights(net, "a"))
    assert all(map(torch.equal, before, net.parameters())) and torch.equal(state, torch.get_rng_state())


def test_short_trajectories_are_refused() -> None:
    batch = rows()
    with pytest.raises(BadValue, match="need 4 epochs, got 3"):
        trajectory_distance(steps=1, ahead=2, starts=3)(players(batch.x, batch.y), trajectories(batch))


def test_real_rows_are_rows_of_their_class() -> None:
    batch = rows()
    chosen = real_rows(per_class=2, lr=0.5)(None, batch)
    assert chosen.y.tolist() == [0, 0, 1, 1, 2, 2] and chosen.lr.tolist() == [0.5] * 6
    where = [int((batch.x == x).flatten(1).all(1).nonzero()) for x in chosen.x]
    assert len(set(where)) == 6 and batch.y[where].tolist() == chosen.y.tolist()
    with pytest.raises(BadData, match="class 0 has 4 rows, 5 of each class are wanted"):
        real_rows(per_class=5)(None, batch)


def test_centres_are_the_best_of_every_way_to_share_a_class() -> None:
    # Four points of a class in two clusters: try all eight ways.
    batch = rows()
    found = class_centres(per_class=2)(None, batch)
    for c in range(3):
        own = batch.x[batch.y == c].flatten(1)
        ways = (torch.tensor((0, *way)) for way in itertools.product((0, 1), repeat=3))
        best = min(sum(float(((p := own[way == k]) - p.mean(0)).square().sum()) for k in way.unique()) for way in ways)
        assert KMeans(2, init=found.x[found.y == c].flatten(1).numpy(), n_init=1).fit(own.numpy()).inertia_ == (
            pytest.approx(best)
        )
        gaps = torch.cdist(own, found.x[found.y == c].flatten(1)).min(1).values.square().sum()
        assert float(gaps) == pytest.approx(best)


def test_learning_rows_begin_where_they_are_told_and_are_written_down() -> None:
    batch = rows()
    own = players(batch.x, batch.y)
    images = learnt_rows(per_class=2)(own, batch.rows(slice(2)))
    assert images.value.shape == (6, 1, 2, 2) and images.y.tolist() == [0, 0, 1, 1, 2, 2]
    given = {"student": own.student.module, "images": images, "rate": learnt_rate(start=0.25)(own, batch)}
    live = Players({name: Player(name, frozen(), net) for name, net in given.items()})
    chosen = real_rows(per_class=2)(None, batch)
    assert begin_at()(live, chosen, {}) == ({}, {})
    written = write_rows()(live, batch)
    assert torch.equal(written.x, chosen.x) and torch.equal(written.y, chosen.y) and written.lr.tolist() == [0.25] * 6
    with pytest.raises(Mismatch, match="images"):
        begin_at()(live, real_rows(per_class=1)(None, batch), {})


def test_nets_that_learn_from_the_test_rows_know_them() -> None:
    # Three far-apart points are learnt by every net; at rate 0 nets stay as they were drawn.
    x = torch.tensor([[5.0, 0, 0, 0], [0, 5, 0, 0], [0, 0, 5, 0]], dtype=torch.float64)
    data = {name: Table({"x": x, "y": torch.arange(3), "lr": torch.full((3,), 0.2)}) for name in ("test", "synthetic")}
    given = players(x, torch.arange(3))
    assert retrained_accuracy(nets=3, steps=100)(given, data) == 1.0
    data["synthetic"].columns["lr"] = torch.zeros(3)
    starts = fresh_weights(small_net(), *(("retrained", k) for k in range(3)))
    right = [(scores(small_net(), w, x).argmax(-1) == torch.arange(3)).double().mean() for w in starts]
    assert retrained_accuracy(nets=3, steps=5)(given, data) == pytest.approx(float(sum(right)) / 3)
