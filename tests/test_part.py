"""Parts compose, print themselves, refuse what they do not know, and reduce over the global batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limbeck.batch import Batch, Moment
from limbeck.errors import BadData, BadValue, BrokenRecipe, UnknownName
from limbeck.part import part, terms
from limbeck.players import Players

NOBODY = Players({})


@part
def row_loss(players: Players, batch: Batch, *, scale: float = 1.0, power: int = 1) -> Tensor:
    """A loss per row.

    scale x^power
    """
    return scale * batch.x**power


@part
def token_loss(players: Players, batch: Batch, *, scale: float = 1.0) -> Tensor:
    return scale * batch.z


@part
def fused_loss(players: Players, batch: Batch, weight: Tensor, *, scale: float = 1.0) -> Tensor:
    return (weight * scale * batch.z).sum()


@part
def row_weight(players: Players, batch: Batch, *, factor: float = 2.0) -> Tensor:
    return factor * batch.w


@part
def ramp(at: Moment, *, top: float = 1.0) -> float:
    return top * at.progress


@part
def doubled(players: Players, batch: Batch, *, k: float = 2.0) -> Batch:
    return batch.with_(x=k * batch.x)


def rows(n: int = 4) -> Batch:
    x = torch.arange(1.0, n + 1)
    return Batch({"x": x, "w": 1 / x})


def tokens() -> Batch:
    mask = torch.tensor([[False, True, True], [False, True, False]])
    return Batch({"z": torch.tensor([[9.0, 1.0, 2.0], [9.0, 3.0, 9.0]]), "mask": mask, "w": torch.tensor([1.0, 10.0])})


def total(expr: object, batch: Batch) -> float:
    return float(sum(expr.total(NOBODY, batch).values()))  # type: ignore[attr-defined]


def test_rows_are_averaged() -> None:
    assert total(row_loss(), rows()) == pytest.approx(2.5)


def test_tokens_are_averaged_over_targets_only_whatever_lies_elsewhere() -> None:
    assert total(token_loss(), tokens()) == pytest.approx(2.0)
    bad = tokens().with_(z=tokens().z.where(tokens()["mask"], torch.nan))
    assert total(token_loss(), bad) == pytest.approx(2.0)


def test_a_fused_loss_is_the_plain_one() -> None:
    for expr in (lambda loss: loss, lambda loss: row_weight() * loss, lambda loss: 3.0 * (row_weight() * loss)):
        assert total(expr(fused_loss()), tokens()) == pytest.approx(total(expr(token_loss()), tokens()))


def test_weights_go_down_to_rows() -> None:
    assert total(row_weight() * row_loss(), rows()) == pytest.approx(2.0)  # 2/x * x
    assert total(row_weight(factor=1.0) * token_loss(), tokens()) == pytest.approx((1 + 2 + 30) / 3)


def test_weights_multiply_and_distribute() -> None:
    expr = row_weight() * (row_loss() + row_weight() * row_loss(scale=3.0))
    assert total(expr, rows()) == pytest.approx(float((2 + 3 * 4 / rows().x).mean()))


def test_terms_are_named_and_nest() -> None:
    named = terms(a=row_loss(), b=0.5 * terms(c=row_loss(scale=2.0), d=row_loss()))
    found = named.total(NOBODY, rows())
    assert {k: float(v) for k, v in found.items()} == {"a": 2.5, "b.c": 2.5, "b.d": 1.25}


@given(st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_the_split_of_a_batch_does_not_matter(n: int, size: int) -> None:
    batch = rows(n)
    pieces = [batch.rows(slice(i, i + size)) for i in range(0, n, size)]
    assert sum(total(row_weight() * row_loss(), p) for p in pieces) == pytest.approx(
        total(row_weight() * row_loss(), batch)
    )


def test_any_number_may_be_a_schedule() -> None:
    late = Batch({"x": torch.ones(2)}, at=Moment(5, 11))
    assert total(row_loss(scale=ramp(top=4)), late) == pytest.approx(2.0)
    assert total(ramp() * row_loss(), late) == pytest.approx(0.5)


def test_a_loss_of_no_known_shape_is_refused() -> None:
    @part
    def odd(players: Players, batch: Batch, *, k: float = 1.0) -> Tensor:
        return torch.ones(7)

    with pytest.raises(BrokenRecipe, match=r"returned a loss of shape \(7,\)"):
        total(odd(), rows())


def test_unknown_and_wrong_hyper_parameters() -> None:
    with pytest.raises(UnknownName, match="unknown hyper-parameter 'scal' in part row_loss; did you mean 'scale'"):
        row_loss(scal=1.0)
    for wrong in ({"scale": "1"}, {"power": 1.5}, {"power": True}, {"scale": row_loss()}):
        with pytest.raises(BadValue, match="must be"):
            row_loss(**wrong)
    assert dict(row_loss(scale=3).hyper)["scale"] == 3.0


def test_seven_hyper_parameters_are_too_many() -> None:
    def wide(players: Players, batch: Batch, *, a: int = 0, b: int = 0, c: int = 0, d: int = 0, e: int = 0, f: int = 0,
             g: int = 0) -> Tensor:  # fmt: skip
        raise AssertionError

    with pytest.raises(BrokenRecipe, match="7 hyper-parameters, at most 6"):
        part(wide)


def test_a_hyper_parameter_needs_default_and_annotation() -> None:
    with pytest.raises(BrokenRecipe, match="'k' needs a default and an annotation"):
        part(lambda players, batch, *, k: None)


def test_it_prints_as_the_formula_it_is() -> None:
    loss = terms(a=0.5 * row_loss(), b=row_weight() * (row_loss() + token_loss()))
    assert repr(loss) == (
        "a: 0.5 * row_loss(scale=1.0, power=1) + "
        "b: row_weight(factor=2.0) * (row_loss(scale=1.0, power=1) + token_loss(scale=1.0))"
    )
    assert row_loss.maths == "scale x^power"


def test_pipes_go_left_to_right_and_parts_are_equal_by_value() -> None:
    assert (doubled() >> doubled(k=3.0))(NOBODY, rows()).x[0] == 6.0
    assert doubled(k=2.0) == doubled() and hash(doubled(k=2.0)) == hash(doubled()) and doubled(k=3.0) != doubled()


def test_a_sum_is_no_batch_part() -> None:
    with pytest.raises(BrokenRecipe, match="is a loss"):
        (row_loss() + row_loss())(NOBODY, rows())


def test_batches_refuse_columns_of_unequal_length() -> None:
    with pytest.raises(BadData, match="of one length"):
        Batch({"x": torch.ones(2), "y": torch.ones(3)})
    with pytest.raises(UnknownName, match="did you mean 'mask'"):
        _ = tokens().maks
