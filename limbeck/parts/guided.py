"""Players under classifier-free guidance, as players without weights of their own: `built(guided_teacher(scale=6.0))`.

They see the weights of the player that they guide at every moment, so that a student can be sampled under guidance
while it learns, and pairs can be made by a guided teacher.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from limbeck.batch import Batch
from limbeck.part import part
from limbeck.parts.guidance import Guided
from limbeck.players import Player, Players

__all__ = ["View", "guided_student", "guided_teacher"]


class View(nn.Module):
    """A player's net under guidance; the net's weights are the player's, and are not listed here.

    Args:
        player: has a net of its own.
        scale: w; 1 for the net as it is, which may then be unconditional.

    Raises:
        BadValue: a scale other than 1 of a net without classes.

    Example:
        >>> from limbeck.beds import load_bed
        >>> teacher = Player("teacher", None, load_bed("mog8c").players["teacher"](0))
        >>> View(teacher, 2.0).classes, list(View(teacher, 2.0).parameters())
        (4, [])
    """

    def __init__(self, player: Player, scale: float) -> None:
        super().__init__()
        net = player.module
        assert net is not None
        self.classes = int(getattr(net, "classes", 0) or 0)
        self._seen = (net if scale == 1 else Guided(net, scale),)  # in a tuple: no weights of its own

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer what the net answers, "velocity", "x0", "eps" and "score" under guidance."""
        return self._seen[0](batch, want)  # type: ignore[no-any-return]


@part
def guided_teacher(players: Players, batch: Batch, *, scale: float = 6.0) -> View:
    """Build the teacher under guidance.

    v_w = v(x, t, none) + w (v(x, t, y) - v(x, t, none))

    Args:
        players: the teacher has classes, unless w = 1.
        batch: not asked.
        scale: w; 1 for the teacher as it is.

    Returns:
        The module.

    Raises:
        BadValue: a scale other than 1 of a teacher without classes.

    Source: Ho and Salimans, arXiv:2207.12598, with w counted from 1.
    """
    return View(players.teacher, scale)


@part
def guided_student(players: Players, batch: Batch, *, scale: float = 1.5) -> View:
    """Build the student under guidance: what it samples while, and after, it learns.

    v_w = v(x, t, none) + w (v(x, t, y) - v(x, t, none))

    Args:
        players: the student has classes, unless w = 1.
        batch: not asked.
        scale: w; 1 for the student as it is.

    Returns:
        The module.

    Raises:
        BadValue: a scale other than 1 of a student without classes.

    Source: Zheng et al., arXiv:2311.13443, the guided vector field.
    """
    return View(players.student, scale)
