"""Exact figures of language models on languages so small that every sequence can be enumerated.

Shapes: P prompts, n tokens of a completion, V tokens of the vocabulary. There is no end token: all completions have n
tokens. For every prompt there are V^t prefixes of t tokens; a causal net answers them all in V^(n-1) rows. Figures are
means over the different prompts of data["test"], in nats, computed in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.errors import BadData, BadValue
from limbeck.part import part
from limbeck.parts.divergence import relative_entropy
from limbeck.players import Player, Players

__all__ = [
    "Tree",
    "coverage",
    "enumerated",
    "prefix_kl",
    "sequence_entropy",
    "sequence_kl_forward",
    "sequence_kl_reverse",
    "typical_mass",
]

MOST = 2**23


@dataclass(frozen=True, eq=False)
class Tree:
    """The distribution of a net over all completions of some prompts.

    Args:
        tokens: for t = 0 .. n-1, (P, V^t, V) float64: log-probabilities of the next token after every prefix of t
            tokens, prefixes in the order of base-V numbers.

    Example:
        >>> even = torch.full((1, 1, 2), 0.5).log()
        >>> Tree((even, even.expand(1, 2, 2))).sequences.exp()
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    tokens: tuple[Tensor, ...]

    def prefixes(self, t: int) -> Tensor:
        """The log-probabilities (P, V^t) of all prefixes of t tokens."""
        whole = self.tokens[0].new_zeros(len(self.tokens[0]), 1)
        for step in self.tokens[:t]:
            whole = (whole[..., None] + step).flatten(1)
        return whole

    @property
    def sequences(self) -> Tensor:
        """The log-probabilities (P, V^n) of all completions."""
        return self.prefixes(len(self.tokens))


@torch.no_grad()
def enumerated(player: Player, prompts: Tensor, n: int) -> Tree:
    """Ask a player for its whole distribution.

    Args:
        player: a player that answers "logits" (B, T, V).
        prompts: (P, k) int64.
        n: tokens of a completion.

    Raises:
        BadValue: more than 2^23 completions.
    """
    V = player(Batch({"tokens": prompts}), "logits").shape[-1]
    if len(prompts) * V**n > MOST:
        raise BadValue(f"{len(prompts)} x {V}^{n} completions are too many to enumerate, at most {MOST}")
    rows_NT = torch.cartesian_prod(*[torch.arange(V)] * (n - 1)).view(-1, n - 1)
    levels = []
    for prompt in prompts:
        tokens = torch.cat((prompt.expand(len(rows_NT), -1), rows_NT.to(prompt.device)), 1)
        logits_NTV = player(Batch({"tokens": tokens}), "logits")[:, len(prompt) - 1 :].double()
        logp_NTV = logits_NTV.log_softmax(-1)
        # a prefix of t tokens is shared by V^(n-1-t) rows
        levels.append([logp_NTV[:: V ** (n - 1 - t), t] for t in range(n)])
    return Tree(tuple(torch.stack(level) for level in zip(*levels, strict=True)))


def _asked(data: Mapping[str, Source]) -> tuple[Tensor, int]:
    """The different prompts (P, k) of the test split and the tokens of a completion."""
    test = data["test"].take(torch.arange(len(data["test"])))
    lengths = {(int(p), int(k)) for p, k in zip(test["prompt"], test["length"], strict=True)}
    if len(lengths) != 1:
        raise BadData(f"only rows of one length can be enumerated, got (prompt, length) {sorted(lengths)[:4]}")
    prompt, length = lengths.pop()
    tokens_BT = cast(Tensor, test["tokens"])
    return tokens_BT[:, :prompt].unique(dim=0), length - prompt


def both(players: Players, data: Mapping[str, Source]) -> tuple[Tree, Tree]:
    prompts, n = _asked(data)
    return enumerated(players["teacher"], prompts, n), enumerated(players["student"], prompts, n)


@part
def sequence_kl_forward(players: Players, data: Mapping[str, Source]) -> float:
    """The divergence of the student's sequences from the teacher's, the side that covers.

    KL(teacher || student) = sum over all sequences x of p(x) (log p(x) - log q(x)).

    Raises:
        BadValue: there are more than 2^23 completions.
        BadData: the test rows differ in the length of prompt or completion.

    Source: Kim and Rush, "Sequence-Level Knowledge Distillation", arXiv:1606.07947, section 3.2.
    """
    teacher, student = both(players, data)
    return float(relative_entropy(teacher.sequences, student.sequences).mean())


@part
def sequence_kl_reverse(players: Players, data: Mapping[str, Source]) -> float:
    """The divergence of the student's sequences from the teacher's, the side that seeks modes.

    KL(student || teacher) = sum over all sequences x of q(x) (log q(x) - log p(x)).

    Raises:
        BadValue: there are more than 2^23 completions.
        BadData: the test rows differ in the length of prompt or completion.

    Source: Gu et al., "MiniLLM", arXiv:2306.08543, equation 1.
    """
    teacher, student = both(players, data)
    return float(relative_entropy(student.sequences, teacher.sequences).mean())


@part
def prefix_kl(players: Players, data: Mapping[str, Source]) -> float:
    """The error of the student's next token where the student itself goes: what exposure bias costs.

    (1/n) sum_t E_{x_<t ~ student} KL(teacher(. | x_<t) || student(. | x_<t)).

    Raises:
        BadValue: there are more than 2^23 completions.
        BadData: the test rows differ in the length of prompt or completion.

    Source: the on-policy objective of Agarwal et al., arXiv:2306.13649, equation 3, with the forward divergence.
    """
    teacher, student = both(players, data)
    n = len(student.tokens)
    at = [
        (student.prefixes(t).exp() * relative_entropy(teacher.tokens[t], student.tokens[t])).sum(-1) for t in range(n)
    ]
    return float(torch.stack(at).sum(0).mean() / n)


@part(higher=True)
def sequence_entropy(players: Players, data: Mapping[str, Source]) -> float:
    """The entropy of the student's sequences: small where modes were dropped.

    -sum over all sequences x of q(x) log q(x).

    Raises:
        BadValue: there are more than 2^23 completions.
        BadData: the test rows differ in the length of prompt or completion.
    """
    logq = enumerated(players["student"], *_asked(data)).sequences
    return float(-relative_entropy(logq, torch.zeros_like(logq)).mean())


def _typical(logp: Tensor, mass: float) -> Tensor:
    """The smallest set of sequences that holds `mass`, as a mask (P, V^n)."""
    sorted_, order = logp.exp().sort(-1, descending=True)
    inside = sorted_.cumsum(-1) - sorted_ < mass
    return torch.zeros_like(inside).scatter(-1, order, inside)


@part(higher=True)
def typical_mass(players: Players, data: Mapping[str, Source], *, mass: float = 0.9) -> float:
    """The share of the student's samples that the teacher could plausibly have written: its quality.

    q(A), where A is the smallest set of sequences with p(A) >= mass.

    Args:
        players: the players "teacher" and "student".
        data: the splits.
        mass: the teacher's mass in the set.

    Raises:
        BadValue: there are more than 2^23 completions.
        BadData: the test rows differ in the length of prompt or completion.
    """
    teacher, student = both(players, data)
    inside = _typical(teacher.sequences, mass)
    return float((student.sequences.exp() * inside).sum(-1).mean())


@part(higher=True)
def coverage(players: Players, data: Mapping[str, Source], *, share: float = 0.2) -> float:
    """The share of the teacher's samples that the student would write often enough: its diversity.

    p(q(x) >= share p(x)).

    Args:
        players: the players "teacher" and "student".
        data: the splits.
        share: the share of its due probability from which a sequence counts as covered.

    Raises:
        BadValue: there are more than 2^23 completions.
        BadData: the test rows differ in the length of prompt or completion.
    """
    teacher, student = both(players, data)
    p, q = teacher.sequences.exp(), student.sequences.exp()
    return float((p * (q >= share * p)).sum(-1).mean())
