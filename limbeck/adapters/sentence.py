"""Sentence embedders: the directory layout of sentence-transformers, read and written with plain transformers.

The layout is a list of modules (`modules.json`): a transformer, a pooling, then dense layers and a normalisation, where
there are any.

Shapes: B rows, T tokens, D features, N sentences.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.adapters.causal_lm import taps
from limbeck.adapters.encoder import seen
from limbeck.adapters.weights import check_weights, read_json
from limbeck.errors import BadWeights, unknown

__all__ = ["Sentence", "encode", "read_modules", "write_modules"]

PREFIX = "sentence_transformers.models."
MODES = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": lambda h, m: h[:, 0],
    "mean": lambda h, m: (h * m).sum(1) / m.sum(1).clamp(min=1e-9),
    "max": lambda h, m: h.masked_fill(m == 0, -torch.inf).amax(1),
    "mean_sqrt_len_tokens": lambda h, m: (h * m).sum(1) / m.sum(1).clamp(min=1e-9).sqrt(),
    "lasttoken": lambda h, m: h[torch.arange(len(h), device=h.device), m[:, :, 0].long().sum(1) - 1],
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "Identity": nn.Identity,
    "Tanh": nn.Tanh,
    "GELU": nn.GELU,
    "ReLU": nn.ReLU,
}


class Sentence(nn.Module):
    """An encoder, a pooling, dense layers and a normalisation as one net; it answers "embedding" (B, D).

    Args:
        model: the transformer.
        tokenizer: its tokenizer, with `model_max_length` as the layout says.
        poolings: one or several of "cls", "mean", "max", "mean_sqrt_len_tokens", "lasttoken"; they are concatenated.
        dense: pairs of a linear layer and an activation, in order.
        normalise: whether embeddings have length one.

    Raises:
        UnknownName: a pooling of another name.

    Source: Reimers and Gurevych, "Sentence-BERT", arXiv:1908.10084, section 3.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        poolings: Sequence[str] = ("mean",),
        dense: Sequence[nn.Module] = (),
        normalise: bool = True,
    ) -> None:
        super().__init__()
        for name in poolings:
            if name not in POOLINGS:
                raise unknown("pooling", name, POOLINGS)
        self.model, self.tokenizer = model, tokenizer
        self.poolings, self.normalise = tuple(poolings), normalise
        self.dense = nn.ModuleList(dense)
        self.context: int | None = min(
            tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 1 << 30)
        )
        self.train(model.training)

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer what is wanted on `tokens` (B, T) and `length` (B,).

        Args:
            batch: the columns.
            want: "embedding" or "features" (B, D), "hidden" (B, T, D) up to the end of the longest row, "tap:<path>".

        Returns:
            The answers by name.
        """
        tokens = batch["tokens"][:, : int(batch["length"].max())]  # cached rows are padded to the longest of all
        attended = seen(tokens, batch["length"])
        with taps(self.model, want) as answers:
            hidden = self.model(input_ids=tokens, attention_mask=attended)["last_hidden_state"]
        mask = attended[:, :, None].to(hidden.dtype)
        pooled = torch.cat([POOLINGS[name](hidden, mask) for name in self.poolings], -1)
        for layer in self.dense:
            pooled = layer(pooled)
        embedding = F.normalize(pooled, dim=-1) if self.normalise else pooled
        made = {"embedding": embedding, "features": embedding, "hidden": hidden}
        return answers | {name: made[name] for name in want & made.keys()}


@torch.no_grad()
def encode(net: Sentence, texts: Sequence[str], batch_size: int = 64) -> Tensor:
    """Embed sentences, the longest first, so that little is padded.

    Args:
        net: the embedder.
        texts: the sentences.
        batch_size: sentences at a time.

    Returns:
        (N, D) in the order given.
    """
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    out: list[Tensor] = []
    device = next(net.parameters()).device
    for start in range(0, len(order), batch_size):
        some = [texts[i] for i in order[start : start + batch_size]]
        coded = net.tokenizer(
            some, padding=True, padding_side="right", truncation=True, max_length=net.context, return_tensors="pt"
        ).to(device)
        batch = {"tokens": coded["input_ids"], "length": coded["attention_mask"].sum(1)}
        out.append(net(batch, frozenset({"embedding"}))["embedding"])
    return torch.cat(out)[torch.tensor(order, device=device).argsort()]


def read_modules(directory: Path, model: Any, tokenizer: Any) -> Sentence:
    """Put an embedder together as `modules.json` says.

    Args:
        directory: the layout.
        model: its transformer, loaded.
        tokenizer: its tokenizer.

    Raises:
        BadWeights: a module of a kind that is not known here, or a broken file.
    """
    poolings, dense, normalise = ["mean"], [], False
    for module in read_json(directory / "modules.json"):
        kind, place = module["type"].rsplit(".", 1)[-1], directory / module["path"]
        if kind == "Pooling":
            poolings = _poolings(read_json(place / "config.json"))
        elif kind == "Dense":
            dense.append(_read_dense(place))
        elif kind == "Normalize":
            normalise = True
        elif kind not in ("Transformer", "Dropout"):
            raise BadWeights(f"{directory}: unknown module {kind!r}; possible: Transformer, Pooling, Dense, Normalize")
    settings = directory / "sentence_bert_config.json"
    if settings.exists() and (length := read_json(settings).get("max_seq_length")):
        tokenizer.model_max_length = length
    return Sentence(model, tokenizer, poolings, dense, normalise)


def _poolings(config: Mapping[str, Any]) -> list[str]:
    """The poolings, in the order in which they are concatenated; both ways to write them.

    Example:
        >>> _poolings({"pooling_mode_cls_token": True}), _poolings({"pooling_mode": "mean"})
        (['cls'], ['mean'])
    """
    if "pooling_mode" in config:
        mode = config["pooling_mode"]
        return [mode] if isinstance(mode, str) else list(mode)
    return [name for name, flag in MODES.items() if config.get(flag)] or ["mean"]


def _read_dense(place: Path) -> nn.Module:
    config = read_json(place / "config.json")
    activation = str(config.get("activation_function", "Identity")).rsplit(".", 1)[-1]
    if activation not in ACTIVATIONS:
        raise BadWeights(f"{place}: unknown activation {activation!r}; possible: {', '.join(ACTIVATIONS)}")
    check_weights(place)
    linear = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
    linear.load_state_dict({k.removeprefix("linear."): v for k, v in load_file(place / "model.safetensors").items()})
    return nn.Sequential(linear, ACTIVATIONS[activation]())


def write_modules(net: Sentence, directory: Path) -> None:
    """Write everything of the layout but the transformer and the tokenizer, which lie in the directory itself.

    Args:
        net: the embedder.
        directory: where `modules.json` is written.
    """
    width = net.model.config.hidden_size
    names = ["", "1_Pooling", *(f"{i}_Dense" for i in range(2, 2 + len(net.dense)))]
    names += [f"{len(names)}_Normalize"] if net.normalise else []
    kinds = ["Transformer", *(name.split("_")[1] for name in names[1:])]
    modules = [
        {"idx": i, "name": str(i), "path": name, "type": PREFIX + kind}
        for i, (name, kind) in enumerate(zip(names, kinds, strict=True))
    ]
    for name in names[1:]:
        (directory / name).mkdir()
    flags = {flag: name in net.poolings for name, flag in MODES.items()}
    _write_json(directory / "modules.json", modules)
    _write_json(directory / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **flags})
    _write_json(directory / "sentence_bert_config.json", {"max_seq_length": net.context, "do_lower_case": False})
    for i, layer in enumerate(net.dense, 2):
        linear, activation = cast(tuple[nn.Linear, nn.Module], layer)
        kind = f"{type(activation).__module__}.{type(activation).__name__}"
        shape = {
            "in_features": linear.in_features,
            "out_features": linear.out_features,
            "bias": linear.bias is not None,
        }
        _write_json(directory / f"{i}_Dense" / "config.json", shape | {"activation_function": kind})
        save_file(
            {f"linear.{k}": v.contiguous() for k, v in linear.state_dict().items()},
            directory / f"{i}_Dense" / "model.safetensors",
        )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
