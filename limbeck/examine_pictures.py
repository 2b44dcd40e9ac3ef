"""Examinations of pipelines: teacher, student before and student after draw pictures from the same noise.

Shapes: N rows, C channels, H by W pixels, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.adapters.pictures import decode
from limbeck.adapters.pipeline import Denoiser
from limbeck.batch import Batch
from limbeck.data import Source, batch_of
from limbeck.errors import BadData
from limbeck.evaluate import Cost, Examination, Quality, figures, measure_cost, measure_speed
from limbeck.part import Expr
from limbeck.parts.guidance import Guided
from limbeck.players import Player, Players
from limbeck.probes.frechet import frechet, kid_interval
from limbeck.probes.pictures import judge_of
from limbeck.report.sections import PICTURE
from limbeck.rng import Rng
from limbeck.roles import frozen
from limbeck.samplers import ode_of

__all__ = ["examine_pictures", "sampled_by", "seeded", "write_grid"]

ROWS, CHUNK, ACROSS = 400, 64, 6
SHOWN = 48  # pixels that the side of a picture takes at least


def examine_pictures(
    nets: Mapping[str, Any], source: Source, draw: Expr | None, disk: Mapping[str, Path] | None = None,
    run: Path | None = None, others: Mapping[str, nn.Module] | None = None, seat: str = "student",
) -> Examination:  # fmt: skip
    """Examine pipelines on held-out rows: each draws a picture for every row, with the row's class and noise.

    Args:
        nets: who ("teacher", "before", "after") to net, on one device and in evaluation mode.
        source: the rows, as the student reads them; the first 400 are used.
        draw: the student's sampler; None for a field, which is solved over its scheduler's steps as the teacher is.
        disk: who to where it is saved.
        run: where a grid of pictures of each is put.
        others: further players that the sampler asks; the teacher among them, where learned solvers are examined.
        seat: the player that "before" and "after" are: "student", or "solver" for a learned solver of the teacher.

    Returns:
        Frechet and kernel distances to the held-out rows, with intervals where rows give them, and costs.

    Raises:
        BadData: fewer than two rows.
    """
    if len(source) < 2:
        raise BadData("pictures are compared with two held-out rows at least")
    solved = None if seat == "student" else (others or {})["teacher"]  # whose field learned solvers go along
    plain = _plain(solved or nets["after"])
    device = next(p.device for p in plain.parameters())
    index = torch.arange(min(len(source), ROWS))
    batches = [seeded(source, rows, device) for rows in index.split(CHUNK)]
    held = torch.cat([decode(plain, b.x) for b in batches]).cpu()
    features, named = judge_of(held)
    real = features(held)
    drawn, costs = {}, {}
    for who, net in nets.items():
        way = ode_of(net) if who == "teacher" or draw is None else draw
        ask = partial(sampled_by, {**(others or {}), seat if way is draw else "student": net}, way)
        drawn[who] = torch.cat([decode(plain, ask(b)) for b in batches]).cpu()
        costs[who] = _cost(solved or net, partial(ask, batches[0]), batches[0], (disk or {}).get(who))
        if run is not None:
            write_grid(drawn[who][: ACROSS**2], run / PICTURE.format(who))
    seen = {who: features(x) for who, x in drawn.items()}
    fid = {who: frechet(f, real) for who, f in seen.items()}
    kid = {who: kid_interval(f, real) for who, f in seen.items()}
    notes = (f"distances are measured in {named}: they are comparable with each other, not with the FID of papers",)
    return Examination(
        qualities=[
            figures(f"Frechet distance ({named})", fid, higher_is_better=False),
            Quality(f"kernel distance ({named})", False, kid, n=len(index)),
        ],
        costs=costs, notes=notes,
    )  # fmt: skip


def _cost(net: nn.Module, ask: Callable[[], Any], batch: Batch, path: Path | None) -> Cost:
    """What one picture costs; memory is that of one evaluation, time that of the whole way."""
    level = torch.full((batch.size,), 0.5, device=batch.device)
    once = measure_cost(net, lambda: net(batch.with_(t=level), frozenset({"x0"})), batch.size, path=path, repeats=1)
    return replace(once, speed=measure_speed(ask, 2, warmup=0))  # it has drawn before


def _plain(net: nn.Module) -> Denoiser:
    return net.net if isinstance(net, Guided) else net  # type: ignore[return-value]


def seeded(source: Source, rows: Tensor, device: torch.device) -> Batch:
    """Rows with noise that depends on nothing but the row.

    Args:
        source: as a pipeline reads them.
        rows: which.
        device: where to.
    """
    return Batch(dict(batch_of(source, rows)), rng=Rng(("examined",), rows)).to(device)


@torch.no_grad()
def sampled_by(nets: Mapping[str, nn.Module], sampler: Callable[[Players, Batch], Tensor], batch: Batch) -> Tensor:
    """Samples of nets in their seats.

    Args:
        nets: player to net.
        sampler: what asks them.
        batch: the rows, whose noise is theirs.
    """
    players = Players({name: Player(name, frozen(), module) for name, module in nets.items()})
    players.turn("probe")
    return sampler(players, batch)


def write_grid(x: Tensor, path: Path, across: int = ACROSS) -> None:
    """Write pictures side by side, as one PNG; small ones are shown larger, pixel by pixel.

    Args:
        x: (N, C, H, W) in [0, 1].
        path: the file.
        across: pictures of a row.
    """
    from PIL import Image

    larger = max(1, SHOWN // max(x.shape[2:]))
    x = x.repeat_interleave(larger, 2).repeat_interleave(larger, 3)
    n, c, h, w = x.shape
    across = min(across, n)
    down = -(-n // across)
    sheet = np.full((down * (h + 1) - 1, across * (w + 1) - 1, c), 255, dtype=np.uint8)
    pixels = (255 * x).round().byte().permute(0, 2, 3, 1).numpy()
    for i, one in enumerate(pixels):
        top, left = (i // across) * (h + 1), (i % across) * (w + 1)
        sheet[top : top + h, left : left + w] = one
    Image.fromarray(sheet[:, :, 0] if c == 1 else sheet[:, :, :3]).save(path)
