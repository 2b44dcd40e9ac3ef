"""Sequences of 12 letters that pair with themselves: a law with exact likelihoods, and the exact field of its flow.

Letters l and 13 - l make a pair, outermost first; a letter of the first half depends on the one before it, and its
partner is its complement, but for some mutations. So the pairs are a Markov chain of 16 states, and what each letter is
expected to be behind a noisy sequence is known by going forwards and backwards along it.

Shapes: B rows, L letters, K = 4 kinds, P = L / 2 pairs of S = K^2 states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.beds import Bed
from limbeck.data import Table
from limbeck.parts.dirichlet import dirichlet_flow, one_pass
from limbeck.probes.sequences import chain_nll, word_divergence
from limbeck.rng import derive

__all__ = ["KINDS", "LETTERS", "Hairpins", "LetterField", "bed"]

KINDS, LETTERS = 4, 12
STAY, MATE = 0.7, 0.91  # that a letter is what the one before it calls for; that a partner is its complement


def _rule(likely: Tensor, p: float) -> Tensor:
    """(K, K) probabilities: p for the likely kind of each row, the rest shared by the others."""
    return torch.full((KINDS, KINDS), (1 - p) / (KINDS - 1)).scatter(1, likely[:, None], p)


class Hairpins(nn.Module):
    """The law of the sequences, and the exact classifier behind their noised versions on the Dirichlet path.

    p(z | x, alpha) ~ p(z) prod_l x_{l, z_l}^(alpha - 1)

    Example:
        >>> law, one = Hairpins(), torch.zeros(1, LETTERS, dtype=torch.int64)
        >>> round(float(law({"tokens": one}, frozenset({"log_likelihood"}))["log_likelihood"]), 3)
        -33.939
    """

    kinds = KINDS
    start_S: Tensor
    step_SS: Tensor

    def __init__(self) -> None:
        super().__init__()
        kinds = torch.arange(KINDS)
        mate = _rule(KINDS - 1 - kinds, MATE)
        turn = _rule((kinds + 1) % KINDS, STAY)
        first = torch.full((KINDS,), 1 / KINDS)
        self.register_buffer("start_S", (first[:, None] * mate).flatten(), persistent=False)
        step = (turn[:, :, None] * mate).flatten(1)  # (K, S): from the outer letter to the pair inside
        self.register_buffer("step_SS", step.repeat_interleave(KINDS, 0), persistent=False)

    def pairs(self, tokens: Tensor) -> Tensor:
        """The states of the pairs, (B, P), outermost first."""
        p = LETTERS // 2
        return tokens[:, :p] * KINDS + tokens[:, p:].flip(1)

    def sample(self, n: int, seed: int) -> Tensor:
        """Draw from the law, (n, L) int64.

        Example:
            >>> Hairpins().sample(3, seed=0).shape
            torch.Size([3, 12])
        """
        rng = torch.Generator().manual_seed(seed)
        states = [torch.multinomial(self.start_S, n, True, generator=rng)]
        for _ in range(LETTERS // 2 - 1):
            states.append(torch.multinomial(self.step_SS[states[-1]], 1, generator=rng)[:, 0])
        pairs = torch.stack(states, 1)
        return torch.cat((pairs // KINDS, (pairs % KINDS).flip(1)), 1)

    def forward(self, batch: Mapping[str, Tensor], want: frozenset[str]) -> dict[str, Any]:
        """Answer "log_likelihood" (B,) on tokens (B, L); "logits" (B, L, K) on x (B, L, K) and alpha or share (B,)."""
        out: dict[str, Any] = {}
        if "log_likelihood" in want:
            s = self.pairs(batch["tokens"])
            out["log_likelihood"] = self.start_S[s[:, 0]].log() + self.step_SS[s[:, :-1], s[:, 1:]].log().sum(1)
        if "logits" in want:
            if "share" in batch:  # along a straight line to a corner its coordinate never falls below the share gone
                seen = torch.where(batch["x"] >= batch["share"].view(-1, 1, 1), 0.0, -1e3)
            else:
                seen = (batch["alpha"].view(-1, 1, 1) - 1) * batch["x"].clamp(min=1e-30).log()
            out["logits"] = self._posterior(seen).clamp(min=1e-30).log()
        return out

    def _posterior(self, seen_BLK: Tensor) -> Tensor:
        """The probability of each letter given the log likelihoods of what was seen of it, (B, L, K)."""
        p = LETTERS // 2
        outer, inner = seen_BLK[:, :p], seen_BLK[:, p:].flip(1)
        log_BPS = (outer[..., :, None] + inner[..., None, :]).flatten(2)
        m_BPS = (log_BPS - log_BPS.amax(2, keepdim=True)).exp()
        step = self.step_SS.to(m_BPS)
        ahead = [self.start_S.to(m_BPS) * m_BPS[:, 0]]
        for i in range(1, p):
            ahead.append(_normal(ahead[-1] @ step) * m_BPS[:, i])
        behind = [torch.ones_like(ahead[0])]
        for i in range(p - 1, 0, -1):
            behind.append(_normal((behind[-1] * m_BPS[:, i]) @ step.T))
        pair = _normal(torch.stack(ahead, 1) * torch.stack(behind[::-1], 1)).unflatten(2, (KINDS, KINDS))
        return torch.cat((pair.sum(3), pair.sum(2).flip(1)), 1)


def _normal(p: Tensor) -> Tensor:
    return p / p.sum(-1, keepdim=True).clamp(min=1e-30)


class LetterField(nn.Module):
    """A perceptron that reads a noised sequence and its level.

    Args:
        width: units of each of three hidden layers.

    Example:
        >>> net = LetterField(16)
        >>> net({"x": torch.zeros(2, LETTERS, KINDS), "alpha": torch.ones(2)}, frozenset({"logits"}))["logits"].shape
        torch.Size([2, 12, 4])
    """

    kinds = KINDS

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        size = LETTERS * KINDS
        self.net = nn.Sequential(
            nn.Linear(size + 2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, size),
        )  # fmt: skip

    def forward(self, batch: Mapping[str, Tensor], want: frozenset[str]) -> dict[str, Any]:
        """Answer "logits" (B, L, K) on x (B, L, K) and alpha (B,)."""
        x = batch["x"].to(self.net[0].weight.dtype)  # type: ignore[arg-type]
        alpha = batch["alpha"].to(x.dtype)[:, None]
        columns = torch.cat((KINDS * x.flatten(1) - 1, 1 / alpha, alpha.log()), 1)
        return {"logits": self.net(columns).unflatten(1, (LETTERS, KINDS))}


def _student(seed: int, key: str = "hairpins") -> LetterField:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(key, seed))
        return LetterField()


def _draw(split: str, seed: int, rows: int) -> Table:
    tokens = Hairpins().sample(rows, derive("hairpins", split, seed))
    return Table({"tokens": tokens, "mask": torch.ones_like(tokens, dtype=torch.bool)})


bed = Bed(
    "hairpins",
    "Sequences of 12 letters that pair with themselves: exact likelihoods, and the exact flow on the simplex.",
    players={
        "oracle": lambda seed: Hairpins(), "teacher": lambda seed: Hairpins(), "student": _student,
        "critic": lambda seed: _student(seed, "hairpins critic"),
    },
    data=lambda seed: {s: _draw(s, seed, n) for s, n in (("train", 5_000), ("valid", 5_000), ("test", 5_000))},
    probes={"nll": chain_nll(), "words": word_divergence()},
    samplers={"student": one_pass(), "teacher": dirichlet_flow()},
)  # fmt: skip
