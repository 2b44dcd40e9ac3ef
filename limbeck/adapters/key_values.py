"""Key-value caches of the transformers library: rows that leave, rows that join, and room for what will be said.

Shapes: B rows, H heads, T tokens, D features of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

__all__ = ["Roomy", "joined", "joins"]

ROOM = 64  # tokens for which a layer makes room at least, once it is full


class Roomy(DynamicLayer):  # type: ignore[misc]
    """A layer that writes new tokens into room kept for them, where the library's own copies all that it holds.

    Args:
        layer: whose tokens it takes over.

    Attributes:
        keys: (B, H, T, D), a view of the part of the room that is taken.
        values: (B, H, T, D), likewise.
    """

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        assert layer.keys is not None and layer.values is not None
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self.keys, self.values = self._room = layer.keys, layer.values

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Take new tokens, and return all: keys and values.

        Args:
            key_states: (B, H, new, D).
            value_states: (B, H, new, D).
        """
        assert self.keys is not None and self.values is not None
        held, total = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        # keys that were reordered or replaced from outside do not lie in the room any more
        if total > self._room[0].shape[-2] or self.keys.data_ptr() != self._room[0].data_ptr():
            more = total + max(ROOM, total // 2)
            self._room = _with_room(self.keys, more), _with_room(self.values, more)
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, held:total] = new
        self.keys, self.values = (room[:, :, :total] for room in self._room)
        return self.keys, self.values


def _with_room(states: Tensor, tokens: int) -> Tensor:
    """The same states at the beginning of a larger tensor."""
    room = states.new_empty(*states.shape[:2], tokens, states.shape[-1])
    room[:, :, : states.shape[-2]] = states
    return room


def joins(cache: Any) -> bool:
    """Whether caches of this kind can be joined: attention over all that was said, or over a window of it."""
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    return type(cache) is DynamicCache and all(type(layer) in plain for layer in cache.layers)


def joined(caches: Sequence[DynamicCache]) -> DynamicCache:
    """Put the rows of caches one after the other, the shorter ones padded on the left, with room for more tokens.

    Args:
        caches: of one model, each of rows of one width; the last is the widest, and is changed.
    """
    for layers in zip(*(c.layers for c in caches), strict=True):
        widest = layers[-1]
        if len(caches) > 1:
            keys, values = ([layer.keys for layer in layers], [layer.values for layer in layers])
            widest.keys, widest.values = _left_padded(keys), _left_padded(values)
    whole = caches[-1]
    whole.layers = [Roomy(layer) if type(layer) is DynamicLayer else layer for layer in whole.layers]
    return whole


def _left_padded(states: Sequence[Tensor]) -> Tensor:
    width = states[-1].shape[-2]
    return torch.cat([F.pad(x, (0, 0, width - x.shape[-2], 0)) for x in states])
