"""How the cost of a divergence grows: with the vocabulary, with the number of tokens, and with the tokens compared.

Forward KL by the fused sum, forward and backward, width 256; 512 tokens and a vocabulary of 32,000 where they do not
vary. Over the k likeliest tokens the two logits are still made, so that k costs little until it is large. Seconds are
those of the processor; memory is the peak beyond what was there before and beyond the gradient by the output matrix.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.divergence import cost
from limbeck.kernels.divergence import Divergence, Pair, forward_kl_terms
from limbeck.kernels.fused import fused_sum
from limbeck.kernels.head import TokenHead

REPEATS = 5
THREADS = 1
WIDTH, TOKENS, VOCABULARY = 256, 512, 32_000
VARIED = {
    "vocabulary": (8_000, 16_000, 32_000, 64_000, 151_936), "tokens": (128, 256, 512, 1024, 2048),
    "k": (8, 64, 512, 4096),
}  # fmt: skip
PICTURE = Path(__file__).parents[1] / "docs" / "growth.svg"
SIZE, EDGE = 220, 34


def measured(vocabulary: int = VOCABULARY, tokens: int = TOKENS, k: int = 0) -> tuple[float, float]:
    """Median seconds and peak in GiB."""
    torch.manual_seed(0)
    student, teacher = (
        TokenHead(torch.randn(tokens, WIDTH), torch.randn(vocabulary, WIDTH) * 3 / WIDTH**0.5) for _ in range(2)
    )
    student.hidden.requires_grad_()
    student.weight.requires_grad_()
    whole = Divergence(forward_kl_terms)
    pair: Pair = whole.on_top(k) if k else whole

    def work(student: TokenHead, teacher: TokenHead, _: float) -> torch.Tensor:
        loss = fused_sum(student, torch.ones(tokens), pair, teacher)
        loss.backward()
        return loss.detach()

    runs = [cost(work, student, teacher, 0.0) for _ in range(REPEATS)]
    return statistics.median(r[0] for r in runs), statistics.median(r[1] for r in runs)


def panel(name: str, points: Sequence[tuple[int, float]], left: int) -> str:
    """One log-log panel of a picture, with the slope of a cost that grows in proportion as a dashed line."""
    xs, ys = ([math.log(p[i]) for p in points] for i in range(2))
    low, span = min(ys), max(max(ys) - min(ys), xs[-1] - xs[0])

    def at(x: float, y: float) -> str:
        across = left + EDGE + (x - xs[0]) / (xs[-1] - xs[0]) * (SIZE - 2 * EDGE)
        return f"{across:.1f},{SIZE - EDGE - (y - low) / span * (SIZE - 2 * EDGE):.1f}"

    line = " ".join(at(x, y) for x, y in zip(xs, ys, strict=True))
    even = f"{at(xs[0], ys[0])} {at(xs[-1], ys[0] + xs[-1] - xs[0])}"
    ends = [(left + EDGE, "start", f"{points[0][0]:,}"), (left + SIZE - EDGE, "end", f"{points[-1][0]:,}")]
    texts = "".join(f'<text x="{x}" y="{SIZE - 16}" text-anchor="{a}">{t}</text>' for x, a, t in ends)
    says = f"{name}: {points[0][1]:.2g} to {points[-1][1]:.2g} s"
    title = f'<text x="{left + SIZE / 2}" y="16" text-anchor="middle">{says}</text>'
    return f'<polyline points="{even}" stroke-dasharray="3 4" opacity=".5"/><polyline points="{line}"/>{title}{texts}'


def picture(series: dict[str, list[tuple[int, float]]]) -> str:
    """Seconds against what varies, side by side."""
    panels = "".join(panel(name, points, i * SIZE) for i, (name, points) in enumerate(series.items()))
    style = "polyline{fill:none;stroke:#0d7d74;stroke-width:2}text{font:11px sans-serif;fill:#777}"
    about = "<title>Seconds against vocabulary, tokens and k; dashed: in proportion</title>"
    box = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE * len(series)} {SIZE}" role="img">'
    return f"{box}{about}<style>{style}</style>{panels}</svg>\n"


def table() -> list[str]:
    """The rows of the table, and the picture beside them."""
    out, series = ["| varied | value | CPU s | peak GiB |", "|---|---|---|---|"], dict[str, list[tuple[int, float]]]()
    for name, values in VARIED.items():
        for value in values:
            seconds, peak = measured(**{name: value})
            series.setdefault(name, []).append((value, seconds))
            out.append(f"| {name} | {value:,} | {seconds:.2f} | {peak:.3f} |")
    PICTURE.write_text(picture(series))
    return [*out, "", "![Seconds against vocabulary, tokens and k, log-log; dashed: in proportion](growth.svg)"]
