"""Students with fewer attention heads, as wide as before: whole groups go, a key-value head with the queries it serves.

Shapes: H features, K key-value heads, G queries to each, D features of a head.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import BadValue

__all__ = ["prune_heads"]


def prune_heads(model: nn.Module, heads: int) -> nn.Module:
    """Build a model with fewer heads from the weights of another.

    The groups that are kept are, layer by layer, those whose slice of the output projection is largest:
    |W_o[:, group]|_F. What goes would have been added to the stream, so the model computes what the other would
    with the output of those heads set to zero.

    Args:
        model: a transformers model whose heads may be narrower than its stream: Llama, Mistral, Qwen.
        heads: how many query heads are left; a multiple of those that share a key-value head.

    Raises:
        BadValue: another architecture, or a number that leaves no whole groups.

    Source: Michel et al., "Are Sixteen Heads Really Better than One?", arXiv:1905.10650, by magnitude and not by
        gradients.
    """
    old: Any = model.config
    kv = getattr(old, "num_key_value_heads", None)
    if not kv or not any(name.endswith("self_attn.o_proj.weight") for name, _ in model.named_parameters()):
        raise BadValue(f"from-teacher: heads is known for Llama, Mistral and Qwen, not for {type(model).__name__}")
    group = old.num_attention_heads // kv
    if heads % group or not group <= heads <= old.num_attention_heads:
        possible = ", ".join(str(group * n) for n in range(1, kv + 1))
        raise BadValue(f"heads {heads} leaves no whole groups; possible: {possible}")
    config = copy.deepcopy(old)
    config.head_dim = getattr(old, "head_dim", None) or old.hidden_size // old.num_attention_heads
    config.num_attention_heads, config.num_key_value_heads = heads, heads // group
    student: nn.Module = type(model)(config).to(next(model.parameters()).dtype)  # type: ignore[call-arg]
    theirs = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in student.named_parameters():
            weight.copy_(_kept(name, theirs, kv, heads // group))
    return student.eval()


def _kept(name: str, theirs: dict[str, Tensor], kv: int, left: int) -> Tensor:
    """What is kept of a weight."""
    found = re.match(r"(.*self_attn\.)([qkvo])_proj\.(weight|bias)$", name)
    if found is None or (found[2] == "o" and found[3] == "bias"):
        return theirs[name]
    out_HKx = theirs[f"{found[1]}o_proj.weight"].unflatten(1, (kv, -1))
    groups = out_HKx.norm(dim=(0, 2)).topk(left).indices.sort().values
    axis = 1 if found[2] == "o" else 0
    return theirs[name].unflatten(axis, (kv, -1)).index_select(axis, groups).flatten(axis, axis + 1)
