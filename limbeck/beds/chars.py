"""Characters of plays: a real text, with a teacher that is counted rather than trained.

Windows of 64 characters of the first 100,000 of Tiny Shakespeare (public domain); the first 8 of a window are its
prompt. "train" is the first eight tenths of the text, "valid" and "test" one tenth each, so no window is in two splits.
The teacher is an n-gram model counted on "train", in closed form, of another architecture than the student.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

import limbeck.assets
from limbeck.adapters.causal_lm import CausalLM
from limbeck.beds import Bed
from limbeck.beds._text import Alphabet, ExactLM, tiny_llama
from limbeck.data import Table
from limbeck.errors import BadValue
from limbeck.probes.language import nll, token_agreement, token_kl
from limbeck.rng import Rng

__all__ = ["Ngram", "bed", "splits", "student", "teacher", "text"]

WINDOW, PROMPT, ORDER = 64, 8, 5
ENDS = {"train": (0.0, 0.8), "valid": (0.8, 0.9), "test": (0.9, 1.0)}


@cache
def text() -> str:
    """Read the shipped excerpt.

    Example:
        >>> text()[:13]
        'First Citizen'

    Source: Tiny Shakespeare, https://github.com/karpathy/char-rnn.
    """
    return (Path(str(limbeck.assets.__file__)).parent / "plays.txt").read_text(encoding="utf-8")


@cache
def alphabet() -> Alphabet:
    """The characters of the excerpt in the order of their code points."""
    return Alphabet("".join(sorted(set(text()))))


def encoded(split: str) -> Tensor:
    """The token ids of one split, in the order of the text.

    Raises:
        KeyError: there is no split of that name.
    """
    start, end = (int(share * len(text())) for share in ENDS[split])
    return torch.tensor(alphabet().encode(text()[start:end]))


class Ngram(nn.Module):
    """An n-gram model with Witten-Bell smoothing: the rule of the teacher.

    p(w | c) = (n(c, w) + d(c) p(w | c')) / (n(c) + d(c)), where n counts in the training text, d(c) is the number of
    different tokens seen after c, c' is c without its first token; below the empty context lies the uniform.

    Args:
        tokens: (N,) the training text.
        vocab: the number of tokens.
        order: the longest context plus one.

    Raises:
        BadValue: an order whose contexts have no number of 63 bits.

    Example:
        >>> rule = Ngram(torch.tensor([0, 1, 0, 1]), vocab=2, order=2)
        >>> rule(torch.tensor([[0]]), torch.ones(1, 1, dtype=torch.bool)).exp()
        tensor([[[0.1667, 0.8333]]])

    Source: Witten and Bell, "The zero-frequency problem", IEEE Trans. Inf. Theory 37(4), 1991, method C.
    """

    def __init__(self, tokens: Tensor, vocab: int, order: int = ORDER) -> None:
        super().__init__()
        if vocab**order >= 2**63:
            raise BadValue(f"an order of {order} with {vocab} tokens is too high: contexts are numbers of 63 bits")
        self.vocab, self.order = vocab, order
        keys_C, p_CV = torch.zeros(1, dtype=torch.long), torch.full((1, vocab), 1.0 / vocab)
        for k in range(order):
            shorter_C, (keys_C, counts_CV) = keys_C, self._counts(tokens, k)
            different_C1 = (counts_CV > 0).sum(1, keepdim=True)
            below_CV = p_CV[torch.searchsorted(shorter_C, keys_C % vocab ** max(0, k - 1))]
            p_CV = (counts_CV + different_C1 * below_CV) / (counts_CV.sum(1, keepdim=True) + different_C1)
            self.register_buffer(f"keys_{k}", keys_C)
            self.register_buffer(f"logp_{k}", p_CV.log())

    def _counts(self, tokens: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The contexts of k tokens, as sorted numbers (C,), and how often each token follows each (C, V)."""
        windows = tokens.unfold(0, k + 1, 1)
        keys_C, place = self._key(windows[:, :k]).unique(return_inverse=True)
        once = torch.ones(len(windows))
        counts_CV = torch.zeros(len(keys_C), self.vocab).index_put_((place, windows[:, k]), once, accumulate=True)
        return keys_C, counts_CV

    def _key(self, context: Tensor) -> Tensor:
        """Number the contexts (..., k) in base V, so that the last k-1 tokens are the remainder by V^(k-1)."""
        powers = self.vocab ** torch.arange(context.shape[-1] - 1, -1, -1, device=context.device)
        return (context * powers).sum(-1)

    def forward(self, tokens_BT: Tensor, seen_BT: Tensor) -> Tensor:
        """Answer the log-probabilities (B, T, V) of the token that follows each, from the longest context counted."""
        answer = self.logp_0[torch.zeros_like(tokens_BT)]  # type: ignore[index]
        for k in range(1, self.order):
            if tokens_BT.shape[1] < k:
                break
            keys_C, logp_CV = getattr(self, f"keys_{k}"), getattr(self, f"logp_{k}")
            key_BT = self._key(tokens_BT.unfold(1, k, 1))
            place_BT = torch.searchsorted(keys_C, key_BT).clamp(max=len(keys_C) - 1)
            counted_BT = (keys_C[place_BT] == key_BT) & seen_BT.unfold(1, k, 1).all(-1)
            longer = torch.where(counted_BT[..., None], logp_CV[place_BT], answer[:, k - 1 :])
            answer = torch.cat((answer[:, : k - 1], longer), 1)
        return answer


@cache
def _counted() -> Ngram:
    """The rule of the teacher, counted once."""
    return Ngram(encoded("train"), alphabet().size)


def teacher(seed: int = 0) -> ExactLM:
    """Build the counted teacher, the same for every seed."""
    return ExactLM(_counted(), alphabet().size, alphabet().tokenizer())


def student(seed: int, *, width: int = 48, layers: int = 2) -> CausalLM:
    """Build an untrained Llama."""
    return CausalLM(tiny_llama(alphabet().size, seed, width=width, layers=layers), alphabet().tokenizer())


def splits(seed: int) -> dict[str, Table]:
    """Cut the text into windows: those of "train" start anywhere, by the seed, those held out do not overlap."""
    return {split: _windows(split, seed) for split in ENDS}


def _windows(split: str, seed: int) -> Table:
    tokens = encoded(split)
    starts = torch.arange(0, len(tokens) - WINDOW + 1, WINDOW)
    if split == "train":
        starts = Rng(("chars", seed), torch.arange(2 * len(starts))).integers("start", len(tokens) - WINDOW + 1)
    tokens_BT = tokens[starts[:, None] + torch.arange(WINDOW)]
    mask_BT = (torch.arange(WINDOW) >= PROMPT).expand(len(starts), -1).contiguous()
    whole = torch.full((len(starts),), WINDOW)
    return Table({"tokens": tokens_BT, "mask": mask_BT, "length": whole, "prompt": torch.full_like(whole, PROMPT)})


bed = Bed(
    key="chars",
    about="Characters of plays, with an n-gram teacher that is a closed form of the training text.",
    players={"teacher": teacher, "student": student},
    data=splits,
    probes={"nll": nll(), "token_kl": token_kl(), "token_agreement": token_agreement()},
)
