"""What the language beds share: alphabets as tokenizers, rows of tokens, tiny Llamas.

Shapes: B rows, T tokens. Rows of language data have the columns tokens (B, T) int64, right-padded; mask (B, T) bool,
true at the tokens of the completion, the end token included; length (B,), tokens before the padding; prompt (B,),
tokens before the completion. The token before position t predicts the token at t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.errors import BadData, unknown
from limbeck.kernels.head import TokenHead

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["Alphabet", "ExactLM", "columns", "tiny_llama"]

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
PAD, BOS, EOS = 0, 1, 2
CHAT = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] + eos_token }}"
    "{% else %}{{ bos_token + m['content'] }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Alphabet:
    """A vocabulary of characters, after four special tokens (padding, beginning, end, unknown).

    Args:
        chars: the characters, each once; their place gives their id.

    Raises:
        BadData: a character that comes twice.

    Example:
        >>> digits = Alphabet("0123456789")
        >>> digits.encode("42"), digits.decode([1, 8, 6, 2])
        ([8, 6], '42')
    """

    chars: str

    def __post_init__(self) -> None:
        if len(set(self.chars)) != len(self.chars):
            raise BadData(f"an alphabet holds every character once, got {self.chars!r}")

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token to id, special tokens included."""
        return {token: i for i, token in enumerate((*SPECIAL, *self.chars))}

    @property
    def size(self) -> int:
        """The number of tokens."""
        return len(SPECIAL) + len(self.chars)

    def encode(self, text: str) -> list[int]:
        """Return the ids of the characters, with no special tokens.

        Raises:
            UnknownName: a character outside the alphabet.
        """
        try:
            return [self.ids[c] for c in text]
        except KeyError as error:
            raise unknown("character", error.args[0], self.chars, where=f"{text[:40]!r}") from None

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text up to the first end token; other special tokens are left out.

        Example:
            >>> Alphabet("ab").decode([1, 4, 5, 2, 4])
            'ab'
        """
        text = ""
        for i in ids:
            if i == EOS:
                break
            text += self.chars[i - len(SPECIAL)] if i >= len(SPECIAL) else ""
        return text

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Build the same vocabulary as a fast tokenizer of transformers; it puts the beginning token in front."""
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        raw = Tokenizer(models.WordLevel(self.ids, unk_token=SPECIAL[3]))
        raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        raw.decoder = decoders.Fuse()
        raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
        names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=True))
        fast = PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False, **names)
        fast.chat_template = CHAT
        return fast


def columns(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Lay prompts and completions out as the columns of language data.

    Args:
        prompts: token ids of each prompt, at least one, the beginning token included.
        completions: token ids of each completion, the end token included.

    Returns:
        tokens (B, T), mask (B, T), length (B,), prompt (B,).

    Raises:
        ValueError: there are not as many completions as prompts.

    Example:
        >>> made = columns([[1, 5], [1]], [[6, 2], [2]])
        >>> made["tokens"].tolist(), made["mask"].tolist()
        ([[1, 5, 6, 2], [1, 2, 0, 0]], [[False, False, True, True], [False, True, False, False]])
    """
    whole = [torch.tensor([*p, *c]) for p, c in zip(prompts, completions, strict=True)]
    tokens_BT = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True, padding_value=PAD)
    prompt_B, length_B = torch.tensor([len(p) for p in prompts]), torch.tensor([len(w) for w in whole])
    at_T = torch.arange(tokens_BT.shape[1])
    mask_BT = (at_T >= prompt_B[:, None]) & (at_T < length_B[:, None])
    return {"tokens": tokens_BT, "mask": mask_BT, "length": length_B, "prompt": prompt_B}


class ExactLM(nn.Module):
    """A language model that is a formula: it answers as `CausalLM` does, and learns nothing.

    Args:
        rule: a module from tokens (B, T) and seen (B, T) bool, false at padding on the left, to the log-probabilities
            (B, T, V) of the token that follows each.
        vocab: the number of tokens.
        tokenizer: its tokenizer, if there is one.

    Attributes:
        vocab: the number of tokens.
        eos: the ids that end a text: none, since texts are cut by length.
        pad: the id that fills padding.
        context: the longest text in tokens: without a bound.
        family: what tells vocabularies apart; empty, as for every model without a tokenizer file.
    """

    def __init__(self, rule: nn.Module, vocab: int, tokenizer: Any = None) -> None:
        super().__init__()
        self.rule, self.vocab, self.tokenizer = rule, vocab, tokenizer
        self.eos: tuple[int, ...] = ()
        self.pad, self.context, self.family = PAD, None, ""

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer what is wanted on `tokens`: "logits", "head" (with the identity for matrix), "next" and "cache".

        Args:
            batch: `tokens` (B, T); for decoding also `seen` (B, S) bool and `cache`, the tokens before.
            want: names of answers.
        """
        tokens_BT, decoding = batch["tokens"], bool(want & {"next", "cache"})
        if decoding and batch["cache"] is not None:
            tokens_BT = torch.cat((batch["cache"], tokens_BT), 1)
        seen_BT = batch["seen"] if decoding else torch.ones_like(tokens_BT, dtype=torch.bool)
        logp_BTV = self.rule(tokens_BT, seen_BT)
        answers = {"logits": logp_BTV, "next": logp_BTV[:, -1], "cache": tokens_BT}
        if "head" in want:
            answers["head"] = TokenHead(logp_BTV, torch.eye(self.vocab, dtype=logp_BTV.dtype, device=logp_BTV.device))
        return {name: answer for name, answer in answers.items() if name in want}


def tiny_llama(
    vocab: int, seed: int, *, width: int, layers: int, heads: int = 4, ends: bool = True
) -> LlamaForCausalLM:
    """Build an untrained Llama with tied embeddings and a feed-forward width of twice its own.

    Args:
        vocab: the number of tokens.
        seed: what its weights are drawn from; the global generator is left as it was.
        width: of the hidden states.
        layers: the number of blocks.
        heads: attention heads.
        ends: whether the first tokens are those of an `Alphabet`: padding, beginning, end.

    Source: Touvron et al., "LLaMA", arXiv:2302.13971 (the architecture).
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=width**-0.5 / 2,
        pad_token_id=PAD if ends else None,
        bos_token_id=BOS if ends else None,
        eos_token_id=EOS if ends else None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()
