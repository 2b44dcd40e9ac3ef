"""A hinge game against heads on frozen features: the teacher looks, under noise, and small heads learn to judge.

The field that gives the features stays as it is, so real and generated samples are told apart by what it knows of each
level: at high noise by the whole, at low noise by the detail. Each head reads one layer and is told the level, and the
class where there is one. Gradients for the student flow through the field.

Shapes: B rows, H heads, D features, P positions; a datum has any shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from limbeck.batch import Batch
from limbeck.part import Expr, part
from limbeck.parts.levels import logit_normal_levels
from limbeck.parts.states import noised
from limbeck.players import Players

__all__ = [
    "FrozenHeads",
    "PixelHead",
    "difference_penalty",
    "gradient_penalty",
    "hinge_discriminator",
    "hinge_generator",
    "level_heads",
    "pixel_head",
]

HIGH = logit_normal_levels(mean=1.0, std=1.0)


class _Told(nn.Module):
    """One judgement of features, modulated by the level and the class: (B, P, D) to (B,)."""

    frequencies: Tensor

    def __init__(self, features: int, width: int, classes: int, waves: int = 4) -> None:
        super().__init__()
        self.norm, self.read = nn.LayerNorm(features), nn.Linear(features, width)
        self.level, self.judge = nn.Linear(2 * waves, width), nn.Linear(width, 1)
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(-1, waves - 1), persistent=False)

    def forward(self, h: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        angle = batch["t"].to(h.dtype)[:, None] * self.frequencies
        told = self.level(torch.cat((angle.sin(), angle.cos()), 1))
        if self.label is not None:
            told = told + self.label(batch["y"])
        out = self.judge(nn.functional.silu(self.read(self.norm(h)) + told[:, None]))
        return out.mean((1, 2))


def _positions(h: Tensor) -> Tensor:
    """Features (B, D), tokens (B, P, D) or maps (B, D, height, width) as (B, P, D)."""
    if h.ndim == 2:
        return h[:, None]
    return h if h.ndim == 3 else h.flatten(2).mT


class FrozenHeads(nn.Module):
    """A small head for each of several layers of a frozen field.

    Args:
        sizes: D of each layer.
        taps: the field's answers that they read.
        width: hidden units.
        classes: labels in the column y; 0 for none.

    Example:
        >>> heads = FrozenHeads((4, 6), ("tap:a", "tap:b"), width=8, classes=0)
        >>> seen = {"t": torch.ones(2), "tap:a": torch.ones(2, 4), "tap:b": torch.ones(2, 6, 3, 3)}
        >>> heads(seen, frozenset({"logits"}))["logits"].shape
        torch.Size([2, 2])

    Source: Sauer et al., arXiv:2403.12015, the discriminator.
    """

    def __init__(self, sizes: tuple[int, ...], taps: tuple[str, ...], width: int, classes: int) -> None:
        super().__init__()
        self.taps = taps
        self.heads = nn.ModuleList(_Told(size, width, classes) for size in sizes)

    def forward(self, batch: Mapping[str, Tensor], want: frozenset[str]) -> dict[str, Any]:
        """Answer "logits" (B, H), high for real, on the columns of its taps, t, and y where there are classes."""
        found = [head(_positions(batch[tap]), batch) for head, tap in zip(self.heads, self.taps, strict=True)]
        return {"logits": torch.stack(found, 1)}


class PixelHead(nn.Module):
    """A discriminator from scratch on the noised sample itself, for comparison.

    Args:
        size: coordinates of a datum.
        width: units of each hidden layer.
        depth: hidden layers.
        classes: labels in the column y; 0 for none.

    Example:
        >>> PixelHead(4, 8, 2, 0)({"x": torch.ones(3, 2, 2), "t": torch.ones(3)}, frozenset({"logits"}))["logits"].shape
        torch.Size([3, 1])
    """

    taps: tuple[str, ...] = ()

    def __init__(self, size: int, width: int, depth: int, classes: int) -> None:
        super().__init__()
        sizes = [size, *[width] * depth]
        self.trunk = nn.Sequential(*(m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.SiLU())))
        self.head = _Told(width, width, classes)

    def forward(self, batch: Mapping[str, Tensor], want: frozenset[str]) -> dict[str, Any]:
        """Answer "logits" (B, 1), high for real, on columns x, t, and y where there are classes."""
        return {"logits": self.head(self.trunk(batch["x"].flatten(1))[:, None], batch)[:, None]}


def _classes(players: Players) -> int:
    return int(getattr(players.teacher, "classes", 0) or 0)


@part
def level_heads(
    players: Players, batch: Batch, *, taps: tuple[str, ...] = ("features",), width: int = 64
) -> FrozenHeads:
    """Build a head for each of several layers of the teacher.

    D_k(x_t, t, y) = W2 silu(W1 layernorm(h_k) + level(t) + label(y)), a mean over positions

    Args:
        players: the teacher answers each tap on columns x, t.
        batch: some rows of data.
        taps: "features", or "tap:<module>" for the output of a layer; (B, D), tokens (B, P, D) or maps (B, D, h, w).
        width: hidden units.

    Returns:
        The module.

    Raises:
        UnknownName: the teacher does not answer a tap.

    Source: Sauer et al., arXiv:2403.12015, the discriminator.
    """
    with torch.no_grad():
        level = torch.full((batch.size,), 0.5, dtype=batch.x.dtype, device=batch.device)
        seen = batch.with_(t=level)
        found = [_positions(players.teacher(seen, tap)) for tap in taps]
    return FrozenHeads(tuple(h.shape[2] for h in found), taps, width, _classes(players)).to(found[0])


@part
def pixel_head(players: Players, batch: Batch, *, width: int = 256, depth: int = 3) -> PixelHead:
    """Build a discriminator from scratch, which the teacher does not help.

    D(x_t, t, y), a perceptron

    Args:
        players: the teacher says how many classes there are.
        batch: some rows of data, for the shape.
        width: units of each hidden layer.
        depth: hidden layers.

    Returns:
        The module.
    """
    return PixelHead(batch.x[0].numel(), width, depth, _classes(players)).to(batch.x)


def _judged(players: Players, seen: Batch) -> Tensor:
    """What the heads make of noised samples, (B, H)."""
    taps = players.heads.taps
    read = {tap: players.teacher(seen, tap) for tap in taps}
    return players.heads(seen.with_(**read), "logits")  # type: ignore[no-any-return]


@part
def hinge_discriminator(players: Players, batch: Batch, *, levels: Expr = HIGH) -> Tensor:
    """Teach the heads to tell generated from real, and no further once a margin is kept.

    mean_k relu(1 - D_k(real_t)) + relu(1 + D_k(x_t)), each at a level and with a noise of its own

    Args:
        players: the student answers "x0", the teacher the taps of `heads`, these "logits".
        batch: the student's states in x and t, data in `real`.
        levels: a level part for the noise.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `heads`, or no column `real`.

    Source: Sauer et al., arXiv:2403.12015; the hinge: Lim and Ye, arXiv:1705.02894.
    """
    x = players.student(batch, "x0").detach()
    fake = _judged(players, noised(players, batch, x, levels, "hinge fake"))
    real = _judged(players, noised(players, batch, batch.real, levels, "hinge real"))
    return (relu(1 - real) + relu(1 + fake)).mean(1)


@part
def hinge_generator(players: Players, batch: Batch, *, levels: Expr = HIGH) -> Tensor:
    """Move the student's samples to where the heads take them for real.

    -mean_k D_k(x_t)

    Args:
        players: the student answers "x0", the teacher the taps of `heads`, these "logits".
        batch: the student's states in x and t.
        levels: a level part for the noise.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `heads`.

    Source: Sauer et al., arXiv:2403.12015; the hinge: Lim and Ye, arXiv:1705.02894.
    """
    return -_judged(players, noised(players, batch, players.student(batch, "x0"), levels, "hinge fake")).mean(1)


@part
def gradient_penalty(players: Players, batch: Batch, *, levels: Expr = HIGH) -> Tensor:
    """Keep the judgement flat around real data.

    mean_k |dD_k / dx_t|^2 at the noised data

    Args:
        players: the teacher answers the taps of `heads`, these "logits"; both are differentiated twice.
        batch: data in `real`.
        levels: a level part for the noise.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `heads`, or no column `real`.

    Source: Mescheder et al., arXiv:1801.04406, the R1 penalty.
    """
    with torch.enable_grad():
        seen = noised(players, batch, batch.real, levels, "hinge real")
        x = seen.x.detach().requires_grad_()
        logits = _judged(players, seen.with_(x=x))
        each = [torch.autograd.grad(k.sum(), x, create_graph=True)[0] for k in logits.unbind(1)]
    return torch.stack([g.square().flatten(1).sum(1) for g in each]).mean(0)


@part
def difference_penalty(players: Players, batch: Batch, *, levels: Expr = HIGH, step: float = 0.01) -> Tensor:
    """The same by a difference: the judgement must not change when a little noise is added; no second derivative.

    mean_k ((D_k(x_t + h e) - D_k(x_t)) / h)^2, e ~ N(0, I): |dD_k / dx_t|^2 in the mean, as h goes to 0

    Args:
        players: the teacher answers the taps of `heads`, these "logits".
        batch: data in `real`.
        levels: a level part for the noise.
        step: h, in units of the data.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `heads`, or no column `real`.

    Source: Lin et al., arXiv:2501.08316, the approximated R1 penalty.
    """
    seen = noised(players, batch, batch.real, levels, "hinge real")
    e = batch.rng.normal("penalty", *seen.x.shape[1:]).to(seen.x.dtype)
    change = _judged(players, seen.with_(x=seen.x + step * e)) - _judged(players, seen)
    return (change / step).square().mean(1)
