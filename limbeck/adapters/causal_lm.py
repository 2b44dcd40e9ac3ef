"""Causal language models of the transformers library as nets.

Wants: "head" a `TokenHead` (no logits are made), "logits" (B, T, V) float, "hidden" (B, T, D) the last hidden states,
"tap:<path>" the output of a submodule of the wrapped model, and for decoding "next" (B, V) the logits after the last
token and "cache" the key-value cache. V is the tokenizer's size: rows that pad the output matrix are cut away.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from limbeck.errors import BadValue, Mismatch, unknown
from limbeck.kernels.head import TokenHead

__all__ = ["CausalLM", "ends_of", "family_of", "taps"]

TAP = "tap:"


class CausalLM(nn.Module):
    """A transformers causal language model that answers wants.

    Rows are right-padded. Attention is causal, so no true token sees the padding and no mask is needed; what is
    answered at padded positions means nothing. Left padding needs columns `seen` and `positions`, which only the
    sampler sets.

    Args:
        lm: the model, bare or wrapped by peft.
        tokenizer: its tokenizer, if there is one; it says how many rows of the output matrix are tokens.

    Attributes:
        vocab: the number of tokens.
        eos: the ids that end a text; may be empty.
        pad: the id that fills padding.
        context: the longest text in tokens, or None where the model sets no bound.
        family: a hash of the tokenizer's base vocabulary; empty without a tokenizer.

    Raises:
        BadValue: a model without a plain linear output layer.
        Mismatch: a tokenizer with more tokens than the model.
    """

    def __init__(self, lm: nn.Module, tokenizer: Any = None) -> None:
        super().__init__()
        self.lm, self.tokenizer = lm, tokenizer
        self.train(lm.training)
        config = self._bare().config.get_text_config()
        output = self._bare().get_output_embeddings()
        if not isinstance(output, nn.Linear):
            raise BadValue(f"{type(lm).__name__} has no plain linear output layer, got {type(output).__name__}")
        self.vocab: int = len(tokenizer) if tokenizer is not None else output.out_features
        if self.vocab > output.out_features:
            raise Mismatch(f"the tokenizer has {self.vocab} tokens, the model {output.out_features}")
        self.eos, self.pad = ends_of(self._bare(), tokenizer)
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        self.family = "" if tokenizer is None else family_of(tokenizer)
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        # Cohere multiplies its logits, Granite divides them
        times, over = getattr(config, "logit_scale", None), getattr(config, "logits_scaling", None)
        self.scale = float(times or 1.0) / float(over or 1.0)

    def _bare(self) -> Any:
        lm: Any = self.lm
        return lm.get_base_model() if hasattr(lm, "get_base_model") else lm

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer what is wanted on `tokens` (B, T).

        Args:
            batch: `tokens`; for decoding also `seen` (B, S) bool over the cached and the new tokens, `positions`
                (B, T) and `cache`.
            want: names of answers.

        Returns:
            The answers by name; those that the model cannot give are left out.

        Raises:
            UnknownName: a tap on a submodule that the model does not have.
        """
        bare = self._bare()
        decoding = bool(want & {"next", "cache"})
        inputs = {"attention_mask": batch["seen"].long(), "position_ids": batch["positions"]} if decoding else {}
        cache = batch.get("cache")
        with taps(bare, want) as answers:
            read = self._read(batch)
            out = bare.base_model(**read, past_key_values=cache, use_cache=decoding, **inputs)
        head = self._head(out.last_hidden_state)
        if "head" in want:
            answers["head"] = head
        if "hidden" in want:
            answers["hidden"] = head.hidden
        if "logits" in want:
            answers["logits"] = head.logits()
        if "next" in want:
            answers["next"] = TokenHead(head.hidden[:, -1], head.weight, head.bias, head.softcap, head.scale).logits()
        if decoding:
            answers["cache"] = out.past_key_values
        return answers

    def _read(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """What the model is given to read."""
        return {"input_ids": batch["tokens"]}

    def _head(self, hidden: Tensor) -> TokenHead:
        output = self._bare().get_output_embeddings()
        return TokenHead(hidden, output.weight, output.bias, self.softcap, self.scale).first(self.vocab)


def ends_of(lm: Any, tokenizer: Any) -> tuple[tuple[int, ...], int]:
    """The ids that end a text, from the model's generation settings and the tokenizer, and the id of the padding.

    Args:
        lm: a model of transformers.
        tokenizer: its tokenizer, or None.
    """
    found = [getattr(lm.generation_config, "eos_token_id", None), getattr(tokenizer, "eos_token_id", None)]
    ids = {i for f in found if f is not None for i in (f if isinstance(f, list) else [f])}
    pads = (getattr(tokenizer, "pad_token_id", None), getattr(lm.generation_config, "pad_token_id", None), *sorted(ids))
    return tuple(sorted(ids)), next((p for p in pads if p is not None), 0)


def family_of(tokenizer: Any) -> str:
    """Hash the vocabulary of a tokenizer without the tokens added to it, which sizes of one family differ by."""
    added = set(tokenizer.get_added_vocab())
    base = sorted((i, token) for token, i in tokenizer.get_vocab().items() if token not in added)
    return hashlib.blake2b(json.dumps(base).encode(), digest_size=8).hexdigest()


@contextmanager
def taps(lm: nn.Module, want: frozenset[str]) -> Iterator[dict[str, Any]]:
    """Collect the outputs of submodules during a forward."""
    modules = dict(lm.named_modules())
    answers: dict[str, Any] = {}
    hooks = []

    def listen(name: str, module: nn.Module) -> None:
        def keep(_module: nn.Module, _given: Any, output: Any) -> None:
            answers[name] = output[0] if isinstance(output, tuple) else output

        hooks.append(module.register_forward_hook(keep))

    for name in sorted(want):
        if not name.startswith(TAP):
            continue
        path = name.removeprefix(TAP)
        if path not in modules:
            raise unknown("submodule", path, modules, where=type(lm).__name__)
        listen(name, modules[path])
    try:
        yield answers
    finally:
        for hook in hooks:
            hook.remove()
