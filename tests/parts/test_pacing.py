"""Pass rates, weights and the ratio of signal to noise against what can be counted or known in closed form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from limbeck.batch import Batch
from limbeck.beds.chain import base, problems, right_answer, rows
from limbeck.data import Table
from limbeck.errors import BadData, BadValue
from limbeck.parts.classification import cross_entropy
from limbeck.parts.pacing import beta_kernel, pace, paced, rated
from limbeck.parts.rollout import rollout
from limbeck.parts.transcript import answers, marks, repeated
from limbeck.players import Player, Players
from limbeck.probes.gradient import gradient_snr, row_gradients, signal_to_noise
from limbeck.roles import frozen
from tests.conftest import Net


@given(st.floats(0.1, 4.0), st.floats(0.1, 4.0))
def test_the_weight_is_highest_where_the_beta_density_is(alpha: float, beta: float) -> None:
    p = torch.linspace(0, 1, 2001, dtype=torch.float64)
    w = beta_kernel(p, alpha, beta)
    assert w[0] == w[-1] == 0 and p[w.argmax()].item() == pytest.approx(alpha / (alpha + beta), abs=1e-3)
    density = torch.distributions.Beta(alpha + 1, beta + 1).log_prob(p[1:-1])
    assert (density - w[1:-1].log()).std() < 1e-6


def test_exponents_of_zero_keep_every_prompt_alike_and_negative_ones_are_refused() -> None:
    p = torch.tensor([0.0, 0.5, 1.0])
    assert beta_kernel(p, 0.0, 0.0).tolist() == [1.0, 1.0, 1.0] and beta_kernel(p, 0.0, 1.0)[0] == 1
    with pytest.raises(BadValue, match="exponents of at least 0"):
        beta_kernel(p, -1.0, 1.0)


def test_weights_have_mean_one_and_hopeless_and_mastered_prompts_go() -> None:
    batch = Batch({"pass_rate": torch.tensor([0.0, 0.25, 0.5, 1.0]), "name": ["a", "b", "c", "d"]})
    kept = paced()(Players({}), batch)
    assert kept["name"] == ["b", "c"] and kept.weight.mean().item() == pytest.approx(1.0)
    assert (kept.weight[1] / kept.weight[0]).item() == pytest.approx(0.25 / 0.1875)
    assert paced(alpha=0.0, beta=0.0)(Players({}), batch).weight.tolist() == [1.0] * 4
    assert paced()(Players({}), Batch({"pass_rate": torch.tensor([0.0, 1.0])})).size == 0


def test_a_weighted_loss_is_the_weighted_mean() -> None:
    net = Net()
    game = Players({"student": Player("student", frozen(), net)})
    batch = Batch({"x": torch.randn(4, 2), "y": torch.arange(4) % 3, "weight": torch.tensor([0.0, 1.0, 2.0, 1.0])})
    by_hand = (torch.nn.functional.cross_entropy(net.body(batch.x), batch.y, reduction="none") * batch.weight).mean()
    assert (pace() * cross_entropy()).total(game, batch)["loss"].item() == pytest.approx(by_hand.item(), abs=1e-6)


def test_pass_rates_are_the_share_of_right_answers() -> None:
    game = Players({"student": Player("student", frozen(), base())})
    batch = Batch(dict(rows(problems(6, "train", 0)).columns))
    said = rollout(max_new_tokens=6)
    found = rated(said=said, verifier=right_answer(), copies=4)(game, batch)
    assert torch.equal(found.tokens, batch.tokens) and found["question"] == batch["question"]
    many = said(game, repeated(copies=4)(game, batch))
    counted = marks(answers(game.student, many), many, right_answer()).view(6, 4).sum(1)
    assert torch.allclose(found.pass_rate.double(), counted / 4) and 0 < counted.sum() < 24
    smooth = rated(said=said, verifier=right_answer(), copies=4, smooth=1.0)(game, batch)
    assert torch.allclose(smooth.pass_rate.double(), (counted + 1) / 6, atol=1e-6)


def test_the_ratio_of_gaussian_gradients_is_the_known_one() -> None:
    mean, rows_ = torch.full((50,), 0.2), 4000
    draw = torch.Generator().manual_seed(0)
    noisy = mean + torch.randn(rows_, 50, generator=draw)
    assert signal_to_noise(noisy) == pytest.approx(50 * 0.04 / 50, rel=0.1)
    alone = [signal_to_noise(torch.randn(8, 50, generator=draw)) for _ in range(400)]
    assert abs(sum(alone) / 400) < 0.01  # without signal it is 0 on average, however few the rows
    with pytest.raises(BadData, match="at least 2 rows, got 1"):
        signal_to_noise(noisy[:1])


def test_gradients_of_rows_add_up_to_that_of_the_batch() -> None:
    net = Net().requires_grad_(False)
    game = Players({"student": Player("student", frozen(), net, trainable=[True] * 4)})
    columns: dict[str, Tensor] = {"x": torch.randn(5, 2), "y": torch.arange(5) % 3, "mask": torch.ones(5, 1)}
    found = row_gradients(game, columns, cross_entropy())
    assert not any(p.requires_grad for p in net.parameters())
    net.requires_grad_(True)
    torch.nn.functional.cross_entropy(net.body(columns["x"]), columns["y"]).backward()
    whole = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    assert torch.allclose(found.mean(0), whole, atol=1e-6)


def test_the_probe_reads_only_rows_of_its_range() -> None:
    net = Net()
    game = Players({"student": Player("student", frozen(), net)})
    columns: dict[str, Tensor] = {
        "x": torch.randn(6, 2), "y": torch.arange(6) % 3, "mask": torch.ones(6, 1),
        "pass_rate": torch.tensor([0.0, 0.5, 0.5, 0.5, 1.0, 1.0]),
    }  # fmt: skip
    data = {"rated": Table(columns)}
    middle = gradient_snr(loss=cross_entropy())(game, data)
    by_hand = signal_to_noise(row_gradients(game, {k: c[1:4] for k, c in columns.items()}, cross_entropy()))
    assert middle == pytest.approx(by_hand) and gradient_snr(low=0.6, high=0.9, loss=cross_entropy())(game, data) == 0.0
