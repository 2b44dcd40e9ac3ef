"""Small data sets that stand for large ones: chosen rows, centres, and rows that learn.

A reduced data set is a table of x, y and `lr`, the step size with which a net should learn from it (in every row the
same). It is made by a *make* stage from the whole of the training rows.

Legend of shapes: N rows of the data, C classes, K rows of a class in the reduced set, R = C K.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import BadData
from limbeck.part import part
from limbeck.players import Players
from limbeck.rng import Rng, derive

__all__ = ["begin_at", "class_centres", "learnt_rate", "learnt_rows", "real_rows", "write_rows"]


class Learnt(nn.Module):
    """A tensor that learns, with the classes of its rows where it has rows.

    Args:
        value: where it starts.
        y: (R,) the classes.

    Example:
        >>> [name for name, _ in Learnt(torch.zeros(3)).named_parameters()]
        ['value']
    """

    def __init__(self, value: Tensor, y: Tensor | None = None) -> None:
        super().__init__()
        self.value = nn.Parameter(value)
        self.register_buffer("y", y)


@part
def learnt_rows(players: Players, batch: Batch, *, per_class: int = 10) -> Learnt:
    """Rows that learn: as many of each class, noise until something is put in their place.

    Args:
        players: the student's scores say how many classes there are.
        batch: rows whose column x has the shape of a datum.
        per_class: K.

    Returns:
        A net with `value` (R, ...), the rows, and `y` (R,), their classes in order.
    """
    classes = players.student(batch, "logits").shape[-1]
    y_R = torch.arange(classes, device=batch.device).repeat_interleave(per_class)
    noise = Rng(("noise", batch.rng.key), torch.arange(len(y_R))).normal("x", *batch.x.shape[1:])
    return Learnt(noise.to(batch.x), y_R)


@part
def learnt_rate(players: Players, batch: Batch, *, start: float = 0.01) -> Learnt:
    """A step size that learns: a net with `value` ().

    Args:
        players: not asked.
        batch: not asked.
        start: where it starts.

    Returns:
        The net.
    """
    return Learnt(torch.tensor(start))


def _per_class(batch: Batch, per_class: int, pick: Callable[[Tensor], Tensor], lr: float) -> Batch:
    """Reduce each class to the rows that `pick` makes of the indices of its own."""
    kinds = batch.y.unique()
    members = [(batch.y == c).nonzero().squeeze(1) for c in kinds]
    for c, rows in zip(kinds.tolist(), members, strict=True):
        if len(rows) < per_class:
            raise BadData(f"class {c} has {len(rows)} rows, {per_class} of each class are wanted")
    x = torch.cat([pick(rows) for rows in members])
    y = kinds.repeat_interleave(per_class)
    return Batch({"x": x, "y": y, "lr": torch.full((len(y),), lr, dtype=x.dtype, device=x.device)})


@part
def real_rows(players: Players, batch: Batch, *, per_class: int = 10, lr: float = 0.01) -> Batch:
    """Choose rows of each class at random.

    Args:
        players: not asked.
        batch: the whole data, columns x and y.
        per_class: K.
        lr: the step size for who learns from them.

    Returns:
        R rows, class by class.

    Raises:
        BadData: a class with fewer rows.

    Example:
        >>> rows = real_rows(per_class=1)(None, Batch({"x": torch.eye(4), "y": torch.tensor([1, 0, 1, 0])}))
        >>> rows.y, tuple(rows.x.shape)
        (tensor([0, 1]), (2, 4))
    """
    draw_N = batch.rng.uniform("choose").view(-1)
    return _per_class(batch, per_class, lambda rows: batch.x[rows[draw_N[rows].argsort()[:per_class]]], lr)


@part
def class_centres(players: Players, batch: Batch, *, per_class: int = 10, lr: float = 0.01) -> Batch:
    """Take the centres of each class's clusters; the mean of the class where there is one.

    min over centres of sum_n min_k |x_n - m_k|^2, class by class (Lloyd's algorithm from k-means++)

    Args:
        players: not asked.
        batch: the whole data, columns x and y.
        per_class: K, the clusters of a class.
        lr: the step size for who learns from them.

    Returns:
        R rows, class by class.

    Raises:
        BadData: a class with fewer rows than clusters.

    Example:
        >>> rows = Batch({"x": torch.tensor([[0.0], [2.0], [5.0]]), "y": torch.tensor([0, 0, 1])})
        >>> class_centres(per_class=1)(None, rows).x
        tensor([[1.],
                [5.]])
    """

    def centres(rows: Tensor) -> Tensor:
        seed = derive("centres", batch.rng.key) % 2**32
        flat = batch.x[rows].flatten(1).cpu().numpy()
        found = KMeans(per_class, n_init=10, random_state=seed).fit(flat).cluster_centers_
        return torch.from_numpy(found).to(batch.x).view(per_class, *batch.x.shape[1:])

    return _per_class(batch, per_class, centres, lr)


@part
def begin_at(players: Players, batch: Batch, state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """Put rows in the place of the learning ones, once: a step of a *solve* stage.

    Args:
        players: `images` takes them.
        batch: R rows, column x.
        state: stays empty.

    Returns:
        The state, and no figure.

    Raises:
        Mismatch: another number of rows, or another shape, than `images` has.
    """
    players.images.load({"value": batch.x, "y": batch.y})
    return state, {}


@part
def write_rows(players: Players, batch: Batch) -> Batch:
    """Write down what was learnt: rows, classes and step size.

    Args:
        players: `images` and `rate`.
        batch: not asked.

    Returns:
        R rows of x, y and lr.
    """
    x, y, rate = players.images.value.detach(), players.images.y, players.rate.value.detach()
    return Batch({"x": x, "y": y, "lr": rate.expand(len(x)).contiguous()})
