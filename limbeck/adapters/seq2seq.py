"""Encoder-decoders of the transformers library as nets.

Wants: "head" a `TokenHead` over the decoder's states (no logits are made), "logits" (B, T, V) float, "hidden" (B, T, D)
what the output layer sees, "encoded" (B, S, D), "tap:<path>", and for decoding "next" (B, V) and "cache". The decoder's
tokens begin with its start token, so that the state at t - 1 predicts token t, as in causal language models; V is the
tokenizer's size, as there.

Shapes: B rows, S source tokens, T target tokens, D features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache

from limbeck.adapters.causal_lm import ends_of, family_of, taps
from limbeck.adapters.encoder import seen
from limbeck.adapters.key_values import joined, joins
from limbeck.errors import BadData, BadValue, Mismatch
from limbeck.kernels.head import TokenHead

__all__ = ["Seq2Seq"]

APART = (
    "what a recipe puts before an answer (a context, a second turn, a beginning) needs a model that reads question and "
    "answer as one text; for encoder-decoders: kd, seqkd, gkd and their like"
)


class Seq2Seq(nn.Module):
    """A transformers encoder-decoder that answers wants.

    Args:
        model: the model, with a linear output layer.
        tokenizer: its tokenizer; it says how many rows of the output matrix are tokens.

    Attributes:
        reads: the columns that it reads beside `tokens`.
        start: the token with which the decoder starts.
        begin: the tokens that no answer goes without: `start`, and the one that the model's settings force behind it.
        vocab: the number of tokens.
        eos: the ids that end a text; may be empty.
        pad: the id that fills padding.
        context: the longest text in tokens, or None where the model sets no bound.
        family: a hash of the tokenizer's base vocabulary; empty without a tokenizer.

    Raises:
        BadValue: a model without a linear output layer or without a start token.
        Mismatch: a tokenizer with more tokens than the model.
    """

    reads = ("source", "source_length")

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        start, output = model.config.decoder_start_token_id, model.get_output_embeddings()
        if not isinstance(output, nn.Linear) or start is None:
            raise BadValue(f"{type(model).__name__} needs a linear output layer and a decoder_start_token_id")
        forced = model.generation_config.forced_bos_token_id
        self.start: int = start
        self.begin: tuple[int, ...] = (start,) if forced is None else (start, forced)
        self.vocab: int = len(tokenizer) if tokenizer is not None else output.out_features
        if self.vocab > output.out_features:
            raise Mismatch(f"the tokenizer has {self.vocab} tokens, the model {output.out_features}")
        self.eos, self.pad = ends_of(model, tokenizer)
        self.context: int | None = getattr(model.config, "max_position_embeddings", None)
        self.family = "" if tokenizer is None else family_of(tokenizer)
        self.train(model.training)

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer what is wanted on `source` (B, S), `source_length` (B,) and `tokens` (B, T).

        Args:
            batch: the columns; `tokens` begins with `begin`. For decoding also `cache`, which stands for the source
                once it is there.
            want: names of answers.

        Returns:
            The answers by name; those that the model cannot give are left out.

        Raises:
            BadData: rows with more before the answer than its beginning.
        """
        decoding, cache = bool(want & {"next", "cache"}), batch.get("cache")
        self._check(batch, decoding and cache is None)
        inputs = self._source(batch) if cache is None else cache.inputs
        with taps(self.model, want) as answers, _kept_from(self.model.get_output_embeddings()) as given:
            out = self.model(**inputs, decoder_input_ids=batch["tokens"], use_cache=decoding)
        head = self._head(given[0])
        made = {"head": head, "hidden": head.hidden, "encoded": out["encoder_last_hidden_state"]}
        answers |= {name: made[name] for name in want & made.keys()}
        if "logits" in want:
            answers["logits"] = head.logits()
        if decoding:
            last = TokenHead(head.hidden[:, -1], head.weight, head.bias)
            answers |= {"next": last.logits(), "cache": cache or Reading(inputs["attention_mask"], out)}
        return answers

    def _source(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"input_ids": batch["source"], "attention_mask": seen(batch["source"], batch["source_length"])}

    def _check(self, batch: Mapping[str, Any], reading: bool) -> None:
        """Refuse rows that have something between their beginning and their answer."""
        n = len(self.begin)
        more = batch["tokens"].shape[1] != n if reading else "prompt" in batch and bool((batch["prompt"] != n).any())
        if more:
            raise BadData(f"the rows of an encoder-decoder have their question in `source`; {APART}")

    def _head(self, hidden: Tensor) -> TokenHead:
        output, extra = self.model.get_output_embeddings(), getattr(self.model, "final_logits_bias", None)
        bias = output.bias if extra is None else extra[0] + (0 if output.bias is None else output.bias)
        return TokenHead(hidden, output.weight, bias).first(self.vocab)


class Reading:
    """What rows have read and said so far: the encoder's states, and the decoder's keys and values.

    Args:
        seen: (B, S), 1 where there is a source token.
        out: what the model answered on the beginning of the rows.
    """

    def __init__(self, seen: Tensor, out: Any) -> None:
        self.seen, self.states = seen, out["encoder_last_hidden_state"]
        self.cache: EncoderDecoderCache = out["past_key_values"]
        if joins(self.cache.self_attention_cache):
            joined([self.cache.self_attention_cache])  # makes room for the tokens to come

    @property
    def inputs(self) -> dict[str, Any]:
        """What the model is given in place of the source."""
        return {
            "encoder_outputs": (self.states,),
            "attention_mask": self.seen,
            "past_key_values": self.cache,
        }

    def reorder_cache(self, rows: Tensor) -> None:
        """Keep these rows, any number of times each."""
        self.seen, self.states = self.seen[rows], self.states[rows]
        self.cache.reorder_cache(rows)  # type: ignore[arg-type]


@contextmanager
def _kept_from(output: nn.Module) -> Iterator[list[Tensor]]:
    """Keep what the output layer is given, and give it nothing, so that it makes no logits."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
        kept[:] = [given[0]]
        return (given[0][:, :0],)

    hook = output.register_forward_pre_hook(keep)
    try:
        yield kept
    finally:
        hook.remove()
