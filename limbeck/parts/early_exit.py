"""A draft that is a part of its target: the first layers, one more that learns, and the target's own output layer."""

from __future__ import annotations

from torch import nn

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import part
from limbeck.players import Players

__all__ = ["early_exit"]


@part
def early_exit(players: Players, batch: Batch, *, layers: int = 5) -> nn.Module:
    """Build a draft from the teacher's first layers, which stay as they are, and one layer and a last norm that learn.

    q(. | x) = softmax(W norm(layer(h_N(x)))), h_N the stream after N layers, W the teacher's output matrix

    Args:
        players: the teacher, of a transformers model; it stays as it is.
        batch: not read.
        layers: N; the layer that learns begins as the teacher's next one.

    Raises:
        BadValue: no layer, or none left to exit from.
    """
    from limbeck.adapters.depth import layers_of  # recipes name this part: reading them needs no model library
    from limbeck.adapters.surgery import shrink
    from limbeck.adapters.weights import wrapped

    teacher: nn.Module = players.teacher.module  # type: ignore[assignment]
    total = len(layers_of(teacher))
    if not 1 <= layers < total:
        raise BadValue(f"early_exit needs 1 <= layers < {total}, the layers of the teacher, got {layers}")
    draft = shrink(teacher, range(layers + 1)).requires_grad_(False)
    stack = layers_of(draft)
    stack[-1].requires_grad_(True)
    for module in wrapped(draft).base_model.children():
        if module is not stack and not isinstance(module, nn.Embedding):
            module.requires_grad_(True)
    return draft
