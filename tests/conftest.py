"""What tests share: small nets, a small recipe, and where real data sets are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

torch.set_num_threads(1)


class Net(nn.Module):
    """A two-layer net on column x that answers `logits`."""

    def __init__(self, width: int = 8, inputs: int = 2, outputs: int = 3, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, outputs))
        self.calls = 0

    def forward(self, batch: Mapping[str, Tensor], want: frozenset[str]) -> dict[str, Any]:
        self.calls += 1
        x = batch["x"]
        return {"logits": self.body(x), "features": self.body[0](x)}


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same numbers, in whatever order tests run."""
    torch.manual_seed(0)


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets, or a skip."""
    folder = os.environ.get("LIMBECK_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LIMBECK_DATA does not name a folder of real data sets")
    return Path(folder)
