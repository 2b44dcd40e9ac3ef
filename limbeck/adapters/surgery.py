"""Students cut from their teachers: evenly spaced layers, the strongest slices of heads, neurons and features, and
narrower tables of words.

Which axis of a weight is the stream of features (H), the query heads (Q), the key and value heads (K) or the
feed-forward neurons (F) is said by `AXES`; every sliced weight is checked against the shape that the student has.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.adapters.factorise import factorise
from limbeck.adapters.heads import prune_heads
from limbeck.adapters.weights import wrapped
from limbeck.errors import BadValue, unknown

__all__ = ["parse_sizes", "shrink"]

# Name of the weight, and what its leading axes are; "-" is left whole, "3" is Q, K and V side by side.
AXES = (
    (r"c_attn\.weight$", "H3"),
    (r"c_attn\.bias$", "3"),
    (r"attn\.c_proj\.weight$", "QH"),
    (r"c_fc\.weight$", "HF"),
    (r"mlp\.c_proj\.weight$", "FH"),
    (r"(q_proj|query|q_lin)\.", "QH"),
    (r"(k_proj|v_proj|key|value|k_lin|v_lin)\.", "KH"),
    (r"(o_proj|attention\.output\.dense|attention\.out_lin)\.", "HQ"),
    (r"(gate_proj|up_proj|intermediate\.dense|ffn\.lin1|c_fc)\.", "FH"),
    (r"(down_proj|\d\.output\.dense|ffn\.lin2)\.", "HF"),
    (r"(q_norm|k_norm)\.", "-"),
    (r"(pooler|transform|lm_head|classifier)\.dense\.|pre_classifier\.|vocab_transform\.", "HH"),
    (r"(embed_tokens|wte|wpe|\w+_embeddings|lm_head|decoder|classifier|score|out_proj|vocab_projector)\.weight$", "-H"),
    (r"(predictions|decoder|lm_head|classifier|out_proj|vocab_projector)\.bias$", "-"),
    (r"([Nn]orm\w*|ln_\w+)\.(weight|bias)$", "H"),
    (r"c_proj\.bias$", "H"),
)
LAYER = re.compile(r"^(.*?\.)(\d+)(\..*)$")


def parse_sizes(spec: str) -> dict[str, Any]:
    """Read `from-teacher:layers=6,width=0.5,heads=8,embedding=64`.

    Raises:
        UnknownName: another name than layers, width, heads and embedding.
        BadValue: no number.

    Example:
        >>> parse_sizes("from-teacher:layers=6,width=0.5")
        {'layers': 6, 'width': 0.5}
    """
    kinds = {"layers": int, "width": float, "heads": int, "embedding": int}
    sizes: dict[str, Any] = {}
    for pair in filter(None, spec.partition(":")[2].split(",")):
        name, _, value = pair.partition("=")
        if name not in kinds:
            raise unknown("size", name, kinds, where=spec)
        try:
            sizes[name] = kinds[name](value)
        except ValueError:
            raise BadValue(f"{name} in {spec!r} must be {kinds[name].__name__}, got {value!r}") from None
    return sizes


@dataclass(frozen=True)
class _Cut:
    """What is kept: layers by number, indices by axis, per layer where layers choose for themselves."""

    layers: list[int]
    features: Tensor
    heads: Mapping[int, dict[str, Tensor]]

    def of(self, axis: str, layer: int) -> Tensor:
        return self.features if axis == "H" else self.heads[layer][axis]


def shrink(
    net: nn.Module, layers: int | Sequence[int] | None = None, width: float = 1.0, embedding: int = 0, heads: int = 0
) -> nn.Module:
    """Build a smaller net from the weights of another.

    Layers are spaced evenly and keep the first and the last. Heads and neurons are those whose output weights are
    largest, layer by layer; features those with the largest embeddings. With all layers and width 1 the net is a copy.
    Fewer heads (see `prune_heads`) or a narrow table of words (see `factorise`) come last.

    Args:
        net: of a transformers model; width is known for Llama, Mistral, Qwen, GPT-2, BERT, RoBERTa and DistilBERT.
        layers: how many, or which by number, in their order; all by default.
        width: the part of heads, neurons and features that is kept, in (0, 1]; heads are kept whole.
        embedding: columns of the table of words, of BERT encoders, which become ELECTRA encoders; 0 for all.
        heads: query heads of every layer, whatever the width of the stream; 0 for all.

    Returns:
        The student, with the teacher's tokenizer and `path`.

    Raises:
        BadValue: more layers than there are, or others, a width that leaves no whole head, or an unknown architecture.

    Source: layers as in Sanh et al., "DistilBERT", arXiv:1910.01108, section 3; width by magnitude as in Xia et al.,
        "Sheared LLaMA", arXiv:2310.06694, without its learned masks.
    """
    model = wrapped(net)
    if model is None or hasattr(model, "merge_and_unload"):
        kind = type(net).__name__ if model is None else "LoRA adapter; merge it first"
        raise BadValue(f"from-teacher needs a transformers model, the teacher is a {kind}")
    total = model.config.num_hidden_layers
    kept = _layers(total if layers is None else layers, total)
    if not 0 < width <= 1:
        raise BadValue(f"from-teacher needs width in (0, 1], got {width:g}")
    if width < 1 and (model.config.is_encoder_decoder or not hasattr(model.config, _ffn_name(model.config))):
        raise BadValue(f"from-teacher: width is not known for {type(model).__name__}; give layers only")
    config = _config(model.config, kept, width)
    student = type(model)(config).to(next(model.parameters()).dtype)
    cut = None if width == 1 else _choose(model, kept, config)
    theirs = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, weight in student.named_parameters():
            source, layer = _teacher_name(name, kept)
            value = theirs[source] if cut is None else _slice(name, theirs[source], cut, layer)
            if value.shape != weight.shape:
                raise BadValue(
                    f"from-teacher: no rule fits {name!r} {tuple(theirs[source].shape)} of {type(model).__name__}"
                )
            weight.copy_(value)
    student = prune_heads(student, heads) if heads else student.eval()
    return _rewrap(net, model, factorise(student, embedding) if embedding else student)


def _layers(wanted: int | Sequence[int], total: int) -> list[int]:
    """The layers that are kept, by number.

    Example:
        >>> _layers(3, 6), _layers((0, 5), 6)
        ([0, 2, 5], [0, 5])
    """
    if isinstance(wanted, int):
        if not 1 <= wanted <= total:
            raise BadValue(f"from-teacher: layers must be 1 to {total}, got {wanted}")
        return torch.linspace(0, total - 1, wanted).round().int().tolist() if wanted > 1 else [0]
    if not wanted or list(wanted) != sorted(set(wanted)) or not 0 <= wanted[0] <= wanted[-1] < total:
        raise BadValue(f"layers to keep are different numbers from 0 to {total - 1} in order, got {list(wanted)}")
    return list(wanted)


def _rewrap(net: nn.Module, model: nn.Module, student: nn.Module) -> nn.Module:
    """The same net around another model."""
    return copy.deepcopy(net, {id(model): student})


def _teacher_name(name: str, kept: list[int]) -> tuple[str, int]:
    """The teacher's weight that a weight of the student comes from, and its layer there."""
    match = LAYER.match(name)
    if match is None:
        return name, 0
    layer = kept[int(match[2])]
    return f"{match[1]}{layer}{match[3]}", layer


def _config(config: Any, kept: list[int], width: float) -> Any:
    """The student's config."""
    small, total = copy.deepcopy(config), config.num_hidden_layers
    small.num_hidden_layers = len(kept)
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == total and name == "layer_types":
            setattr(small, name, [value[i] for i in kept])
    if hasattr(small, "num_decoder_layers"):
        small.num_decoder_layers = len(kept)
    if width == 1:
        return small
    head, (kv, group) = _head_dim(config), _groups(config, width)
    small.num_attention_heads = kv * group
    if getattr(config, "num_key_value_heads", None):
        small.num_key_value_heads = kv
    if getattr(config, "head_dim", None):
        small.head_dim = head
    tied = config.hidden_size == config.num_attention_heads * head
    small.hidden_size = head * kv * group if tied else round(config.hidden_size * width)
    name = _ffn_name(config)
    setattr(small, name, round(_ffn(config) * width))
    return small


def _ffn_name(config: Any) -> str:
    return next((name for name in ("n_inner", "hidden_dim") if hasattr(config, name)), "intermediate_size")


def _ffn(config: Any) -> int:
    return int(getattr(config, _ffn_name(config)) or 4 * config.hidden_size)


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _groups(config: Any, width: float) -> tuple[int, int]:
    """Key-value heads of the student, and query heads to each: fewer groups where that is even, else smaller ones."""
    heads = config.num_attention_heads
    kv = getattr(config, "num_key_value_heads", None) or heads
    group = heads // kv
    for fewer, smaller in ((kv * width, group), (kv, group * width)):
        if fewer >= 1 and smaller >= 1 and float(fewer).is_integer() and float(smaller).is_integer():
            return int(fewer), int(smaller)
    possible = sorted({n / kv for n in range(1, kv + 1)} | {n / group for n in range(1, group + 1)})
    shown = ", ".join(f"{w:.6g}" for w in possible)
    raise BadValue(f"width {width:g} leaves no whole heads of {heads} ({kv} key-value heads); possible: {shown}")


def _choose(model: nn.Module, kept: list[int], config: Any) -> _Cut:
    """The indices that are kept."""
    old, head = model.config, _head_dim(model.config)
    embedding: Tensor = model.get_input_embeddings().weight  # type: ignore[operator]
    features = _top(embedding.norm(dim=0), config.hidden_size)
    heads: dict[int, dict[str, Tensor]] = {}
    for name, weight in model.named_parameters():
        match, axes = LAYER.match(name), _axes(name)
        if match and int(match[2]) in kept and weight.ndim == 2 and set(axes) in ({"H", "Q"}, {"H", "F"}):
            out = re.search(r"o_proj|c_proj|output\.dense|out_lin|down_proj|lin2", name)
            if out is not None:
                strength = weight.detach().norm(dim=axes.index("H"))
                heads.setdefault(int(match[2]), {}).update(_of_layer(axes, strength, old, config, head))
    return _Cut(kept, features, heads)


def _of_layer(axes: str, strength: Tensor, old: Any, new: Any, head: int) -> dict[str, Tensor]:
    """The indices of one layer: its neurons, or its query heads with the key-value heads that serve them."""
    if "F" in axes:
        return {"F": _top(strength, _ffn(new))}
    kv = getattr(old, "num_key_value_heads", None) or old.num_attention_heads
    new_kv = getattr(new, "num_key_value_heads", None) or new.num_attention_heads
    by_head_KG = strength.view(kv, -1, head).norm(dim=-1)
    groups = _top(by_head_KG.norm(dim=1), new_kv)
    size = new.num_attention_heads // new_kv
    queries = torch.cat([g * by_head_KG.shape[1] + _top(by_head_KG[g], size) for g in groups.tolist()])
    q, k = (_spread(chosen, head) for chosen in (queries, groups))
    wide = old.num_attention_heads * head
    return {"Q": q, "K": k, "3": torch.cat((q, q + wide, q + 2 * wide))}


def _top(strength: Tensor, n: int) -> Tensor:
    """The n strongest, in their old order.

    Example:
        >>> _top(torch.tensor([3.0, 1.0, 2.0]), 2).tolist()
        [0, 2]
    """
    return strength.detach().topk(n).indices.sort().values


def _spread(heads: Tensor, size: int) -> Tensor:
    """The rows of heads.

    Example:
        >>> _spread(torch.tensor([0, 2]), 2).tolist()
        [0, 1, 4, 5]
    """
    return (heads[:, None] * size + torch.arange(size, device=heads.device)).flatten()


def _axes(name: str) -> str:
    return next((axes for pattern, axes in AXES if re.search(pattern, name)), "")


def _slice(name: str, weight: Tensor, cut: _Cut, layer: int) -> Tensor:
    """Keep the chosen indices of every axis that has a meaning."""
    for dim, axis in enumerate(_axes(name)[: weight.ndim]):
        if axis != "-":
            weight = weight.index_select(dim, cut.of(axis, layer))
    return weight
