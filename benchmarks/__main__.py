"""Run benchmarks and write docs/benchmarks.md: all of them, or those named, whose sections alone are replaced."""

from __future__ import annotations

import platform
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
TITLES = {
    "loop": "The loop", "divergence": "Token divergences", "growth": "How divergences grow",
    "cache": "The cache of the teacher", "recalled": "Training from the cache", "rollouts": "Sampling",
    "speculative": "Speculative decoding", "step": "A whole step", "fields": "Few-step distillation",
    "footprint": "Memory of few-step distillation", "compiled": "Compiled nets", "matching": "A step of flow matching",
    "sampled": "Sampling a student in diffusers",
}  # fmt: skip


def section(name: str, module: ModuleType) -> str:
    """Measure and tell one benchmark."""
    torch.set_num_threads(module.THREADS)
    how = f"`python -m benchmarks {name}`, {module.THREADS} thread{'s' * (module.THREADS > 1)} of {platform.machine()}"
    medians = f"medians of {module.REPEATS} interleaved repeats"
    lines = [f"## {TITLES[name]}", "", (module.__doc__ or "").strip(), ""]
    return "\n".join([*lines, f"{how}, torch {torch.__version__}; {medians}.", "", *module.table()])


def main(*names: str) -> None:
    """Measure, print and write."""
    text = PAGE.read_text() if PAGE.exists() else ""
    known = {part.partition("\n")[0]: part.rstrip() for part in text.split("\n## ")[1:]}
    for name, title in TITLES.items():
        if not names or name in names:
            known[title] = section(name, import_module(f"benchmarks.{name}")).removeprefix("## ")
            print(known[title])
    head = "# Benchmarks\n\n`make bench` runs them all; each section names the command that runs it alone.\n"
    PAGE.write_text(head + "".join(f"\n## {known[t]}\n" for t in TITLES.values() if t in known))


if __name__ == "__main__":
    main(*sys.argv[1:])
