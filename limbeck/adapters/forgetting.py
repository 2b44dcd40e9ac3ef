"""Caches that forget: tokens that were read, and turned out not to be said, are taken out of what a net remembers.

A cache is what a net answers as "cache": the key-value cache of a transformers model, or the tokens themselves.

Shapes: B rows, S slots of the cache, T slots that stay.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from limbeck.adapters.key_values import Roomy, joined
from limbeck.errors import BadValue

__all__ = ["cropped", "empty", "gathered", "roomy", "selected"]

PLAIN = (DynamicLayer, DynamicSlidingWindowLayer)


def empty(cache: Any, who: str) -> tuple[Any, bool]:
    """An empty cache of a kind that can forget, and whether slots may be left out between those that count.

    Layers that would keep a window of the last tokens keep all of them instead, since those that are forgotten uncover
    older ones; the model's own mask makes the window, which counts slots, so that none may be left out in between.

    Args:
        cache: what the net answers after any token.
        who: its player, for the message.

    Raises:
        BadValue: a memory that cannot be taken back, such as the state of a recurrent layer.
    """
    if isinstance(cache, Tensor):
        return None, False
    layers = getattr(cache, "layers", None)
    if type(cache) is not DynamicCache or not layers or not all(type(layer) in PLAIN for layer in layers):
        kinds = sorted({type(layer).__name__ for layer in layers or [cache]})
        raise BadValue(
            f"{who} cannot forget tokens that it has read, as speculation asks: its memory is {', '.join(kinds)}, and "
            "only the keys and values of every token can be taken back"
        )
    return DynamicCache(), all(type(layer) is DynamicLayer for layer in layers)


def roomy(cache: Any) -> Any:
    """The cache with room for new tokens, where it would copy all that it holds to take them."""
    return cache if isinstance(cache, Tensor) else joined([cache])


def cropped(cache: Any, slots: int) -> Any:
    """The cache without its last slots.

    Args:
        cache: of any kind that can forget.
        slots: how many go.
    """
    if isinstance(cache, Tensor):
        return cache[:, : cache.shape[1] - slots]
    cache.crop(-slots)
    return cache


def selected(cache: Any, rows: Tensor) -> Any:
    """The cache of these rows."""
    if isinstance(cache, Tensor):
        return cache[rows]
    cache.reorder_cache(rows)
    return cache


def gathered(cache: Any, at_BT: Tensor) -> Any:
    """The cache with other slots in each row.

    Args:
        cache: of any kind that can forget.
        at_BT: which slots, in their order.
    """
    if isinstance(cache, Tensor):
        return cache.gather(1, at_BT)
    for layer in cache.layers:
        layer.keys, layer.values = (_taken(states, at_BT) for states in (layer.keys, layer.values))
    cache.layers = [Roomy(layer) for layer in cache.layers]
    return cache


def _taken(states: Tensor, at_BT: Tensor) -> Tensor:
    return states.gather(2, at_BT[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[-1]))
