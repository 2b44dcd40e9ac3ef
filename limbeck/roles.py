"""Roles: how a recipe says where each player comes from, whether it learns and what keeps it in step.

A role is frozen data. The user (or the bed) gives the modules of `learning` and `frozen` players by name; all other
players are derived from them when the recipe is run, so a recipe never builds a network of its own kind.
"""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.errors import BadValue
from limbeck.part import Expr, Part

__all__ = ["Role", "built", "cached", "copy_of", "ema_of", "ensemble", "frozen", "learning", "self_under"]


@dataclass(frozen=True)
class Role:
    """One player of a recipe, as data; made by the functions of this module.

    Args:
        optimizer: the part that builds its optimiser; without one the player never learns.
        of: the players it is made from: one to copy, follow or put in another context, several for an ensemble.
        builder: a part `(players, batch)` that builds the module, where it is neither given nor derived.
        decay: the part of its own weights that it keeps at each synchronisation with the player it follows.
        every: the number of steps between synchronisations; 0 if it follows nobody.
        context: a batch part `(players, batch)` through which it sees the batch, with the weights of `of`.
        stored: it answers from columns `<name>.<want>` of the batch instead of from weights.
    """

    optimizer: Part | None = None
    of: tuple[str, ...] = ()
    builder: Part | None = None
    decay: float = 0.0
    every: int = 0
    context: Expr | None = None
    stored: bool = False

    @property
    def given(self) -> bool:
        """Whether the user or the bed must supply the module."""
        return not (self.of or self.builder or self.stored)


def learning(optimizer: Part) -> Role:
    """A given player that learns.

    Args:
        optimizer: an optimiser part such as `adamw(lr=1e-4)`.

    Raises:
        BadValue: not an optimiser part.

    Example:
        >>> from limbeck.parts.optimizer import sgd
        >>> learning(sgd(lr=0.1)).given
        True
    """
    if optimizer.spec.takes != ("params",):
        raise BadValue(f"a learning player needs an optimiser part such as adamw(lr=1e-4), got {optimizer!r}")
    return Role(optimizer)


def frozen() -> Role:
    """A given player that never changes and holds no gradient."""
    return Role()


def copy_of(player: str, optimizer: Part | None = None) -> Role:
    """A player that starts with the architecture and weights of another; learns if it has an optimiser.

    Example:
        >>> copy_of("student").of
        ('student',)
    """
    return Role(optimizer, of=(player,))


def ema_of(player: str, *, decay: float = 0.999, every: int = 1) -> Role:
    """A player that follows another: w <- decay w + (1 - decay) w', every so many steps.

    decay = 0 with every = k is a target network synchronised every k steps.

    Raises:
        BadValue: a decay outside [0, 1], or fewer than one step between synchronisations.

    Example:
        >>> ema_of("student", decay=0.0, every=100).every
        100
    """
    if not 0 <= decay <= 1 or every < 1:
        raise BadValue(f"ema_of needs decay in [0, 1] and every >= 1, got decay={decay}, every={every}")
    return Role(of=(player,), decay=decay, every=every)


def self_under(player: str, context: Expr) -> Role:
    """The same weights under another context: a privileged self-teacher. No gradient flows through it.

    Args:
        player: whose weights they are, at every moment.
        context: a batch part that rewrites the batch (adds the solution, a hint, another view).
    """
    return Role(of=(player,), context=context)


def ensemble(*players: str) -> Role:
    """The mean of what several players answer.

    Raises:
        BadValue: fewer than two players.

    Example:
        >>> ensemble("a", "b").of
        ('a', 'b')
    """
    if len(players) < 2:
        raise BadValue(f"an ensemble needs two players or more, got {players}")
    return Role(of=players)


def built(builder: Part, optimizer: Part | None = None) -> Role:
    """A player built for the occasion: a projector, a discriminator, a state player of buffers.

    Args:
        builder: a part `(players, batch)` that returns a module; it may ask the players for shapes on that batch.
        optimizer: an optimiser part, if it learns.
    """
    return Role(optimizer, builder=builder)


def cached() -> Role:
    """A player whose answers were stored by an earlier stage, in columns `<name>.<want>` of the data."""
    return Role(stored=True)
