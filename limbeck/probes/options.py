"""Multiple choice answered by language models: how often the likeliest option is right, and whether it knows.

Rows are language data with the columns tokens (B, T) and mask (B, T); a target that is one of the options is an answer.

Shapes: N answers, O options.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.errors import BadData, BadValue
from limbeck.part import Part, part
from limbeck.parts.calibration import calibration_error
from limbeck.players import Player, Players

__all__ = ["answered", "both_ways", "option_accuracy", "option_ece"]

ROWS = 256
LETTERS = ("A", "B", "C", "D")


def _ids(player: Player, options: tuple[str, ...]) -> list[int]:
    """The token of each option."""
    if getattr(player, "tokenizer", None) is None:
        raise BadValue(f"the player {player.name!r} has no tokenizer, so the tokens of the options are unknown")
    ids = [list(player.tokenizer(option, add_special_tokens=False)["input_ids"]) for option in options]
    if long := [option for option, tokens in zip(options, ids, strict=True) if len(tokens) != 1]:
        raise BadValue(f"an option must be one token of {player.name}, {long[0]!r} is not; give others")
    return [tokens[0] for tokens in ids]


@torch.no_grad()
def answered(player: Player, source: Source, options: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Let a player choose among the options wherever one of them is the truth.

    Args:
        player: a language model with a tokenizer.
        source: the rows.
        options: the options, each one token.

    Returns:
        The probabilities (N, O) among the options, and the place (N,) of the right one.

    Raises:
        BadValue: no tokenizer, or an option of several tokens.
        BadData: no target is one of the options.
    """
    ids = torch.tensor(_ids(player, options))
    probs, truth = [], []
    for rows in torch.arange(len(source)).split(ROWS):
        batch = Batch(dict(source.take(rows)))
        here_BTO = (batch.tokens[..., None] == ids.to(batch.device)) & batch.mask[..., None]
        head = player(batch, "head").predicting(here_BTO.any(-1))
        probs.append(head.logits()[:, ids.to(batch.device)].double().softmax(-1))
        truth.append(here_BTO[here_BTO.any(-1)].long().argmax(-1))
    if not sum(map(len, truth)):
        raise BadData(f"no target is one of the options {', '.join(options)}")
    return torch.cat(probs), torch.cat(truth)


@part(higher=True)
def option_accuracy(
    players: Players,
    data: Mapping[str, Source],
    *,
    options: tuple[str, ...] = LETTERS,
    player: str = "student",
    split: str = "test",
) -> float:
    """The share of answers that the player holds to be the likeliest of the options.

    mean [argmax_o p(o | x) = y]

    Args:
        players: the player.
        data: the splits.
        options: the options, each one token.
        player: whose answers.
        split: which rows.

    Raises:
        BadValue: no tokenizer, or an option of several tokens.
        BadData: no target is one of the options.
    """
    probs_NO, truth_N = answered(players[player], data[split], options)
    return float((probs_NO.argmax(-1) == truth_N).double().mean())


@part
def option_ece(
    players: Players,
    data: Mapping[str, Source],
    *,
    options: tuple[str, ...] = LETTERS,
    player: str = "student",
    split: str = "test",
    bins: int = 10,
) -> float:
    """The expected calibration error of the likeliest option, probabilities summing to 1 over the options.

    sum_b |B_b| / N |accuracy(B_b) - confidence(B_b)|

    Args:
        players: the player.
        data: the splits.
        options: the options, each one token.
        player: whose answers.
        split: which rows.
        bins: of equal width.

    Raises:
        BadValue: no tokenizer, or an option of several tokens.
        BadData: no target is one of the options.

    Source: Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599, equation 3.
    """
    probs_NO, truth_N = answered(players[player], data[split], options)
    confidence_N, said_N = probs_NO.max(-1)
    return calibration_error(confidence_N, said_N == truth_N, bins)


@part
def both_ways(
    players: Players,
    data: Mapping[str, Source],
    *,
    inside: Part = option_ece(),
    outside: Part = option_ece(split="shifted"),
) -> float:
    """The mean of an error on rows like those learned from and on others.

    (e_in + e_out) / 2

    Args:
        players: the players that the probes ask.
        data: the splits that they read.
        inside: a probe.
        outside: another.

    Raises:
        UnknownName: no such split or player.
    """
    return (float(inside(players, data)) + float(outside(players, data))) / 2
