"""Encoder-decoders of the transformers library as nets.

Wants: "head" a `TokenHead` over the decoder's states, "logits" (B, T, V), "hidden" (B, T, D) what the output layer
sees, "encoded" (B, S, D), "tap:<path>". The decoder's tokens begin with its start token, so that the state at t - 1
predicts token t, as in causal language models.

Shapes: B rows, S source tokens, T target tokens, D features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from limbeck.adapters.causal_lm import taps
from limbeck.adapters.encoder import last_input, seen
from limbeck.errors import BadValue
from limbeck.kernels.head import TokenHead

__all__ = ["Seq2Seq"]


class Seq2Seq(nn.Module):
    """A transformers encoder-decoder that answers wants.

    Args:
        model: the model, with a linear output layer.
        tokenizer: its tokenizer.

    Attributes:
        start: the token with which the decoder starts.

    Raises:
        BadValue: a model without a linear output layer or without a start token.
    """

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        start = model.config.decoder_start_token_id
        if not isinstance(model.get_output_embeddings(), nn.Linear) or start is None:
            raise BadValue(f"{type(model).__name__} needs a linear output layer and a decoder_start_token_id")
        self.start: int = start
        self.context: int | None = getattr(model.config, "max_position_embeddings", None)
        self.train(model.training)

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer what is wanted on `source` (B, S), `source_length` (B,) and `tokens` (B, T).

        Args:
            batch: the columns; the first of `tokens` is the start token.
            want: names of answers.

        Returns:
            The answers by name; those that the model cannot give are left out.
        """
        output = self.model.get_output_embeddings()
        with taps(self.model, want) as answers, last_input(output) as given:
            out = self.model(
                input_ids=batch["source"],
                attention_mask=seen(batch["source"], batch["source_length"]),
                decoder_input_ids=batch["tokens"],
                use_cache=False,
            )
        extra = getattr(self.model, "final_logits_bias", None)
        bias = output.bias if extra is None else extra[0] + (0 if output.bias is None else output.bias)
        made = {
            "head": TokenHead(given[0], output.weight, bias),
            "logits": out["logits"],
            "hidden": given[0],
            "encoded": out["encoder_last_hidden_state"],
        }
        return answers | {name: made[name] for name in want & made.keys()}
