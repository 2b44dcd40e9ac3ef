"""Recalibrated lists: against plain formulas, and a teacher whose right temperature is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.beds import majority
from limbeck.errors import BadValue
from limbeck.kernels.head import TokenHead
from limbeck.kernels.renormalised import renormalised_kl_pair
from limbeck.parts.calibration import (
    Constant,
    calibration_error,
    least_ece,
    remember_likeliest,
    renormalised_kl,
    smoothed,
    softened,
    tempered,
)
from limbeck.players import Player, Players
from limbeck.probes.classification import ece
from limbeck.roles import cached, frozen


def lists(q: Tensor) -> Batch:
    """A row whose second token has the list q (K,)."""
    logp = torch.stack((torch.zeros_like(q), q.log()))[None]
    ids = torch.arange(len(q)).expand(1, 2, -1)
    mask = torch.tensor([[False, True]])
    return Batch({"tokens": torch.zeros(1, 2, dtype=torch.long), "mask": mask, "cache.ids": ids, "cache.logp": logp})


def game(c: float = 1.0, **more: Player) -> Players:
    return Players({"calibration": Player("calibration", frozen(), Constant(c)), "cache": Player(
        "cache", cached(), answer=lambda b, want: {w: b[f"cache.{w}"] for w in want}
    ), **more})  # fmt: skip


def probabilities(batch: Batch) -> Tensor:
    return batch["cache.logp"][0, 1].exp()


@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=5), st.floats(0.5, 4.0))
@settings(max_examples=30, deadline=None)
def test_recalibrations_are_their_formulas(raw: list[float], c: float) -> None:
    q = torch.tensor(raw, dtype=torch.float64)
    q /= 1.25 * q.sum()  # a list leaves some mass out
    power = q ** (1 / float(torch.tensor(c)))
    torch.testing.assert_close(probabilities(tempered()(game(c), lists(q))), power / power.sum())
    soft = (q / float(torch.tensor(c))).exp()
    torch.testing.assert_close(probabilities(softened()(game(c), lists(q))), soft / soft.sum())
    even, d = q / q.sum(), 0.1
    expected = even + d / (len(q) - 1)
    expected[even.argmax()] = even.max() - d
    torch.testing.assert_close(probabilities(smoothed(d=d)(game(), lists(q))), expected)


def test_smoothing_refuses_to_take_more_than_there_is() -> None:
    with pytest.raises(BadValue, match="d < 1 / 2"):
        smoothed(d=0.5)(game(), lists(torch.tensor([0.5, 0.5])))


def test_shorter_lists_stay_shorter() -> None:
    batch = lists(torch.tensor([0.6, 0.4, 1.0]))
    logp = batch["cache.logp"].clone()
    logp[..., 2] = -1e30
    for recalibrated in (tempered(), softened()):
        made = recalibrated(game(2.0), batch.with_(**{"cache.logp": logp}))
        assert float(probabilities(made)[2]) == 0 and float(probabilities(made).sum()) == pytest.approx(1)


class Fixed(nn.Module):
    """A student whose logits are its weights (T, V)."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.weight, self.vocab = nn.Parameter(logits), logits.shape[-1]

    def forward(self, batch: Any, want: frozenset[str]) -> dict[str, Any]:
        hidden = torch.eye(len(self.weight), dtype=self.weight.dtype)[None]
        return {"head": TokenHead(hidden, self.weight.mT)}


def test_the_loss_is_kl_over_the_list_alone() -> None:
    logits = torch.tensor([[1.0, -2.0, 0.5, 9.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    student = Player("student", frozen(), Fixed(logits))
    batch = lists(torch.tensor([0.5, 0.25, 0.2], dtype=torch.float64))
    (found,) = renormalised_kl().on(teacher="cache").total(game(student=student), batch).values()
    p, q = probabilities(batch), logits[0, :3].softmax(-1)
    p = p / p.sum()
    torch.testing.assert_close(found, (p * (p / q).log()).sum())
    found.backward()
    expected = torch.zeros_like(logits)
    expected[0, :3] = q - p
    torch.testing.assert_close(student.module.weight.grad, expected)


def test_the_derivative_is_that_of_the_value() -> None:
    ids, p = torch.tensor([[2, 0, 5], [1, 3, 0]]), torch.tensor([[0.5, 0.3, 0.2], [0.9, 0.1, 0.0]]).double()
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, slope = renormalised_kl_pair(z, ids, p.log())
    for n, v in ((0, 2), (0, 1), (1, 3), (1, 0)):
        ends = []
        for step in (1e-6, -1e-6):
            moved = z.clone()
            moved[n, v] += step
            ends.append(renormalised_kl_pair(moved, ids, p.log())[0][n])
        assert float((ends[0] - ends[1]) / 2e-6) == pytest.approx(float(slope[n, v]), abs=1e-8)
    assert float(slope[1, 0]) == 0  # what is padding is no token


def test_the_error_is_that_of_the_probe_of_classifiers() -> None:
    logits = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    y = torch.randint(4, (300,), generator=torch.Generator().manual_seed(1))
    from limbeck.data import Table

    players = {"student": lambda rows, want: rows.x}
    confidence, said = logits.double().softmax(-1).max(-1)
    found = calibration_error(confidence, said == y, 10)
    assert found == pytest.approx(ece(bins=10)(players, {"test": Table({"x": logits, "y": y})}))


# -- where the truth is known -----------------------------------------------------------------------------------------


def asked(k: int = 5, teacher: Any = None) -> tuple[Players, Batch]:
    student = Player("student", frozen(), majority.student(0))
    players = game(student=student, teacher=Player("teacher", frozen(), teacher or majority.teacher()))
    rows = majority.splits(0)["valid"]
    return players, remember_likeliest(k=k)(players, Batch(dict(rows.take(torch.arange(len(rows))))))


def test_the_likeliest_tokens_are_kept() -> None:
    _, batch = asked(k=3)
    logp = majority.teacher().rule(batch.tokens, batch.tokens > 0)[:, -2]
    top = logp.topk(3, -1)
    here = batch["cache.logp"][:, -1]
    torch.testing.assert_close(here, top.values)
    torch.testing.assert_close(logp.gather(-1, batch["cache.ids"][:, -1]), top.values)
    assert float(here.exp().sum(-1).mean()) > 0.95  # the mass of the list


def test_the_temperature_is_found_that_the_teacher_is_too_sure_by() -> None:
    players, batch = asked()
    _, figures = least_ece()(players, batch, {})
    assert figures["temperature"] == pytest.approx(majority.SHARP, abs=0.5)
    assert float(players.calibration(batch.with_(), "value")) == pytest.approx(figures["temperature"])
    _, one = least_ece(temperatures=(1.0,))(players, batch, {})
    assert figures["ece"] < 0.03 and one["ece"] > 0.15
    with pytest.raises(BadValue, match="above 0"):
        least_ece(temperatures=(0.0, 1.0))(players, batch, {})


def test_a_teacher_that_is_right_is_left_as_it_is() -> None:
    players, batch = asked(teacher=majority.oracle())
    _, figures = least_ece()(players, batch, {})
    assert figures["temperature"] <= 1.2


def test_a_cache_on_disk_gives_the_same_lists(tmp_path: Path) -> None:
    from limbeck.adapters.cache import TargetCache
    from limbeck.adapters.recalled import Recalled, about_teacher
    from limbeck.parts.sparse import likeliest

    net = majority.teacher()
    cache = TargetCache(tmp_path / "targets", about_teacher(net, "counted", likeliest(k=6), 1e-3))
    (_, plain), (_, stored) = asked(k=3), asked(k=3, teacher=Recalled(cache, net))
    torch.testing.assert_close(stored["cache.logp"], plain["cache.logp"], rtol=0, atol=2e-3)


def test_the_recipe_of_the_bed_knows_the_truth() -> None:
    rows = majority.splits(0)["test"]
    batch = Batch(dict(rows.take(torch.arange(len(rows)))))
    p = majority.oracle().rule(batch.tokens, batch.tokens > 0)[:, -2, majority.ANSWER : majority.ANSWER + 4].exp()
    counts = torch.tensor([[q.count(x) for x in "abcd"] for q in batch["question"]])
    torch.testing.assert_close(p / p.sum(1, keepdim=True), counts.double().softmax(-1).float(), rtol=1e-4, atol=1e-5)
    right = torch.tensor(["ABCD".index(a) for a in batch["answer"]])
    expected = float(p.max(1).values.mean())
    assert float((p.argmax(1) == right).float().mean()) == pytest.approx(expected, abs=3 * math.sqrt(0.25 / len(right)))
