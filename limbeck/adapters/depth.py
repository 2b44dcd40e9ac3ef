"""The layers of a transformers model one by one: what flows between them.

Shapes: B rows, T tokens, H features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from limbeck.adapters.weights import wrapped
from limbeck.errors import BadValue

__all__ = ["layers_of", "streams"]


def layers_of(net: nn.Module) -> nn.ModuleList:
    """The stack of layers of the model in a net.

    Args:
        net: of a transformers model with one stack.

    Raises:
        BadValue: another net, or one with an encoder and a decoder.
    """
    model = wrapped(net)
    config: Any = getattr(model, "config", None)
    if model is None or config is None or getattr(config, "is_encoder_decoder", False):
        raise BadValue(f"layers are known for transformers models of one stack, not for {type(model or net).__name__}")
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == config.num_hidden_layers]
    if not stacks:
        raise BadValue(f"{type(model).__name__} has no list of its {config.num_hidden_layers} layers")
    return stacks[0]


@torch.no_grad()
def streams(net: nn.Module, batch: Any) -> list[Tensor]:
    """What flows into the first layer, between the layers, and out of the last.

    Args:
        net: a net of a transformers model.
        batch: what it reads.

    Returns:
        L + 1 tensors (B, T, H), before any final norm.

    Raises:
        BadValue: what `layers_of` raises.
    """
    layers, found = layers_of(net), list[Tensor]()

    def into(_layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.append(given[0] if given else named["hidden_states"])

    def out(_layer: nn.Module, _given: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_pre_hook(into, with_kwargs=True) for layer in layers]
    hooks.append(layers[-1].register_forward_hook(out))
    try:
        net(batch, frozenset({"hidden"}))
    finally:
        for hook in hooks:
            hook.remove()
    return found
