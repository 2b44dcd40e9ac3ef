"""Run every benchmark and write docs/benchmarks.md."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from benchmarks import cache, loop

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def main() -> None:
    """Measure, print and write."""
    torch.set_num_threads(1)
    lines = ["# Benchmarks", "", f"`make bench`, one thread of {platform.machine()}, torch {torch.__version__}.", ""]
    lines += ["## The loop", "", (loop.__doc__ or "").strip(), "", f"Medians of {loop.REPEATS} interleaved pairs.", ""]
    lines += [*loop.table(), "", "## The cache of the teacher", "", (cache.__doc__ or "").strip(), "", *cache.table()]
    print("\n".join(lines))
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
