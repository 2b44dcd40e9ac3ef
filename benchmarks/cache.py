"""What a remembered distribution costs: bytes on disk, error of what is read, and tokens read a second.

The logits are synthetic: over 151,936 tokens, log p = -1.4 log rank + 0.5 noise, the ranks in an order that is drawn
anew for every token, so that ids are as expensive as they can be (those of a language model cluster, and take less).
The tail falls as that of a small language model on running text does: its 50 most probable tokens lie 1.4 nats above
the last of them in the mean. Errors are |log p read - log p| over the kept tokens, in nats, each token alike and
weighted by p. Where DistillKit is installed, its presets stand beside ours, as shipped and with `normalize_t`. Our
reads find the rows, check them and lay them out as columns, DistillKit's are its decompression alone; tokens are
counted per second of one processor.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.adapters.blocks import Row
from limbeck.adapters.cache import About, TargetCache, row_keys
from limbeck.adapters.packing import pack
from limbeck.part import Part
from limbeck.parts.sparse import Sparse, drawn, likeliest, nucleus
from limbeck.rng import Rng

V, ROWS, TOKENS, REPEATS, THREADS = 151_936, 8, 64, 20, 1
PRESETS: dict[str, dict[str, Any]] = {
    "budget": {"k": 50, "exact_k": 1, "exact_dtype": "bfloat16", "polynomial_terms": [0, 1, "sqrt"]},
    "recommended": {"k": 128, "exact_k": 16, "exact_dtype": "bfloat16", "polynomial_terms": [0, 1, 2, 3, 4, "sqrt"]},
    "Qwen3-235B": {"k": 128, "exact_k": 32, "polynomial_terms": [0, 1, 2], "delta_encoding": True},
}
OURS: tuple[tuple[Part, float], ...] = (
    *((likeliest(k=k), step) for k, step in ((50, 1 / 16), (64, 1 / 16), (128, 1 / 16), (128, 1 / 64))),
    (nucleus(), 1 / 16), (drawn(draws=50), 1 / 16),
)  # fmt: skip


def synthetic() -> Tensor:
    """Log-probabilities (ROWS * TOKENS, V)."""
    generator, rank = torch.Generator().manual_seed(0), torch.arange(1, V + 1).log()
    rows = []
    for _ in range(ROWS * TOKENS):
        scores = -1.4 * rank + 0.5 * torch.randn(V, generator=generator)
        rows.append(scores[torch.randperm(V, generator=generator)].log_softmax(-1))
    return torch.stack(rows)


def batch() -> dict[str, Tensor]:
    """Rows of tokens, all but the first of them targets."""
    tokens = torch.randint(V, (ROWS, TOKENS + 1), generator=torch.Generator().manual_seed(1))
    return {"tokens": tokens, "mask": (torch.arange(TOKENS + 1) > 0).expand(ROWS, -1)}


def stored(path: Path, found: Sparse, targets: Part, step: float) -> TargetCache:
    """A cache with the targets of the batch."""
    kind = {"kind": targets.spec.name, **dict(targets.hyper)}
    cache = TargetCache(path, About("", V, "synthetic", "", kind, step))
    pieces = [piece.double().view(ROWS, TOKENS, -1).numpy() for piece in found]
    packed = [pack(i.astype(int), p, t[:, 0], cache.about.grid) for i, p, t in zip(*pieces, strict=True)]
    mass = found.logp.exp().sum(-1).view(ROWS, -1).numpy()
    cache.append([Row(k, p, m, 0.0) for k, p, m in zip(row_keys(batch()), packed, mass, strict=True)])
    return cache


def errors(ids: Tensor, read: Tensor, logp: Tensor) -> tuple[float, float]:
    """The mean error of the kept tokens, each token alike and weighted by p."""
    kept, true = read > -torch.inf, logp.gather(-1, ids)
    off, p = (read - true).abs().where(kept, 0.0), true.exp().where(kept, 0.0)
    return float(off.sum() / kept.sum()), float((p * off).sum() / p.sum())


def ours(logp: Tensor, targets: Part, step: float) -> list[str]:
    rng = Rng((), torch.arange(len(logp)))
    found = targets(logp, lambda n: rng.uniform("draw", n))
    with tempfile.TemporaryDirectory() as folder:
        cache = stored(Path(folder) / "cache", found, targets, step)
        size, read = cache.report()["bytes_per_token"], cache.read(batch())
        per_second = speed(lambda: cache.read(batch()))
    mask = batch()["mask"]
    each, weighed = errors(read["ids"][mask], read["logp"][mask], logp)
    kept = float((read["logp"][mask] > -torch.inf).sum()) / len(logp)
    random = targets.spec is drawn  # its weights are counts of draws, and come back as they were
    shown = ["exact", "exact"] if random else [f"{each:.4f}", f"{weighed:.4f}"]
    name = f"`{targets.spec.name}({', '.join(f'{k}={v}' for k, v in targets.hyper)})`"
    return [name if random else f"{name}, step {step:g}", f"{kept:.1f}", f"{size:.1f}", *shown, f"{per_second:,.0f}"]


def speed(read: Callable[[], Any]) -> float:
    """Tokens a second of processor time."""
    read()
    start = time.process_time()
    for _ in range(REPEATS):
        read()
    return REPEATS * ROWS * TOKENS / (time.process_time() - start)


def theirs(logp: Tensor, name: str, normalize: bool) -> list[str]:
    from distillkit.compression import DistributionQuantizationConfig, LogprobCompressor

    plain: dict[str, Any] = {"residual_bins": [], "delta_encoding": False, "normalize_t": normalize}
    compressor = LogprobCompressor(DistributionQuantizationConfig(**{"d": V, **plain, **PRESETS[name]}))
    packed = compressor.compress(logp)
    size = sum(column.shape[-1] * column.element_size() for column in packed.values())
    ids, read = compressor.decompress_to_sparse(packed)
    each, weighed = errors(ids.long(), read, logp)
    per_second = speed(lambda: compressor.decompress_to_sparse(packed))
    said = f"DistillKit, {name}" + (", `normalize_t`" if normalize else "")
    return [said, f"{ids.shape[-1]}", f"{size:.1f}", f"{each:.4f}", f"{weighed:.4f}", f"{per_second:,.0f}"]


def table() -> list[str]:
    """The rows of the table: what is kept, ids, bytes, errors, tokens a second of processor time."""
    logp = synthetic()
    rows = [ours(logp, *setting) for setting in OURS]
    if find_spec("distillkit") is not None:
        rows += [theirs(logp, name, normalize) for name in PRESETS for normalize in (False, True)]
    head = ("kept", "ids a token", "bytes a token", "error", "error, by p", "tokens read / s")
    return [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * 6, *rows)]
