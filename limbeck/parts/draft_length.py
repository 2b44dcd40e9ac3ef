"""How many tokens a draft proposes: drawn anew for every block from what was learnt of the share that is kept.

The share is unknown, theta ~ Beta(a, b). Before each token theta' is drawn from Beta(a, b), and the draft goes on with
probability theta'. Both draws together are one, with the mean of the belief, a / (a + b), which is what is done here.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from limbeck.errors import BadValue

__all__ = ["Belief"]


@dataclass
class Belief:
    """What is believed of the share of proposed tokens that is kept: Beta(a, b); each row begins with the one given.

    Args:
        a: 1 + kept tokens, if nothing was known before.
        b: 1 + refused tokens, likewise.
        most: tokens of a block at most.

    Raises:
        BadValue: a or b not positive, or a block of no tokens.

    Example:
        >>> belief = Belief()
        >>> belief.learn(kept=3, proposed=4)
        >>> belief.mean
        0.6666666666666666

    Source: "Speculative Decoding via Early-exiting for Faster LLM Inference with Thompson Sampling Control Mechanism",
        arXiv:2406.03853.
    """

    a: float = 1.0
    b: float = 1.0
    most: int = 8

    def __post_init__(self) -> None:
        if min(self.a, self.b) <= 0 or self.most < 1:
            raise BadValue(f"a belief needs a, b > 0 and most >= 1, got {self.a:g}, {self.b:g} and {self.most}")

    @property
    def mean(self) -> float:
        """The mean of the belief, a / (a + b)."""
        return self.a / (self.a + self.b)

    def draw(self, u_K: Tensor) -> int:
        """How many tokens to propose: so many, before the first at which the draft does not go on.

        Args:
            u_K: `most` numbers in (0, 1).
        """
        return int((u_K[: self.most] < self.mean).long().cumprod(0).sum())

    def learn(self, kept: int, proposed: int) -> None:
        """Take in what became of a block: a <- a + kept, b <- b + 1 if one was refused; what came after tells nothing.

        Args:
            kept: its tokens before the first that was refused.
            proposed: its tokens.
        """
        self.a += kept
        self.b += kept < proposed
