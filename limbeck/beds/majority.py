"""Multiple choice with a known distribution of answers, and a teacher that is three times too sure.

A question is eight letters of a to d; the more often a letter occurs, the likelier is its option: with n_i letters of
kind i, p(i) is proportional to e^n_i. So answers are noisy, the best accuracy and the right confidence are known, and
the teacher is known to be right at the temperature 3: its logits are three times the true ones, which it knows nearly.
In the split "shifted" the letter a is more frequent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from limbeck.adapters.causal_lm import CausalLM
from limbeck.beds import Bed
from limbeck.beds._text import BOS, Alphabet, ExactLM, columns, tiny_llama
from limbeck.data import Table
from limbeck.probes.options import option_accuracy, option_ece
from limbeck.rng import Rng

__all__ = ["SHARP", "Counted", "bed", "oracle", "splits", "student", "teacher"]

LETTERS, OPTIONS = "abcd", "ABCD"
LENGTH, SHARP, OFF = 8, 3.0, 0.15  # letters of a question; how much too sure the teacher is, and how far off
ALPHABET = Alphabet(LETTERS + OPTIONS + "=")
FIRST, ANSWER = ALPHABET.ids["a"], ALPHABET.ids["A"]
ELSE = -8.0  # the logit of what is no option
SHIFTED = torch.tensor([0.55, 0.15, 0.15, 0.15])


class Counted(nn.Module):
    """An answerer that counts letters: the rule of oracle and teacher.

    log p(i | x) = sharp (sum_t [x_t = i] + e(t, x_t, i)) + const, e ~ N(0, off^2) drawn once

    Args:
        sharp: how much too sure it is; 1 is the truth.
        off: the size of its errors.

    Example:
        >>> asked = torch.tensor([[1, *ALPHABET.encode("aaabbcda=")]])
        >>> Counted(1.0, 0.0)(asked, asked > 0)[0, -1, ANSWER : ANSWER + 4].softmax(-1)
        tensor([0.8098, 0.1096, 0.0403, 0.0403])
    """

    error: Tensor

    def __init__(self, sharp: float, off: float) -> None:
        super().__init__()
        self.sharp = sharp
        drawn = Rng(("majority", "error"), torch.arange(LENGTH + 2)).normal("e", len(LETTERS), len(OPTIONS))
        self.register_buffer("error", off * drawn)

    def forward(self, tokens_BT: Tensor, seen_BT: Tensor) -> Tensor:
        """Answer the log-probabilities (B, T, V) of the token that follows each; options follow, whatever is asked."""
        kind_BT = tokens_BT - FIRST
        letter_BTK = one_hot(kind_BT.clamp(0, 3), 4) * ((kind_BT >= 0) & (kind_BT < 4) & seen_BT)[..., None]
        place_BT = (seen_BT.long().cumsum(1) - 1).clamp(0, len(self.error) - 1)
        off_BTO = (letter_BTK[..., None] * self.error[place_BT]).sum(-2)
        score_BTO = (letter_BTK + off_BTO).cumsum(1)
        logits_BTV = score_BTO.new_full((*tokens_BT.shape, ALPHABET.size), ELSE)
        logits_BTV[..., ANSWER : ANSWER + 4] = score_BTO
        return (self.sharp * logits_BTV).log_softmax(-1)


def teacher(seed: int = 0) -> ExactLM:
    """Build the teacher that is too sure, the same for every seed."""
    return ExactLM(Counted(SHARP, OFF), ALPHABET.size, ALPHABET.tokenizer())


def oracle(seed: int = 0) -> ExactLM:
    """Build the truth, the same for every seed."""
    return ExactLM(Counted(1.0, 0.0), ALPHABET.size, ALPHABET.tokenizer())


def student(seed: int, *, width: int = 32, layers: int = 1) -> CausalLM:
    """Build an untrained Llama."""
    return CausalLM(tiny_llama(ALPHABET.size, seed, width=width, layers=layers), ALPHABET.tokenizer())


def _rows(n: int, often: Tensor, *key: object) -> Table:
    """Questions with answers of the true distribution."""
    rng = Rng(("majority", *key), torch.arange(n))
    kind_NT = torch.searchsorted(often.cumsum(0), rng.uniform("letters", LENGTH)).clamp(max=3)
    cdf_NO = one_hot(kind_NT, 4).sum(1).double().softmax(-1).cumsum(-1)
    answer_N = torch.searchsorted(cdf_NO, rng.uniform("answer", 1).double())[:, 0].clamp(max=3)
    asked = ["".join(LETTERS[k] for k in row) + "=" for row in kind_NT.tolist()]
    answers = [OPTIONS[k] for k in answer_N.tolist()]
    table = columns([[BOS, *ALPHABET.encode(q)] for q in asked], [ALPHABET.encode(a) for a in answers])
    return Table({**table, "question": asked, "answer": answers})


def splits(seed: int, *, train: int = 256, held_out: int = 2000) -> dict[str, Table]:
    """Draw the splits, "shifted" with other frequencies of the letters.

    Args:
        seed: what the draws belong to.
        train: rows of "train".
        held_out: rows of the others.
    """
    even = torch.full((4,), 0.25)
    plan = {"train": (train, even), "valid": (held_out, even), "test": (held_out, even), "shifted": (held_out, SHIFTED)}
    return {split: _rows(n, often, seed, split) for split, (n, often) in plan.items()}


bed = Bed(
    key="majority",
    about="Noisy answers by a majority of letters: the right confidence is known, and how far the teacher's is off.",
    players={"teacher": teacher, "oracle": oracle, "student": student},
    data=splits,
    probes={"accuracy": option_accuracy(), "ece": option_ece(), "shifted_ece": option_ece(split="shifted")},
)
