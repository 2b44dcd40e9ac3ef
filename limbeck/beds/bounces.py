"""Clips of eight frames in which a dot flies straight and bounces off the walls, and a trained field of clips.

A frame is the place of the dot in a box. Two frames tell all later ones, up to which wall was met between them, so that
the error of every further frame is known exactly. The teacher has learnt to see whole clips at one level of noise, and
clips of which no frame sees a later chunk, each at its own level; the student is to be made from it.

Shapes: B clips, F frames, P earlier frames, D = 2 coordinates, W width, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import limbeck.assets
from limbeck.beds import Bed
from limbeck.data import Table
from limbeck.parts.clips import chunkwise
from limbeck.parts.solver import even, heun, ode_sample
from limbeck.probes.distribution import sliced_w2
from limbeck.probes.motion import motion_error
from limbeck.rng import derive

__all__ = ["CHUNK", "FRAMES", "TEACHER", "ClipField", "bed", "bouncing", "filmed"]

FRAMES, CHUNK, FAR = 8, 2, 7
TEACHER = Path(limbeck.assets.__file__).parent / "bounces-teacher" / "model.safetensors"


class Block(nn.Module):
    """A layer of attention between frames, by what they hold and how far apart they are, and a perceptron.

    Args:
        width: W.
        heads: H.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
        self.apart = nn.Embedding(2 * FAR + 1, heads)

    def forward(self, h: Tensor, past: Tensor | None, seen: Tensor, apart: Tensor) -> tuple[Tensor, Tensor]:
        """Update h (B, F, W) by itself and keys (B, P, 2 W) of earlier frames; also the keys of these (B, F, 2 W)."""
        width = h.shape[2]
        asked, keys = self.ask(self.before(h)).split((width, 2 * width), 2)
        known = keys if past is None else torch.cat((past, keys), 1)
        q, k, v = (m.unflatten(2, (self.heads, -1)).transpose(1, 2) for m in (asked, *known.chunk(2, 2)))
        bias = self.apart(apart).permute(2, 0, 1).masked_fill(~seen, -torch.inf)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, bias.to(q.dtype)[None].expand(len(q), -1, -1, -1))
        h = h + self.out(mixed.transpose(1, 2).flatten(2))
        return h + self.mlp(self.after(h)), keys


class ClipField(nn.Module):
    """A field of clips by a small transformer over frames; every frame may have a level of its own.

    Args:
        dim: D.
        width: W.
        depth: layers.
        chunk: frames that see one another and all earlier ones, but none that is later; 0 if all see all.

    Example:
        >>> net = ClipField(chunk=2)
        >>> net({"x": torch.zeros(3, 8, 2), "t": torch.ones(3)}, frozenset({"x0"}))["x0"].shape
        torch.Size([3, 8, 2])
    """

    def __init__(self, dim: int = 2, width: int = 64, depth: int = 2, chunk: int = 0) -> None:
        super().__init__()
        self.chunk, self.width = chunk, width
        self.read, self.write = nn.Linear(dim + 8, width), nn.Linear(width, dim)
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, batch: Mapping[str, Tensor], want: frozenset[str]) -> dict[str, Any]:
        """Answer "x0", "eps", "velocity" on x (B, F, D) and t, (B,) or (B, F); "keys" (B, depth, F, 2 W) for `past`.

        A column `past` (B, depth, P, 2 W) holds the keys of frames before these.
        """
        x = batch["x"]
        t = batch["t"].to(x.dtype)
        level = (t[:, None] if t.ndim == 1 else t).expand(x.shape[:2])[..., None]
        angle = level * torch.pi * 2.0 ** torch.arange(-1, 3, device=x.device)
        h = self.read(torch.cat((x, angle.sin(), angle.cos()), 2))
        past = batch.get("past")
        before = 0 if past is None else past.shape[2]
        seen, apart = self._sight(before, x.shape[1], x.device)
        keys = []
        for i, block in enumerate(self.blocks):
            h, own = block(h, None if past is None else past[:, i], seen, apart)
            keys.append(own)
        v = self.write(self.norm(h))
        return {"velocity": v, "x0": x - level * v, "eps": x + (1 - level) * v, "keys": torch.stack(keys, 1)}

    def _sight(self, before: int, frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Whether each frame sees each known one, (F, P + F) bool, and how far that lies, from 0 to 2 FAR."""
        all_frames = torch.arange(before + frames, device=device)
        own = all_frames[before:]
        apart = (all_frames - own[:, None]).clamp(-FAR, FAR) + FAR
        if not self.chunk:
            return torch.ones_like(apart, dtype=torch.bool), apart
        return all_frames // self.chunk <= own[:, None] // self.chunk, apart


def filmed(seed: int | None = None, chunk: int = 0) -> ClipField:
    """The architecture of all players: as the teacher was trained, or fresh.

    Args:
        seed: of the fresh weights; None for those of the teacher.
        chunk: as `ClipField` takes it.

    Returns:
        The net.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive("bounces", seed))
        net = ClipField(chunk=chunk)
    if seed is None:
        net.load_state_dict(load_file(TEACHER))
    return net


def bouncing(n: int, seed: int, frames: int = FRAMES) -> Tensor:
    """Draw clips: places even in the box [-1, 1]^2, all directions, speeds from 0.2 to 0.6 a frame.

    x_f = fold(p + f v): the straight flight, folded back at the walls

    Args:
        n: clips.
        seed: of the draw.
        frames: F.

    Returns:
        (n, F, 2).

    Example:
        >>> float(bouncing(50, 0).abs().max()) <= 1
        True
    """
    rng = torch.Generator().manual_seed(seed)
    p = 2 * torch.rand(n, 2, generator=rng) - 1
    angle, speed = 2 * torch.pi * torch.rand(n, generator=rng), 0.2 + 0.4 * torch.rand(n, generator=rng)
    v = speed[:, None] * torch.stack((angle.cos(), angle.sin()), 1)
    flight = p[:, None] + v[:, None] * torch.arange(frames)[:, None]
    return 1 - ((flight + 1) % 4 - 2).abs()


@lru_cache(maxsize=8)
def _split(split: str, seed: int) -> Table:
    return Table({"x": bouncing(2_000, derive("bounces", split, seed))})


bed = Bed(
    "bounces",
    "Clips of a dot that bounces: every further frame is known from two; a trained field that sees clips whole.",
    players={"teacher": lambda seed: filmed(), "critic": lambda seed: filmed(), "fresh": filmed}
    | {"student": lambda seed: filmed(chunk=CHUNK)},
    data=lambda seed: {split: _split(split, seed) for split in ("train", "valid", "test")},
    probes={"motion": motion_error(draw=chunkwise()), "sw2": sliced_w2(draw=chunkwise(), rows=2_000)},
    samplers={"student": chunkwise(), "teacher": ode_sample(solver=heun(), times=even(25))},
)
