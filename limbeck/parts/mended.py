"""Answers that one player began and another finishes, and which answers are fit to be learnt at all.

    rollout() >> unfinished() >> completed() >> from_start() >> well_formed()

Shapes: B rows, T tokens. Rows have columns `tokens`, `mask`, `length` and `prompt`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Expr, part
from limbeck.parts.rollout import rollout
from limbeck.parts.transcript import take
from limbeck.players import Players

__all__ = ["completed", "from_start", "unfinished", "well_formed"]


def _ended(players: Players, batch: Batch) -> Tensor:
    """Which answers (B,) end with a token that ends a text; those that have one."""
    last_B = batch["tokens"].gather(1, batch["length"][:, None] - 1)[:, 0]
    said_B = batch["mask"].any(1)
    ends = torch.tensor(players.student.eos, dtype=torch.long, device=last_B.device)
    return torch.isin(last_B, ends) & said_B


def _rows(batch: Batch, kept_B: Tensor) -> Batch:
    return take(batch, kept_B.nonzero()[:, 0].tolist())


@part
def unfinished(players: Players, batch: Batch) -> Batch:
    """Keep the rows whose answer was cut off before it came to an end.

    {y : y has no token that ends it}

    Args:
        players: the student, whose net says which tokens end a text.
        batch: answered rows.

    Returns:
        The rows that are kept, perhaps none.

    Source: Yan et al., arXiv:2601.09088, section 3.4.
    """
    return _rows(batch, ~_ended(players, batch))


def _cut(batch: Batch, least: float) -> Batch:
    """Prompts that hold the answers up to a random place; `asked` keeps where the prompts ended before."""
    batch = _rows(batch, batch["mask"].sum(1) > 1)
    said_B, u_B = batch["mask"].sum(1), batch.rng.uniform("cut")
    low_B = (least * said_B).ceil().long().clamp(min=1).minimum(said_B - 1)
    stays_B = low_B + (u_B * (said_B - low_B)).long()
    length_B = batch["length"] - said_B + stays_B
    at_T = torch.arange(batch["tokens"].shape[1], device=length_B.device)
    tokens_BT, nothing_BT = batch["tokens"] * (at_T < length_B[:, None]), torch.zeros_like(batch["mask"])
    asked_B = batch["length"] - said_B
    half = batch.with_(tokens=tokens_BT, length=length_B, prompt=length_B, mask=nothing_BT, asked=asked_B)
    return replace(half, rng=batch.rng.fold("second half"))


@part
def completed(
    players: Players, batch: Batch, *, finish: Expr = rollout().on(student="teacher"), least: float = 0.5
) -> Batch:
    """Let another player finish answers that were begun: mixed-policy distillation.

    x, y -> [x, y_{<= k}, y'], y' ~ p(. | x, y_{<= k}), k uniform from least |y| to |y| - 1, at least 1

    Args:
        players: those in the game.
        batch: answered rows; those with fewer than two tokens of an answer are left out.
        finish: the batch part that continues a prompt; it needs a player that reads tokens, not a server.
        least: the share of the answer that stays at least.

    Returns:
        The batch with new `tokens` and `length`, `mask` true on y', `prompt` up to where it begins, and in `asked` the
        `prompt` of x alone.

    Raises:
        BadValue: a share outside [0, 1).

    Source: Yan et al., arXiv:2601.09088, section 3.4.
    """
    if not 0 <= least < 1:
        raise BadValue(f"completed needs least in [0, 1), got {least:g}")
    half = _cut(batch, least)
    return finish(players, half) if half.size else half  # type: ignore[no-any-return]


@part
def from_start(players: Players, batch: Batch) -> Batch:
    """Take the whole answer for the target, not its second half alone.

    mask_t = [asked <= t < length]

    Args:
        players: not asked.
        batch: rows that `completed` made.

    Returns:
        The batch with `prompt` as it was before the cut, and `mask` true on all that follows.
    """
    at_T = torch.arange(batch["tokens"].shape[1], device=batch.device)
    mask_BT = (at_T >= batch["asked"][:, None]) & (at_T < batch["length"][:, None])
    return batch.with_(mask=mask_BT, prompt=batch["asked"])


@part
def well_formed(players: Players, batch: Batch, *, n: int = 20, times: int = 5) -> Batch:
    """Keep the rows whose answer came to an end and does not go round in circles.

    {y : y has a token that ends it, and no n tokens in a row occur `times` times or more}

    Args:
        players: the student, whose net says which tokens end a text.
        batch: answered rows.
        n: tokens in a row.
        times: how often they may not occur.

    Returns:
        The rows that are kept, perhaps none.
    """
    ended_B = _ended(players, batch)
    answers = (tokens[mask].tolist() for tokens, mask in zip(batch["tokens"], batch["mask"], strict=True))
    fresh_B = torch.tensor([_most(answer, n) < times for answer in answers], dtype=torch.bool, device=ended_B.device)
    return _rows(batch, ended_B & fresh_B)


def _most(answer: list[int], n: int) -> int:
    """How often the commonest n tokens in a row occur.

    Example:
        >>> _most([1, 2, 1, 2, 1], 2), _most([1], 2)
        (2, 0)
    """
    runs = Counter(tuple(answer[i : i + n]) for i in range(len(answer) - n + 1))
    return max(runs.values(), default=0)
