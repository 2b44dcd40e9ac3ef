"""Any net of a diffusion bridge, as a field of rectified flow that is told the source.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from limbeck.adapters.field import ENDS
from limbeck.errors import Mismatch
from limbeck.parts.bridge import Bridge, BridgeHead, to_bridge
from limbeck.parts.path import expectations
from limbeck.parts.states import like

__all__ = ["BridgeField"]


class BridgeField(nn.Module):
    """A net between data and their sources, asked on the path of rectified flow.

    Args:
        net: a module; `call` says how it is run.
        bridge: the bridge on which it is, or was, trained.
        head: what it predicts.
        call: `(net, x, u, batch) -> answer`, with x and u on the bridge; the source is `batch["source"]`.
        classes: the classes that the column y names; 0 for an unconditional net.

    Example:
        >>> import torch
        >>> from limbeck.parts.bridge import brownian, lifted
        >>> from limbeck.parts.path import data_head
        >>> field = BridgeField(nn.Identity(), brownian(), lifted(data_head), lambda net, x, u, batch: net(x))
        >>> rows = {"x": torch.ones(1, 2), "t": torch.tensor([0.5]), "source": torch.ones(1, 2)}
        >>> field(rows, frozenset({"x0"}))["x0"]
        tensor([[1.5000, 1.5000]])

    Source: Zhou et al., arXiv:2309.16948; Liu et al., arXiv:2302.05872.
    """

    def __init__(
        self,
        net: nn.Module,
        bridge: Bridge,
        head: BridgeHead,
        call: Callable[[nn.Module, Tensor, Tensor, Mapping[str, Any]], Tensor],
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.net, self.bridge, self.head, self.call, self.classes = net, bridge, head, call, classes

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer "x0", "eps", "velocity" and "score" on columns x (B, ...), t (B,) and source (B, ...).

        Raises:
            UnknownName: rows without a source.
            Mismatch: an answer of another shape than x.
        """
        x, source = batch["x"], batch["source"]
        t = batch["t"].to(x.dtype).clamp(ENDS, 1 - ENDS)
        there, u = to_bridge(self.bridge, x, t, source)
        h = self.call(self.net, there, u, batch)
        if h.shape != x.shape:
            raise Mismatch(f"{type(self.net).__name__} answers {tuple(h.shape)} to states {tuple(x.shape)}")
        p, o, q = self.head(self.bridge, t)
        own = like(self.bridge.alpha(t) + self.bridge.sigma(t), x) * x
        x0, eps = expectations(self.bridge.reduced, lambda path, t: (p, q), h - like(o, x) * source, own, t)
        found = {"x0": x0, "eps": eps, "velocity": eps - x0, "score": -eps / like(t, x)}
        return {w: found[w] for w in want & found.keys()}
