"""Thirty noisy points of a sine, fitted by a net that is linear in its weights: what training ends in is known exactly.

The student is phi(x) . w with phi(x) = k(x, X) K^-1/2, so that |w| is the norm of its function in the space of the
Gaussian kernel: the mean of half squared errors with weight decay lambda / N has the minimum of kernel ridge
regression with penalty lambda.

Legend of shapes: B rows, N training rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.beds import Bed
from limbeck.data import Table
from limbeck.parts.kernel import rbf
from limbeck.probes.regression import mse
from limbeck.rng import Rng

__all__ = ["NOISE", "KernelMachine", "bed", "data"]

ROWS = {"train": 30, "valid": 60, "test": 200}
NOISE = 0.3
WIDTH = 0.5


def data(seed: int) -> dict[str, Table]:
    """Draw the splits: x (N, 1) uniform in [-pi, pi], y (N,) = sin(2 x) + noise; the test labels have no noise.

    Example:
        >>> {name: len(split) for name, split in data(0).items()}
        {'train': 30, 'valid': 60, 'test': 200}
    """
    splits = {}
    for name, n in ROWS.items():
        rng = Rng(("sines", name, seed), torch.arange(n))
        x = (2 * rng.uniform("x", 1).double() - 1) * torch.pi
        noise = 0.0 if name == "test" else NOISE
        splits[name] = Table({"x": x, "y": (2 * x[:, 0]).sin() + noise * rng.normal("noise").double()})
    return splits


class KernelMachine(nn.Module):
    """A function in the space of the Gaussian kernel, in float64, zero at first.

    Args:
        centres: (N, 1) the points whose kernels span the space.
        width: of the kernel.

    Example:
        >>> machine = KernelMachine(torch.zeros(1, 1, dtype=torch.float64), width=1.0)
        >>> machine({"x": torch.ones(2, 1, dtype=torch.float64)}, frozenset({"logits"}))["logits"].shape
        torch.Size([2, 1])
    """

    centres: Tensor
    root: Tensor

    def __init__(self, centres: Tensor, *, width: float) -> None:
        super().__init__()
        self.width = width
        d_N, v_NN = torch.linalg.eigh(rbf(centres, centres, width=width))
        inverse = torch.where(d_N > 1e-10 * d_N.max(), d_N, torch.inf).rsqrt()
        self.register_buffer("centres", centres)
        self.register_buffer("root", v_NN * inverse)
        self.weight = nn.Parameter(torch.zeros(len(centres), dtype=centres.dtype))

    def kernel(self, x: Tensor) -> Tensor:
        """The kernel between rows x (B, 1) and themselves, (B, B)."""
        return rbf(x, x, width=self.width)

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Tensor]:
        """Answer "logits", the function's values (B, 1), and "features", (B, N)."""
        features = rbf(batch["x"], self.centres, width=self.width) @ self.root
        return {"features": features, "logits": (features @ self.weight)[:, None]}


def _student(seed: int) -> nn.Module:
    centres = data(seed)["train"].columns["x"]
    assert isinstance(centres, Tensor)
    return KernelMachine(centres, width=WIDTH)


bed = Bed(
    key="sines",
    about="A noisy sine and a net that is linear in its weights: every fit is kernel ridge regression, known exactly.",
    players={"student": _student},
    data=data,
    probes={"mse": mse()},
)
