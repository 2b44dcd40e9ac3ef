"""Encoders of the transformers library as nets: classifiers of texts or images, masked language models, bare encoders.

Wants: "logits" (B, C) class scores, or (B, T, V) of a masked language model; "features" (B, D), what the classifying
layer sees, or the first token's state where there is none; "hidden" (B, T, D); "head" a `TokenHead` of a masked
language model; "tap:<path>" the output of a submodule.

Shapes: B rows, T tokens, D features, C classes, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.adapters.causal_lm import taps
from limbeck.errors import BadData
from limbeck.kernels.head import TokenHead

__all__ = ["Encoder", "last_input", "seen"]


class Encoder(nn.Module):
    """A transformers encoder that answers wants.

    Args:
        model: the model; its config says how many classes there are.
        tokenizer: its tokenizer, for texts.
        mean: of the pixels that it expects, per channel; images come in [0, 1] and are normalised here.
        std: likewise.

    Attributes:
        classes: name to number of each class; empty without a classifier.
    """

    def __init__(
        self, model: Any, tokenizer: Any = None, mean: tuple[float, ...] = (0.0,), std: tuple[float, ...] = (1.0,)
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.classifies = "Classification" in type(model).__name__
        self.classes: dict[str, int] = dict(model.config.label2id or {}) if self.classifies else {}
        self.context: int | None = getattr(model.config, "max_position_embeddings", None)
        self.pixels = {"mean": mean, "std": std}
        self.train(model.training)

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer what is wanted on `tokens` (B, T) and `length` (B,), or on images `x` (B, C, H, W).

        Args:
            batch: the columns; `types` (B, T) are segment ids of pairs.
            want: names of answers.

        Returns:
            The answers by name; those that the model cannot give are left out.

        Raises:
            BadData: tokens beyond the vocabulary.
        """
        output = self._output()
        pooled = "features" in want and not self.classifies
        with taps(self.model, want) as answers, last_input(output) as given:
            out = self.model(**self._inputs(batch), output_hidden_states="hidden" in want or pooled)
        if "hidden" in want or pooled:
            hidden = out["last_hidden_state"] if "last_hidden_state" in out else out["hidden_states"][-1]
            answers |= {name: made for name, made in (("hidden", hidden), ("features", hidden[:, 0])) if name in want}
        if "logits" in out and "logits" in want:
            answers["logits"] = out["logits"]
        if "features" in want and self.classifies:
            answers["features"] = given[0]
        if "head" in want and given and not self.classifies:
            answers["head"] = TokenHead(given[0], output.weight, output.bias)  # type: ignore[union-attr, arg-type]
        return answers

    def _output(self) -> nn.Linear | None:
        """The layer that makes the logits."""
        if not self.classifies:
            found = self.model.get_output_embeddings()
            return found if isinstance(found, nn.Linear) else None
        linear = [m for n, m in self.model.named_modules() if isinstance(m, nn.Linear) and "lora_" not in n]
        return linear[-1]

    def _inputs(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        if "tokens" not in batch:
            mean, std = (batch["x"].new_tensor(self.pixels[k])[:, None, None] for k in ("mean", "std"))
            return {"pixel_values": (batch["x"] - mean) / std}
        tokens = batch["tokens"]
        if (size := self.model.config.vocab_size) <= int(tokens.max()):
            raise BadData(
                f"token {int(tokens.max())} is beyond the vocabulary of {size}: another tokenizer made these rows"
            )
        inputs = {"input_ids": tokens, "attention_mask": seen(tokens, batch["length"])}
        return inputs | ({"token_type_ids": batch["types"]} if "types" in batch else {})


def seen(tokens: Tensor, length: Tensor) -> Tensor:
    """Which tokens are no padding.

    Args:
        tokens: (B, T).
        length: (B,) tokens before the padding.

    Returns:
        (B, T) int64, 1 where there is a token.

    Example:
        >>> seen(torch.zeros(2, 3), torch.tensor([1, 3])).tolist()
        [[1, 0, 0], [1, 1, 1]]
    """
    return (torch.arange(tokens.shape[1], device=tokens.device) < length[:, None]).long()


@contextmanager
def last_input(module: nn.Module | None) -> Iterator[list[Tensor]]:
    """Keep what a module is given while the context lasts.

    Args:
        module: a module with one positional input; None keeps nothing.

    Returns:
        A list that holds the last input once the module has run.
    """
    kept: list[Tensor] = []
    if module is None:
        yield kept
        return

    def keep(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
        kept[:] = [given[0]]

    hook = module.register_forward_pre_hook(keep)
    try:
        yield kept
    finally:
        hook.remove()
