"""Clips drawn chunk by chunk: nets that see no later chunk, frames with levels of their own, and what was seen kept.

A player answers on x (B, F, ...) with a level a row (B,) or a frame (B, F) in t. A net that sees no later chunk also
answers "keys", of the frames it was asked about, and reads those of earlier frames in the column `past`, so that no
frame is computed again.

Shapes: B rows, F frames, C frames a chunk; a frame has any shape.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Expr, part
from limbeck.parts.solver import euler, solve
from limbeck.players import Players, copied

__all__ = [
    "attended",
    "chunk_levels",
    "chunkwise",
    "clip_trajectories",
    "regression",
    "seen_chunks",
    "trajectory_chunks",
]

LEVELS, STEPS = (1.0, 0.757, 0.522, 0.0), (1.0, 0.757, 0.522)  # clean chunks are seen too, and cost no step
EULER = euler()


@part
def attended(players: Players, batch: Batch, *, chunk: int = 0) -> nn.Module:
    """Build a net with the teacher's weights in which a frame sees its own chunk and all earlier ones.

    frame f sees frame g where floor(g / C) <= floor(f / C)

    Args:
        players: the teacher's net has an attribute `chunk`, C.
        batch: not read.
        chunk: C; 0 if every frame is to see all.

    Returns:
        The module, a copy.

    Raises:
        BadValue: a teacher in which what a frame sees cannot be chosen.

    Source: Yin et al., arXiv:2412.07772, the causal generator.
    """
    net = copied(players.teacher)
    if not hasattr(net, "chunk"):
        raise BadValue(f"the teacher, a {type(net).__name__}, has no attribute `chunk` that limits what a frame sees")
    net.chunk = chunk  # type: ignore[assignment]
    return net


def _per_frame(values: Tensor, x: Tensor) -> Tensor:
    """Give one number a frame, (B, F), the trailing axes of x."""
    return values.to(x.dtype).view(*values.shape, *[1] * (x.ndim - 2))


def chunk_levels(batch: Batch, frames: int, chunk: int, count: int) -> Tensor:
    """Draw one of a few levels for every chunk, the same for its frames.

    Args:
        batch: the rows.
        frames: F.
        chunk: C.
        count: how many levels there are.

    Returns:
        (B, F) int64.

    Raises:
        BadValue: frames that do not make whole chunks.

    Example:
        >>> k = chunk_levels(Batch({"x": torch.zeros(2, 6)}), 6, 3, 4)
        >>> k.shape, bool((k[:, 0] == k[:, 2]).all())
        (torch.Size([2, 6]), True)
    """
    if chunk < 1 or frames % chunk:
        raise BadValue(f"{frames} frames do not make whole chunks of {chunk}")
    return batch.rng.integers("chunk", count, frames // chunk).repeat_interleave(chunk, 1)


@part
def seen_chunks(players: Players, batch: Batch, *, times: tuple[float, ...] = LEVELS, chunk: int = 2) -> Batch:
    """Noise every chunk of a clip to a level of its own: what a causal student is trained on, without a run of its own.

    x_f = (1 - t_c) x_f + t_c e_f for the frames f of chunk c, t_c one of the levels

    At level 0 a chunk is clean, and what the student predicts there is the chunk itself.

    Args:
        players: not asked.
        batch: rows whose column x is a clip.
        times: the levels of the student.
        chunk: C.

    Returns:
        The batch with the state in x, its levels in t (B, F), and the clip in `real`.

    Raises:
        BadValue: frames that do not make whole chunks.

    Source: Yin et al., arXiv:2412.07772, the noise of chunks; Chen et al., arXiv:2407.01392, for single frames.
    """
    x = batch.x
    t = torch.tensor(times, device=x.device).to(x.dtype)[chunk_levels(batch, x.shape[1], chunk, len(times))]
    noise = batch.rng.normal("z", *x.shape[1:]).to(x.dtype)
    return batch.with_(real=x, x=(1 - _per_frame(t, x)) * x + _per_frame(t, x) * noise, t=t)


@part
def clip_trajectories(
    players: Players, batch: Batch, *, times: tuple[float, ...] = LEVELS, between: int = 8, solver: Expr = EULER
) -> Batch:
    """Carry noise along the teacher's field and keep the states at the student's levels.

    states_k = x(t_k), the last of them x = x(0), for dx/dt = v(x, t) from noise at t = 1

    Args:
        players: the teacher answers what the solver asks.
        batch: rows whose column x has the shape of a clip.
        times: the levels of the student, falling from 1 to 0.
        between: steps of the solver from one level to the next.
        solver: a solver part.

    Returns:
        The batch with the states in `states` (B, n, F, ...) and where they end in x.

    Raises:
        BadValue: levels that do not end at 0.

    Source: Yin et al., arXiv:2412.07772, section 4.3.
    """
    if times[-1] != 0:
        raise BadValue(f"trajectories end at level 0, these at {times[-1]}")
    grid = [a + (b - a) * i / between for a, b in pairwise(times) for i in range(between)]
    noise = batch.rng.normal("z", *batch.x.shape[1:]).to(batch.x.dtype)
    states = solve(players.teacher, batch, solver, times[0] * noise, (*grid, 0.0))
    return batch.with_(states=torch.stack(states[::between], 1), x=states[-1])


@part
def trajectory_chunks(players: Players, batch: Batch, *, times: tuple[float, ...] = LEVELS, chunk: int = 2) -> Batch:
    """Take every chunk from the state of the trajectory at a level of its own.

    x_f = states_{k(c)}, f for the frames f of chunk c

    Args:
        players: not asked.
        batch: rows of `clip_trajectories` with the same levels.
        times: the levels.
        chunk: C.

    Returns:
        The batch with the state in x, its levels in t (B, F), and where the trajectory ends in `real`.

    Raises:
        BadValue: frames that do not make whole chunks, or trajectories with other levels.

    Source: Yin et al., arXiv:2412.07772, section 4.3.
    """
    states = batch.states
    if states.shape[1] != len(times):
        raise BadValue(f"the trajectories have {states.shape[1]} states, the student {len(times)} levels")
    k = chunk_levels(batch, states.shape[2], chunk, len(times))
    place = _per_frame(k, states[:, 0]).long().expand_as(states[:, 0])
    t = torch.tensor(times, device=k.device).to(states.dtype)[k]
    return batch.with_(x=states.gather(1, place[:, None])[:, 0], t=t, real=batch.x)


@part
def regression(players: Players, batch: Batch) -> Tensor:
    """Predict where a trajectory ends.

    mean(x0(x, t) - x(0))^2

    Args:
        players: the student answers "x0".
        batch: states x at levels t, and their end in `real`.

    Returns:
        (B,).

    Source: Yin et al., arXiv:2412.07772, section 4.3.
    """
    return (players.student(batch, "x0") - batch.real).square().flatten(1).mean(1)


@part
def chunkwise(
    players: Players, batch: Batch, *, times: tuple[float, ...] = STEPS, chunk: int = 2, frames: int = 0, kept: int = 6
) -> Tensor:
    """Sample a causal student chunk by chunk, each in a few steps; what it knows of earlier frames is kept, not redone.

    x_c <- (1 - t_{i+1}) x0(x_c, t_i | keys of earlier frames) + t_{i+1} e, then the keys of the chunk at t = 0

    Args:
        players: the student answers "x0" and "keys" on x, t and past; its net sees no later chunk.
        batch: rows whose column x has the shape of a clip.
        times: falling levels from 1.
        chunk: C.
        frames: how many to draw; 0 for as many as the data have.
        kept: earlier frames that are still seen: the window rolls over longer clips.

    Returns:
        (B, F, ...) samples.

    Raises:
        BadValue: frames that do not make whole chunks, or no frame that is kept.

    Source: Yin et al., arXiv:2412.07772, algorithm 2.
    """
    total = frames or batch.x.shape[1]
    if chunk < 1 or total % chunk:
        raise BadValue(f"{total} frames do not make whole chunks of {chunk}")
    if kept < 1:
        raise BadValue(f"a chunk follows one earlier frame or more, got kept = {kept}")
    shape, dtype = (chunk, *batch.x.shape[2:]), batch.x.dtype
    known: dict[str, Tensor] = {}
    drawn = []
    for c in range(total // chunk):
        rng = batch.rng.fold("chunk", c)
        x = rng.normal("z", *shape).to(dtype)
        for i, (t, nearer) in enumerate(zip(times, (*times[1:], 0.0), strict=True)):
            level = torch.full((batch.size,), t, dtype=dtype, device=batch.device)
            x0 = players.student(batch.with_(x=x, t=level, **known), "x0")
            x = (1 - nearer) * x0 + nearer * rng.fold(i).normal("again", *shape).to(dtype)
        keys = players.student(batch.with_(x=x, t=torch.zeros_like(level), **known), "keys")
        known["past"] = torch.cat((known["past"], keys) if known else (keys,), 2)[:, :, -kept:]
        drawn.append(x)
    return torch.cat(drawn, 1)
