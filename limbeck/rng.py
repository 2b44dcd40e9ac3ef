"""Counter-based random numbers: every sample of a run has its own stream, whoever computes it.

A draw is a pure function of (seed, stage, phase, step, name of the draw, index of the sample in the global batch,
element), so that two processes draw what one would, a resumed run draws what the interrupted one would have, and
adding a draw shifts no other. The generator is Squares (Widynski, arXiv:2004.06278) in integer tensor operations: the
same bits on every device.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Each", "Rng", "apart", "derive", "numbered", "seed_torch"]

_LOW = 0xFFFFFFFF
_BLOCK = 1 << 15  # numbers at a time on the processor, which its cache holds
_SEAT = 30  # bits of the index of a row; above them stands its seat in a stack of runs


@dataclass(frozen=True)
class Each:
    """An entry of a key that differs from seat to seat, where several runs go side by side: their seeds.

    Args:
        values: one a seat.
    """

    values: tuple[object, ...]


def apart(key: tuple[object, ...]) -> list[tuple[object, ...]]:
    """The keys of the single seats; of a key without `Each`, the key itself.

    Example:
        >>> apart((Each((0, 1)), "fit"))
        [(0, 'fit'), (1, 'fit')]
    """
    each = next((k for k in key if isinstance(k, Each)), None)
    return [key] if each is None else [tuple(v if k is each else k for k in key) for v in each.values]


def numbered(rows: int, seats: int = 1) -> Tensor:
    """Number the rows of a batch, seat after seat, each from 0; the seat stands above the lowest 30 bits.

    Args:
        rows: in all.
        seats: among which they are shared equally.

    Example:
        >>> numbered(4), numbered(4, 2) >> 30
        (tensor([0, 1, 2, 3]), tensor([0, 0, 1, 1]))
    """
    if seats == 1:
        return torch.arange(rows)
    each = rows // seats
    return torch.arange(each).repeat(seats) + (torch.arange(seats).repeat_interleave(each) << _SEAT)


def derive(*key: object) -> int:
    """Hash a key of plain values to 63 bits: the one way in which seeds are made from seeds.

    Example:
        >>> derive("stage", 3) == derive("stage", 3), derive("stage", 3) == derive("stage", 4)
        (True, False)
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_torch(*key: object) -> None:
    """Seed PyTorch's own generators (dropout and the like) with a key of plain values."""
    torch.default_generator.manual_seed(derive(*key))
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(derive(*key))


def _swap(x: Tensor) -> Tensor:
    return ((x >> 32) & _LOW) | (x << 32)


def _squares(counter: Tensor, key: int | Tensor) -> Tensor:
    """32 random bits per counter (arXiv:2004.06278, section 4: four rounds); any device."""
    x = counter * key
    y, z = x, x + key
    for offset in (y, z, y):
        x = _swap(x * x + offset)
    return ((x * x + z) >> 32) & _LOW


def _squares_here(rows: Tensor, n: int, key: int | Tensor) -> Tensor:
    """The same bits for (B,) rows of n numbers on the processor, in unsigned integers and in place: faster there."""
    counters, out = rows.numpy().view(np.uint64)[:, None] << 32, np.empty((len(rows), n), np.uint64)
    inside = np.arange(n, dtype=np.uint64)
    keys = np.full((len(rows), 1), key, np.uint64) if isinstance(key, int) else key.numpy().view(np.uint64)
    each = max(1, _BLOCK // max(1, n))
    for start in range(0, len(rows), each):
        block = slice(start, start + each)
        x, up, k = out[block], np.empty_like(out[block]), keys[block]
        np.multiply(counters[block] + inside, k, out=x)
        y, z = x.copy(), x + k
        for offset in (y, z, y):
            x *= x
            x += offset
            np.left_shift(x, 32, out=up)
            x >>= 32
            x |= up
        x *= x
        x += z
        x >>= 32
    return torch.from_numpy(out.view(np.int64))


@dataclass(frozen=True)
class Rng:
    """Random streams of the rows of a batch.

    Args:
        key: what the streams belong to; plain values (seed, stage, phase, step).
        rows: (B,) int64, the index of each row in the global batch (see `numbered` for several runs).

    Source: Widynski, "Squares: a fast counter-based RNG", arXiv:2004.06278.
    """

    key: tuple[object, ...]
    rows: Tensor

    @property
    def seat(self) -> Tensor:
        """(B,) int64, the seat of each row in a stack of runs; 0 where there is one run."""
        return self.rows >> _SEAT

    def _bits(self, name: str, n: int) -> Tensor:
        keys = [derive(*key, name) | 1 for key in apart(self.key)]
        rows: Tensor = self.rows if len(keys) == 1 else self.rows & ((1 << _SEAT) - 1)
        key = keys[0] if len(keys) == 1 else torch.tensor(keys, device=rows.device)[self.seat][:, None]
        if rows.device.type == "cpu":
            return _squares_here(rows, n, key)
        return _squares((rows[:, None] << 32) + torch.arange(n, device=rows.device), key)

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Draw U(0, 1), both ends excluded.

        Args:
            name: the name of this draw; the same name gives the same numbers.
            shape: the shape of one row's draw.

        Returns:
            (B, *shape) float32.

        Example:
            >>> u = Rng(("seed", 0), torch.arange(4)).uniform("u", 2)
            >>> u.shape, bool(((u > 0) & (u < 1)).all())
            (torch.Size([4, 2]), True)
        """
        bits = self._bits(name, math.prod(shape))
        return (bits >> 9).float().add_(0.5).mul_(2.0**-23).view(len(self.rows), *shape)

    def normal(self, name: str, *shape: int) -> Tensor:
        """Draw N(0, 1) by the Box-Muller transform.

        Args:
            name: the name of this draw; the same name gives the same numbers.
            shape: the shape of one row's draw.

        Returns:
            (B, *shape) float32.

        Example:
            >>> rng = Rng(("seed", 0), torch.arange(4))
            >>> bool((rng.normal("eps", 2)[1:3] == Rng(("seed", 0), torch.arange(1, 3)).normal("eps", 2)).all())
            True
        """
        n = math.prod(shape)
        half = (n + 1) // 2
        u = self.uniform(name, 2 * half)
        radius, angle = u[:, :half].log().mul_(-2).sqrt_(), u[:, half:] * (2 * math.pi)
        both = torch.cat((angle.cos().mul_(radius), angle.sin_().mul_(radius)), 1)
        return both[:, :n].reshape(len(self.rows), *shape)

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        """Draw integers in [0, high) with a bias below high / 2^32.

        Args:
            name: the name of this draw.
            high: the exclusive upper end, at most 2^31.
            shape: the shape of one row's draw.

        Returns:
            (B, *shape) int64.

        Example:
            >>> sorted(set(Rng(("seed", 0), torch.arange(99)).integers("k", 3).tolist()))
            [0, 1, 2]
        """
        return ((self._bits(name, math.prod(shape)) * high) >> 32).view(len(self.rows), *shape)

    def fold(self, *key: object) -> Rng:
        """Return the streams of the same rows under a longer key, for draws in a loop.

        Example:
            >>> rng = Rng(("seed", 0), torch.arange(4))
            >>> bool((rng.fold(0).uniform("u") == rng.fold(1).uniform("u")).any())
            False
        """
        return Rng((*self.key, *key), self.rows)

    def at(self, rows: slice) -> Rng:
        """Return the streams of some of the rows."""
        return Rng(self.key, self.rows[rows])
