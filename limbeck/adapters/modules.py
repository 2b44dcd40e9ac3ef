"""Any PyTorch module as a net: its output, the input of its last linear layer, and the output of any module inside.

Legend of shapes: B rows, C classes, D features.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from limbeck.errors import BadValue, Mismatch, unknown

__all__ = ["Plain", "from_factory"]

TAP = "tap:"


class Plain(nn.Module):
    """A module that knows nothing of limbeck, as a net.

    It answers "logits", its output (B, C); "features", the input of its head (B, D); and "tap:<path>", the output of
    the module at that dotted path (the first of a tuple; of a module that runs several times, the last). Forward
    hooks stand only while such an answer is computed, and record only in the thread that asked.

    Args:
        net: the module; called with the columns in order, it returns one tensor.
        columns: the columns of the batch that it takes.
        head: the dotted path of the module whose input is "features"; empty for the last linear layer.

    Raises:
        UnknownName: a head that the module does not have.

    Example:
        >>> import torch
        >>> net = Plain(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
        >>> answers = net({"x": torch.zeros(5, 4)}, frozenset({"logits", "features", "tap:0"}))
        >>> {want: tuple(answer.shape) for want, answer in sorted(answers.items())}
        {'features': (5, 3), 'logits': (5, 2), 'tap:0': (5, 3)}
    """

    def __init__(self, net: nn.Module, *, columns: tuple[str, ...] = ("x",), head: str = "") -> None:
        super().__init__()
        self.net, self.columns = net, columns
        self.head = head or _last_linear(net)
        if head:
            _inside(net, head)

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer what is wanted in one forward of the module.

        Args:
            batch: the columns; those of `columns` are passed on.
            want: any of "logits", "features" and "tap:<path>".

        Returns:
            want to answer.

        Raises:
            UnknownName: another want, or a path that leads to no module.
            Mismatch: an output that is not a tensor, features of a module without a head, or a tap that did not run.
        """
        taken: dict[str, Any] = {}
        with ExitStack() as hooks:
            for name in want - {"logits"}:
                hooks.enter_context(self._hook(name, taken))
            logits = self.net(*(batch[c] for c in self.columns))
        if not isinstance(logits, Tensor):
            raise Mismatch(f"{type(self.net).__name__} must return one tensor, it returned {type(logits).__name__}")
        if silent := want - {"logits"} - taken.keys():
            raise Mismatch(f"{min(silent)!r} cannot be answered: that module of {type(self.net).__name__} did not run")
        return {w: logits if w == "logits" else taken[w] for w in want}

    def _hook(self, name: str, taken: dict[str, Any]) -> Any:
        """Hang the hook that records one answer."""
        asker = threading.get_ident()

        def keep(value: Any) -> None:
            if threading.get_ident() == asker:
                taken[name] = value[0] if isinstance(value, tuple) else value

        if name.startswith(TAP):
            found = _inside(self.net, name.removeprefix(TAP))
            return found.register_forward_hook(lambda _module, _given, out: keep(out))
        if name != "features":
            raise unknown("answer", name, ("logits", "features", TAP + "<path>"), where=type(self.net).__name__)
        if not self.head:
            raise Mismatch(f"{type(self.net).__name__} has no linear layer; say which module is the head")
        return _inside(self.net, self.head).register_forward_pre_hook(lambda _module, given: keep(given))


def _last_linear(net: nn.Module) -> str:
    linear = [path for path, module in net.named_modules() if isinstance(module, nn.Linear) and path]
    return linear[-1] if linear else ""


def _inside(net: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path."""
    modules = dict(net.named_modules())
    if path not in modules or not path:
        raise unknown("module", path, modules.keys() - {""}, where=type(net).__name__)
    return modules[path]


def from_factory(source: str) -> Plain:
    """Build a net from `package.module:factory`, a function or class without required arguments.

    Args:
        source: the dotted path of an importable module, a colon, and a name in it.

    Returns:
        What the factory returns, as a net.

    Raises:
        BadValue: a source of another form, a module that cannot be imported, or a factory that makes no `nn.Module`.
        UnknownName: a name that the module does not have.

    Example:
        >>> from_factory("torch.nn:Identity").net
        Identity()
    """
    place, _, name = source.partition(":")
    if not (place and name):
        raise BadValue(f"a factory is written package.module:name, got {source!r}")
    try:
        module = importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise BadValue(f"cannot import {place!r} of {source!r}: {error}") from error
    if not hasattr(module, name):
        raise unknown("factory", name, (n for n in dir(module) if not n.startswith("_")), where=place)
    factory: Callable[[], Any] = getattr(module, name)
    net = factory()
    if not isinstance(net, nn.Module):
        raise BadValue(f"{source!r} must make an nn.Module, it made {type(net).__name__}")
    return Plain(net)
