"""A moving average of what a recipe makes, taken in its place once it is done."""

from __future__ import annotations

from dataclasses import replace

import torch

from limbeck.errors import BadValue
from limbeck.players import Players
from limbeck.recipe import Recipe
from limbeck.roles import ema_of

__all__ = ["averaged", "settled"]

PLAYER = "averaged"


def averaged(recipe: Recipe, decay: float) -> Recipe:
    """Let a recipe keep a moving average of its product's weights.

    w_avg <- decay w_avg + (1 - decay) w after every step

    Args:
        recipe: any whose product is a player with weights of its own that learns.
        decay: inside (0, 1); an average of about the last 1 / (1 - decay) steps, and of the start where they are fewer.

    Returns:
        The recipe with one player more.

    Raises:
        BadValue: a decay outside (0, 1), a product that does not learn, or one that is averaged already.

    Example:
        >>> from limbeck.index import load
        >>> averaged(load("dmd2"), 0.99).players["averaged"].of
        ('student',)
    """
    if not 0 < decay < 1:
        raise BadValue(f"a moving average needs a decay inside (0, 1), got {decay:g}")
    role = recipe.players.get(recipe.product)
    if role is None or role.optimizer is None:
        raise BadValue(f"{recipe.key} makes {recipe.product!r}, whose weights do not learn, so they have no average")
    if PLAYER in recipe.players:
        raise BadValue(f"{recipe.key} has a player {PLAYER!r} of its own, so no other can be added")
    return replace(recipe, players={**recipe.players, PLAYER: ema_of(recipe.product, decay=decay)})


@torch.no_grad()
def settled(players: Players, product: str) -> None:
    """Give the product the weights of its average, if one was kept."""
    if PLAYER not in players:
        return
    mine, average = players[product].module, players[PLAYER].module
    assert mine is not None and average is not None
    mine.load_state_dict(average.state_dict())
