"""A language that can be enumerated: every probability, divergence and mode of a student is exact.

Six tokens, a prompt of one token, completions of six tokens: 46,656 sequences a prompt. The oracle writes about one of
four topics and never says which; each topic has its own rule for the next token after two. So the true next-token
distribution follows from a guess at the topic from all that was said, and the distribution over sequences has modes
that a small student must choose among.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limbeck.adapters.causal_lm import CausalLM
from limbeck.beds import Bed
from limbeck.beds._text import ExactLM, tiny_llama
from limbeck.data import Table
from limbeck.parts.rollout import sample
from limbeck.players import Player
from limbeck.probes.enumerated import (
    coverage,
    prefix_kl,
    sequence_kl_forward,
    sequence_kl_reverse,
    typical_mass,
)
from limbeck.rng import Rng
from limbeck.roles import frozen

__all__ = ["Topics", "bed", "oracle", "splits", "student"]

V, LENGTH, TOPICS = 6, 6, 4
SHARPNESS, FLOOR = 3.0, 0.01


class Topics(nn.Module):
    """A mixture of second-order Markov chains: the rule of the oracle.

    p(x_t | x_<t) = sum_k p(k | x_<t) P_k(x_t | x_{t-2}, x_{t-1}), with p(k | x_<t) by Bayes from the chains so far. The
    first token is given, and stands for both tokens before the second.

    Args:
        seed: what the chains are drawn from: softmax of normal numbers, mixed with a little of the uniform.
        topics: the number of chains, equally likely.

    Attributes:
        chains: (K, V, V, V) log-probabilities P_k(c | a, b).

    Example:
        >>> tokens = torch.tensor([[0, 3, 5]])
        >>> Topics(0)(tokens, torch.ones_like(tokens, dtype=torch.bool)).exp().sum(-1)
        tensor([[1.0000, 1.0000, 1.0000]])
    """

    chains: Tensor

    def __init__(self, seed: int, topics: int = TOPICS) -> None:
        super().__init__()
        drawn = Rng(("oracle_lm", seed), torch.arange(topics)).normal("chains", V, V, V).double()
        self.register_buffer("chains", ((1 - FLOOR) * (SHARPNESS * drawn).softmax(-1) + FLOOR / V).log().float())

    def forward(self, tokens_BT: Tensor, seen_BT: Tensor) -> Tensor:
        """Answer the log-probabilities (B, T, V) of the token that follows each; `seen` is false at left padding."""
        before_BT = tokens_BT.roll(1, 1)
        first_BT = ~seen_BT.roll(1, 1)
        first_BT[:, 0] = True
        before_BT = torch.where(first_BT, tokens_BT, before_BT)
        next_KBTV = self.chains[:, before_BT, tokens_BT]
        then_KBT1 = tokens_BT[None, :, 1:, None].expand(len(self.chains), -1, -1, 1)
        said_KBT = next_KBTV[:, :, :-1].gather(-1, then_KBT1)[..., 0]
        said_KBT = nn.functional.pad(said_KBT, (1, 0)).masked_fill(first_BT, 0.0)
        topic_KBT = said_KBT.cumsum(-1).log_softmax(0)
        return (topic_KBT[..., None] + next_KBTV).logsumexp(0)


def oracle(seed: int) -> ExactLM:
    """Build the exact language model of a seed."""
    return ExactLM(Topics(seed), V)


def student(seed: int, *, width: int = 8, layers: int = 1) -> CausalLM:
    """Build an untrained Llama that is too small to be exact."""
    return CausalLM(tiny_llama(V, seed, width=width, layers=layers, heads=2, ends=False))


def splits(seed: int, *, train: int = 2048, held_out: int = 512) -> dict[str, Table]:
    """Draw sequences of the oracle of a seed.

    The splits are independent draws, each the language itself: a likely sequence comes in several of them.

    Args:
        seed: of the oracle and of the draws.
        train: rows of "train".
        held_out: rows of "valid" and of "test".
    """
    teacher = Player("oracle", frozen(), oracle(seed))
    sizes = {"train": train, "valid": held_out, "test": held_out}
    return {split: _drawn(teacher, n, Rng(("oracle_lm", seed, split), torch.arange(n))) for split, n in sizes.items()}


def _drawn(teacher: Player, n: int, rng: Rng) -> Table:
    """Sequences as rows; the prompts go round the vocabulary."""
    prompts, one = (torch.arange(n) % V)[:, None], torch.ones(n, dtype=torch.long)
    tokens_BT, length_B = sample(teacher, prompts, one, rng, max_new_tokens=LENGTH)
    mask_BT = (torch.arange(LENGTH + 1) > 0).expand(n, -1).contiguous()
    return Table({"tokens": tokens_BT, "mask": mask_BT, "length": length_B, "prompt": one})


bed = Bed(
    key="oracle_lm",
    about="Six tokens, six long: the probability of every sequence is known, so every divergence is exact.",
    players={"teacher": oracle, "oracle": oracle, "student": student},
    data=splits,
    probes={
        "sequence_kl_forward": sequence_kl_forward(),
        "sequence_kl_reverse": sequence_kl_reverse(),
        "prefix_kl": prefix_kl(),
        "typical_mass": typical_mass(),
        "coverage": coverage(),
    },
)
