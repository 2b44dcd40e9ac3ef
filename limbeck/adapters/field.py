"""Any net of a Gaussian path, as a field of rectified flow.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from limbeck.errors import Mismatch
from limbeck.parts.path import Head, Path, expectations, from_rectified
from limbeck.parts.states import like

__all__ = ["ENDS", "Field"]

ENDS = 1e-5
"""How near to pure data and pure noise a net of another path is asked: where it stands, it says nothing or too much."""


class Field(nn.Module):
    """A net of any Gaussian path and head, asked on the path of rectified flow.

    Args:
        net: a module; `call` says how it is run.
        path: the path on which it was trained.
        head: what it predicts.
        call: `(net, x, t, batch) -> answer`, with x and t in the net's own convention.
        classes: the classes that the column y names; 0 for an unconditional net.

    Example:
        >>> import torch
        >>> from limbeck.parts.path import EDM, eps_head
        >>> field = Field(nn.Identity(), EDM, eps_head, lambda net, x, t, batch: net(x))
        >>> field({"x": torch.ones(1, 2), "t": torch.tensor([0.5])}, frozenset({"x0"}))["x0"]
        tensor([[0., 0.]])
    """

    def __init__(
        self,
        net: nn.Module,
        path: Path,
        head: Head,
        call: Callable[[nn.Module, Tensor, Tensor, Mapping[str, Any]], Tensor],
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.net, self.path, self.head, self.call, self.classes = net, path, head, call, classes

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer "x0", "eps", "velocity" and "score" on columns x (B, ...) and t (B,).

        Raises:
            Mismatch: an answer of another shape than x, or one that is not finite though x is.
        """
        x, t = batch["x"], batch["t"].to(batch["x"].dtype).clamp(ENDS, 1 - ENDS)
        there, time = from_rectified(self.path, x, t)
        h = self.call(self.net, there, time, batch)
        if h.shape != x.shape:
            raise Mismatch(f"{type(self.net).__name__} answers {tuple(h.shape)} to states {tuple(x.shape)}")
        if (
            x.device.type == "cpu" and bool(x.isfinite().all()) and not bool(h.isfinite().all())
        ):  # elsewhere one would wait
            raise Mismatch(f"{type(self.net).__name__} answers NaN or infinity to states that are finite")
        x0, eps = expectations(self.path, self.head, h, there, time)
        found = {"x0": x0, "eps": eps, "velocity": eps - x0, "score": -eps / like(t, x)}
        return {w: found[w] for w in want & found.keys()}
