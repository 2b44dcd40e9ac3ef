"""Sentences from a small lexicon: the probability of every text is known, in characters and in BPE tokens alike.

Twenty-four made-up words follow each other by a Markov chain. A tokenizer that never crosses a space spells every word
in one way, so the next token has a closed form: what is spelled so far leaves some words, each with its probability
after the word before. The teacher is that form over a BPE vocabulary, the student reads characters; "oracle" is the
same form over characters. Both give every sentence the same probability, though not every piece of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from limbeck.adapters.causal_lm import CausalLM
from limbeck.beds import Bed
from limbeck.beds._text import BOS, CHAT, EOS, SPECIAL, Alphabet, ExactLM, columns, tiny_llama
from limbeck.data import Table
from limbeck.probes.chunks import bits_gap, chunk_gap
from limbeck.probes.language import nll
from limbeck.rng import Rng

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["Spelled", "bed", "bpe", "chain", "oracle", "sentences", "splits", "student", "teacher", "words"]

WORDS, MOST, MERGES = 24, 6, 30
SHARPNESS, ENDS = 1.5, 0.15  # how much a word depends on the one before; how often a sentence ends after a word
CONSONANTS, VOWELS = "dklmnprst", "aeiou"
ALPHABET = Alphabet(" " + "".join(sorted(CONSONANTS + VOWELS)))
FLOOR = -40.0  # the log-probability of what cannot be: finite, since heads are multiplied


@cache
def words() -> tuple[str, ...]:
    """The lexicon: different words of one to three syllables, a space in front of each."""
    rng, found = Rng(("lexicon", "words"), torch.arange(8 * WORDS)), dict[str, None]()
    parts = rng.integers("parts", 3).flatten().tolist()
    first, second = (rng.integers(name, len(s), 3).tolist() for name, s in (("c", CONSONANTS), ("v", VOWELS)))
    for n, c, v in zip(parts, first, second, strict=True):
        found[" " + "".join(CONSONANTS[c[i]] + VOWELS[v[i]] for i in range(n + 1))] = None
    return tuple(found)[:WORDS]


@cache
def chain() -> Tensor:
    """The probabilities (W + 1, W + 1) of the next word; the last row is the beginning, the last column the end."""
    drawn = Rng(("lexicon", "chain"), torch.arange(WORDS + 1)).normal("after", WORDS).double()
    next_ = (SHARPNESS * drawn).softmax(-1)
    end = torch.full((WORDS + 1, 1), ENDS, dtype=torch.float64)
    end[-1] = 0.0
    return torch.cat(((1 - end) * next_, end), 1)


@cache
def bpe() -> PreTrainedTokenizerFast:
    """A tokenizer of the most frequent pairs of letters within words, as many as `MERGES`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(unk_token=SPECIAL[3]))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(" [^ ]*"), "isolated")
    raw.decoder = decoders.Fuse()
    size = ALPHABET.size + MERGES
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=list(ALPHABET.chars), show_progress=False
    )
    raw.train_from_iterator(words(), trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False, **names)
    fast.chat_template = CHAT
    return fast


class Spelled(nn.Module):
    """The exact next token of a chain of words that are spelled in one way each: the rule of teacher and oracle.

    p(u | a, s) = sum_{w begins s u} P(w | a) / sum_{w begins s} P(w | a), a the word before, s what is spelled of the
    next; where s is a word, it may be over: then u begins the word after it

    Args:
        spelling: the tokens of every word.
        after: (W + 1, W + 1) the probabilities of the next word, as `chain` has them.
        vocab: the number of tokens.

    Example:
        >>> rule = Spelled([[4, 5], [4, 6]], torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.25, 0.75, 0.0]]), 7)
        >>> rule(torch.tensor([[1, 4]]), torch.ones(1, 2, dtype=torch.bool)).exp()[0, 1, 4:]
        tensor([4.2484e-18, 2.5000e-01, 7.5000e-01])
    """

    logp: Tensor
    next: Tensor

    def __init__(self, spelling: Sequence[Sequence[int]], after: Tensor, vocab: int) -> None:
        super().__init__()
        spelled = {tuple(word[:n]): None for word in spelling for n in range(len(word) + 1)}
        node = {prefix: i for i, prefix in enumerate(sorted(spelled))}  # the empty one is the first
        through = torch.tensor([[tuple(w[: len(s)]) == s for w in spelling] for s in node], dtype=after.dtype)
        mass_AN = after[:, :-1] @ through.T
        whole = {node[tuple(word)]: w for w, word in enumerate(spelling)}
        nodes, before = len(node), len(after)
        p = torch.zeros(before, nodes, vocab, dtype=after.dtype)
        to = torch.full((before, nodes, vocab), (before - 1) * nodes)  # where nothing fits, a text begins
        for prefix, n in list(node.items())[1:]:
            token, above = prefix[-1], node[prefix[:-1]]
            p[:, above, token] = mass_AN[:, n] / mass_AN[:, above]
            to[:, above, token] = torch.arange(before) * nodes + n
            if above == 0:
                for m, w in whole.items():
                    over = after[:, w] / mass_AN[:, m]
                    p[:, m, token], to[:, m, token] = over * mass_AN[w, n], w * nodes + n
                    p[:, m, EOS] = over * after[w, -1]
        logp = p.nan_to_num(0.0).log().clamp(min=FLOOR).float()
        self.register_buffer("logp", logp.flatten(0, 1))
        self.register_buffer("next", to.flatten(0, 1))
        self.begin = (before - 1) * nodes

    def forward(self, tokens_BT: Tensor, seen_BT: Tensor) -> Tensor:
        """Answer the log-probabilities (B, T, V) of the token that follows each."""
        state_B, states = torch.full_like(tokens_BT[:, 0], self.begin), []
        for token_B in tokens_BT.unbind(1):
            state_B = self.next[state_B, token_B]
            states.append(state_B)
        return self.logp[torch.stack(states, 1)]


@cache
def _rule(name: str) -> Spelled:
    """The rule of a player, worked out once."""
    if name == "teacher":
        return Spelled([bpe()(w, add_special_tokens=False)["input_ids"] for w in words()], chain(), len(bpe()))
    return Spelled([ALPHABET.encode(word) for word in words()], chain(), ALPHABET.size)


def teacher(seed: int = 0) -> ExactLM:
    """Build the exact model over BPE tokens, the same for every seed."""
    return ExactLM(deepcopy(_rule("teacher")), len(bpe()), bpe())


def oracle(seed: int = 0) -> ExactLM:
    """Build the exact model over characters, the same for every seed."""
    return ExactLM(deepcopy(_rule("oracle")), ALPHABET.size, ALPHABET.tokenizer())


def student(seed: int, *, width: int = 32, layers: int = 2) -> CausalLM:
    """Build an untrained Llama that reads characters."""
    return CausalLM(tiny_llama(ALPHABET.size, seed, width=width, layers=layers), ALPHABET.tokenizer())


def sentences(n: int, *key: object) -> list[str]:
    """Draw sentences; one of more than six words is cut there, without an end.

    Args:
        n: how many.
        key: what the draw belongs to.

    Returns:
        Texts, "</s>" at the end of those that are whole.
    """
    rng = Rng(("lexicon", *key), torch.arange(n))
    cdf, at = chain().cumsum(1), torch.full((n,), WORDS)
    texts, open_ = [""] * n, [True] * n
    for place in range(MOST + 1):
        drawn = rng.uniform(f"word{place}").double().reshape(n, 1)
        at = torch.searchsorted(cdf[at], drawn)[:, 0].clamp(max=WORDS)
        for i, w in enumerate(at.tolist()):
            if open_[i] and (place < MOST or w == WORDS):
                texts[i] += words()[w] if w < WORDS else SPECIAL[EOS]
                open_[i] = w < WORDS
    return texts


def _rows(n: int, *key: object) -> Table:
    said = [
        ALPHABET.encode(t.removesuffix(SPECIAL[EOS])) + [EOS] * t.endswith(SPECIAL[EOS]) for t in sentences(n, *key)
    ]
    return Table(columns([[BOS]] * n, said))


def splits(seed: int, *, train: int = 256, held_out: int = 256) -> dict[str, Table]:
    """Draw the splits, each the language itself.

    Args:
        seed: what the draws belong to.
        train: rows of "train".
        held_out: rows of "valid" and of "test".
    """
    sizes = {"train": train, "valid": held_out, "test": held_out}
    return {split: _rows(n, seed, split) for split, n in sizes.items()}


bed = Bed(
    key="lexicon",
    about="Sentences of 24 words, with a teacher over BPE tokens and a student over characters; both truths exact.",
    players={"teacher": teacher, "oracle": oracle, "student": student},
    data=splits,
    probes={"chunk_gap": chunk_gap(), "bits_gap": bits_gap(), "nll": nll()},
)
