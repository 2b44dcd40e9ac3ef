"""Losses between answers to one prompt of which some are better than others, by the log-likelihoods of whole answers.

A row holds all answers to its prompt, the best first: `tokens` and `mask` as ever, `rank2.tokens` and `rank2.mask` the
second, `rank3.tokens` ... So a pair is one row, and no row depends on another. All answers of a batch go through a
player together; logits are made a few tokens at a time and made again in the backward pass, never held.

Shapes: B rows, K ranks, T tokens, N target tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad
from torch.utils.checkpoint import checkpoint

from limbeck.batch import Batch
from limbeck.errors import BadData, BadValue
from limbeck.kernels.fused import rows_of_chunk
from limbeck.kernels.head import TokenHead
from limbeck.part import Part, part
from limbeck.parts.transcript import answers, contains_answer, marks, take
from limbeck.players import Player, Players

__all__ = [
    "direct_preference",
    "mean_log_likelihood",
    "paired",
    "plackett_luce",
    "rank_log_likelihoods",
    "ranked",
    "reinforced_contrast",
    "same_prompt",
    "sequence_log_likelihood",
    "token_log_likelihoods",
]


def _log_likelihoods_of(head: TokenHead, token_N: Tensor) -> Tensor:
    return head.logits().log_softmax(-1).gather(-1, token_N[:, None])[:, 0]


def token_log_likelihoods(head: TokenHead, token_N: Tensor, *, rows: int = 0) -> Tensor:
    """Compute log q_n(y_n), never holding more than a chunk of logits, with gradients to the head.

    Args:
        head: the head of (N, D) rows.
        token_N: the tokens y.
        rows: tokens of a chunk; 0 chooses.

    Returns:
        (N,), in float32 or better.

    Example:
        >>> token_log_likelihoods(TokenHead(torch.zeros(2, 3), torch.ones(4, 3)), torch.tensor([0, 1]))
        tensor([-1.3863, -1.3863])

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174 (what is made again).
    """
    rows, pieces = rows or rows_of_chunk(head), []
    for start in range(0, max(1, len(token_N)), rows):
        at = slice(start, start + rows)
        some = replace(head, hidden=head.hidden[at])
        pieces.append(checkpoint(_log_likelihoods_of, some, token_N[at], use_reentrant=False))
    return torch.cat(pieces)


def sequence_log_likelihood(player: Player, batch: Batch) -> Tensor:
    """Compute log pi(y | x) of the answers of a batch: the sum of their tokens' log-probabilities.

    Args:
        player: a language model.
        batch: columns `tokens` and `mask` (B, T).

    Returns:
        (B,), in float32 or better.
    """
    mask_BT = batch["mask"]
    logp_N = token_log_likelihoods(player(batch, "head").predicting(mask_BT), batch["tokens"][mask_BT])
    return logp_N.new_zeros(len(mask_BT)).index_add(0, mask_BT.nonzero()[:, 0], logp_N)


def mean_log_likelihood(player: Player, batch: Batch) -> Tensor:
    """Compute (1/|y|) log pi(y | x), (B,): the same, whatever the length of an answer."""
    return sequence_log_likelihood(player, batch) / batch["mask"].sum(1).clamp(min=1)


def ranked(batch: Batch) -> list[Batch]:
    """See the answers of a batch rank by rank, each as `tokens` and `mask` (B, T) of one width.

    Args:
        batch: columns `tokens`, `mask`, `rank2.tokens`, `rank2.mask` and so on, as many as there are.

    Raises:
        BadData: one answer a row only.

    Example:
        >>> one, two = torch.tensor([[1, 5]]), torch.tensor([[1, 6, 7]])
        >>> both = {"tokens": one, "mask": one > 1, "rank2.tokens": two, "rank2.mask": two > 1}
        >>> [rank.tokens.tolist() for rank in ranked(Batch(both))]
        [[[1, 5, 0]], [[1, 6, 7]]]
    """
    names = ["", *(f"rank{k}." for k in range(2, next(k for k in count(2) if f"rank{k}.tokens" not in batch)))]
    if len(names) < 2:
        raise BadData("the rows hold one answer each; answers that are worse belong in rank2.tokens and rank2.mask")
    width = max(batch[f"{name}tokens"].shape[1] for name in names)
    wide = [[pad(c, (0, width - c.shape[1])) for c in (batch[n + "tokens"], batch[n + "mask"])] for n in names]
    return [batch.with_(tokens=tokens, mask=mask, length=_length(mask)) for tokens, mask in wide]


def _length(mask_BT: Tensor) -> Tensor:
    """The lengths (B,) of rows that end with their last target."""
    return (mask_BT * torch.arange(1, mask_BT.shape[1] + 1, device=mask_BT.device)).amax(1)


def rank_log_likelihoods(player: Player, batch: Batch, *, mean: bool = False) -> Tensor:
    """Compute the log-likelihoods of all answers of a batch in one pass.

    Args:
        player: a language model.
        batch: rows of ranked answers.
        mean: whether they are divided by the lengths of the answers.

    Returns:
        (K, B), in float32 or better.

    Raises:
        BadData: one answer a row only.
    """
    by_rank = ranked(batch)
    together = take(by_rank[0], list(range(batch.size)) * len(by_rank))
    columns = {name: torch.cat([rank[name] for rank in by_rank]) for name in ("tokens", "mask", "length")}
    likelihood = mean_log_likelihood if mean else sequence_log_likelihood
    return likelihood(player, together.with_(**columns)).view(len(by_rank), batch.size)


@part
def direct_preference(players: Players, batch: Batch, *, beta: float = 0.1) -> Tensor:
    """Prefer the better answer of a pair, by how far the student has moved from a reference.

    -log sigmoid(beta [log pi(y1) - log pi_ref(y1) - log pi(y2) + log pi_ref(y2)])

    Args:
        players: `student` and `reference`, which stands still: the student before it learns preferences.
        batch: rows of two ranked answers.
        beta: how much of the distance from the reference a preference costs.

    Returns:
        (B,).

    Raises:
        BadData: one answer a row, or more than two.

    Source: Rafailov et al., "Direct Preference Optimization", arXiv:2305.18290, equation 7.
    """
    with torch.no_grad():
        reference_KB = rank_log_likelihoods(players.reference, batch)
    better_B, worse_B = _pair(rank_log_likelihoods(players.student, batch) - reference_KB)
    return -logsigmoid(beta * (better_B - worse_B))


def _pair(score_KB: Tensor) -> tuple[Tensor, Tensor]:
    """The scores of both answers, where there are two."""
    if len(score_KB) != 2:
        raise BadData(f"a loss of pairs got {len(score_KB)} ranked answers a row; take plackett_luce for more than two")
    return score_KB[0], score_KB[1]


@part
def plackett_luce(players: Players, batch: Batch, *, scale: float = 1.0) -> Tensor:
    """Make the given order of the answers likely, where each next one is drawn from those that are left.

    -sum_k log (exp s_k / sum_{j >= k} exp s_j), s_k = scale (1/|y_k|) log pi(y_k); with two answers this is
    Bradley and Terry's -log sigmoid(s_1 - s_2)

    Args:
        players: `student`.
        batch: rows of ranked answers.
        scale: of the scores.

    Returns:
        (B,).

    Raises:
        BadData: one answer a row only.

    Source: Plackett, "The Analysis of Permutations", Applied Statistics 24 (1975).
    """
    score_KB = scale * rank_log_likelihoods(players.student, batch, mean=True)
    left_KB = score_KB.flip(0).logcumsumexp(0).flip(0)
    return (left_KB - score_KB).sum(0)


@part
def reinforced_contrast(players: Players, batch: Batch, *, alpha: float = 0.8) -> Tensor:
    """Learn right answers and unlearn wrong ones, with less weight on what is wrong and no reference.

    -(1/|y1|) log pi(y1) + alpha (1/|y2|) log pi(y2)

    Without a bound below: at alpha = 1 the loss can fall for ever while both answers become unlikely.

    Args:
        players: `student`.
        batch: rows of two ranked answers, the first right and the second wrong.
        alpha: the weight of the wrong answer, in [0, 1]; 0 leaves plain imitation.

    Returns:
        (B,).

    Raises:
        BadValue: alpha outside [0, 1].
        BadData: one answer a row, or more than two.

    Source: Xu et al., arXiv:2505.24850, equation 5.
    """
    if not 0 <= alpha <= 1:
        raise BadValue(f"reinforced_contrast needs alpha in [0, 1], got {alpha:g}")
    better_B, worse_B = _pair(rank_log_likelihoods(players.student, batch, mean=True))
    return alpha * worse_B - better_B


def same_prompt(batch: Batch) -> list[list[int]]:
    """Group the rows of a batch by their prompts, in the order in which these first come.

    Args:
        batch: columns `tokens` and `prompt`.

    Example:
        >>> tokens = torch.tensor([[1, 5, 9], [1, 6, 9], [1, 5, 8]])
        >>> same_prompt(Batch({"tokens": tokens, "prompt": torch.tensor([2, 2, 2])}))
        [[0, 2], [1]]
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, (tokens, prompt) in enumerate(zip(batch["tokens"].tolist(), batch["prompt"].tolist(), strict=True)):
        groups.setdefault(tuple(tokens[:prompt]), []).append(row)
    return list(groups.values())


@part
def paired(players: Players, batch: Batch, *, verifier: Part = contains_answer(), most: int = 1) -> Batch:
    """Pair right answers with wrong ones to the same prompt.

    {(y1, y2) : r(y1) = 1, r(y2) < 1}, the i-th right answer to a prompt with its i-th wrong one

    Args:
        players: the student, whose tokenizer reads the answers.
        batch: columns `tokens`, `mask` and `prompt`; several rows to a prompt.
        verifier: gives r, a mark in [0, 1].
        most: pairs of a prompt.

    Returns:
        The rows of the right answers, perhaps none, with the wrong ones in `rank2.tokens` and `rank2.mask`.

    Raises:
        BadValue: a student without a tokenizer.

    Source: Xu et al., arXiv:2505.24850, section 3.1.
    """
    right_B = (marks(answers(players.student, batch), batch, verifier) >= 1).tolist()
    pairs = []
    for group in same_prompt(batch):
        right, wrong = ([row for row in group if right_B[row] is good] for good in (True, False))
        pairs += list(zip(right, wrong, strict=False))[:most]
    better, worse = (take(batch, [pair[k] for pair in pairs]) for k in (0, 1))
    return better.with_(**{"rank2.tokens": worse["tokens"], "rank2.mask": worse["mask"]})
