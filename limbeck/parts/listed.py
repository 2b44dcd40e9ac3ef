"""What a teacher that is not a language model tells of its distributions: a list of tokens and their log-probabilities.

Shapes: B rows, T tokens, N target tokens, K listed tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadData, Mismatch
from limbeck.kernels.head import TokenHead
from limbeck.players import Player

__all__ = ["Narrowed", "distribution", "listed", "lists"]


@dataclass(frozen=True, eq=False)
class Narrowed(TokenHead):
    """A head of which only the likeliest tokens are to be compared.

    Args:
        k: how many.
        own: whether they are chosen by the student, else by the head itself.
    """

    k: int = 1
    own: bool = False


def lists(player: Player) -> bool:
    """Whether a player tells its distributions by lists, in answers `ids` and `logp`.

    Example:
        >>> from limbeck.roles import cached, frozen
        >>> lists(Player("teacher", cached())), lists(Player("teacher", frozen()))
        (True, False)
    """
    return player.role.stored or bool(getattr(player, "lists", False))


def listed(player: Player, batch: Batch, size: int) -> tuple[Tensor, Tensor]:
    """Ask a player for its lists at the targets.

    Args:
        player: one that lists.
        batch: column `mask` (B, T).
        size: the number of tokens that the student has, V.

    Returns:
        ids (N, K) and logp (N, K), in the order of `tokens[mask]`.

    Raises:
        Mismatch: lists for other tokens than those of the batch, or of tokens that the student does not have.
        BadData: numbers that are no log-probabilities.
    """
    mask_BT = batch["mask"]
    ids_BTK, logp_BTK = player(batch, "ids", "logp")
    if ids_BTK.shape != logp_BTK.shape or ids_BTK.shape[:-1] != mask_BT.shape:
        raise Mismatch(
            f"{player.name}: ids of shape {tuple(ids_BTK.shape)} and logp of shape {tuple(logp_BTK.shape)} do not fit "
            f"tokens of shape {tuple(mask_BT.shape)}; both must be (rows, tokens, listed tokens)"
        )
    ids_NK, logp_NK = ids_BTK[mask_BT], logp_BTK[mask_BT]
    outside = (logp_NK != -torch.inf) & ((ids_NK < 0) | (ids_NK >= size))
    if outside.any():
        raise Mismatch(
            f"{player.name} lists token {int(ids_NK[outside][0])}, the student has tokens 0 to {size - 1}; its lists "
            "must come from a teacher of the student's tokenizer"
        )
    if not (logp_NK < torch.inf).all():
        raise BadData(f"{player.name} lists log-probabilities that are not a number, or infinite")
    return ids_NK, logp_NK


def distribution(player: Player, batch: Batch, size: int) -> tuple[Tensor, Tensor]:
    """Ask a player for its lists at the targets, each a part of one distribution.

    Args:
        player: one that lists.
        batch: column `mask` (B, T).
        size: the number of tokens that the student has, V.

    Returns:
        ids (N, K) and logp (N, K), in the order of `tokens[mask]`; a mass above 1 by rounding is scaled to 1.

    Raises:
        Mismatch: lists for other tokens than those of the batch, or of tokens that the student does not have.
        BadData: log-probabilities whose mass is above 1, or a token listed twice.
    """
    ids_NK, logp_NK = listed(player, batch, size)
    mass_N = logp_NK.float().logsumexp(-1)
    if (mass_N > math.log(1.01)).any():
        raise BadData(
            f"{player.name} lists tokens with a mass of {mass_N.max().exp():.4g}, more than 1: logp must hold "
            "log-probabilities, not logits"
        )
    sorted_NK = (
        ids_NK.where(logp_NK > -torch.inf, -1 - torch.arange(ids_NK.shape[-1], device=ids_NK.device)).sort().values
    )
    if (twice := sorted_NK[:, 1:] == sorted_NK[:, :-1]).any():
        raise BadData(
            f"{player.name} lists token {int(sorted_NK[:, 1:][twice][0])} twice at one place; sampled tokens need "
            "listed_cross_entropy, or their weights added up"
        )
    return ids_NK, logp_NK - mass_N.clamp(min=0)[:, None].to(logp_NK.dtype)
