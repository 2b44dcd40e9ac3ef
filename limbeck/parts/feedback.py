"""Feedback: a differentiable reward pulls what a field believes the datum to be.

The player `reward` answers "reward" (B,), the more the better, on column x (and on a class or prompt, if it reads one);
it is frozen, and gradients pass through it to the student.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import Mismatch
from limbeck.part import part
from limbeck.players import Players

__all__ = ["reward_feedback"]


@part
def reward_feedback(players: Players, batch: Batch, *, margin: float = 2.0) -> Tensor:
    """What the student believes the datum to be should be worth a margin; beyond it, more pulls no further.

    max(0, m - R(x0_student(x_t, t)))

    Args:
        players: the student answers "x0" on columns x, t; `reward` answers "reward" on x.
        batch: states in x at levels t; of pure noise for a generator of one step.
        margin: m, in units of the reward; infinity is no margin, and the loss then -R.

    Returns:
        (B,).

    Raises:
        Mismatch: the reward is not one number a row.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> players = SimpleNamespace(student=lambda b, want: b.x / 2, reward=lambda b, want: b.x.sum(1))
        >>> reward_feedback(margin=1.0)(players, Batch({"x": torch.tensor([[1.0], [4.0]]), "t": torch.ones(2)}))
        tensor([0.5000, 0.0000])

    Source: Xu et al., arXiv:2304.05977 (reward feedback learning); with a margin, Ren et al., arXiv:2404.13686.
    """
    x0 = players.student(batch, "x0")
    reward: Tensor = players.reward(batch.with_(x=x0), "reward")
    if reward.shape != (batch.size,):
        raise Mismatch(
            f"a reward is one number a row, ({batch.size},); the player 'reward' answers {tuple(reward.shape)}"
        )
    return -reward if margin == float("inf") else (margin - reward).clamp(min=0)
