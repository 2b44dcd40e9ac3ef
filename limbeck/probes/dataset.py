"""How good a small data set is: what nets make of it that never saw another.

Legend of shapes: S nets, N rows of the test split, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.part import part
from limbeck.parts.descent import fresh_weights, scores, unroll
from limbeck.players import Players

__all__ = ["retrained_accuracy"]


@part(higher=True)
def retrained_accuracy(
    players: Players, data: Mapping[str, Source], *, rows: str = "synthetic", nets: int = 5, steps: int = 300
) -> float:
    """The mean accuracy of fresh nets of the student's architecture that learnt from a small data set alone.

    mean over nets and test rows of [argmax_c f(x; th)_c = y], th after `steps` steps of descent on all rows at its lr

    Args:
        players: the student is the architecture; its weights are not used.
        data: "test", and the small data set with columns x, y and lr.
        rows: the name of the small data set.
        nets: S; their starts are the same in every run.
        steps: of full-batch gradient descent.

    Returns:
        Between 0 and 1; a descent that diverged counts as whatever it answers.

    Raises:
        UnknownName: a data set without a column lr.
        Mismatch: a student whose weights cannot be drawn afresh.

    Source: Cazenavette et al., arXiv:2203.11932, section 4, without momentum and augmentation.
    """
    net = players.student.module
    assert net is not None
    device = next(net.parameters()).device
    small, test = (Batch(data[n].take(torch.arange(len(data[n])))).to(device) for n in (rows, "test"))
    with torch.no_grad():
        starts_SP = fresh_weights(net, *(("retrained", k) for k in range(nets)))
        ends = [unroll(net, w_P, small.x, small.y, small["lr"][0], steps=steps) for w_P in starts_SP]
        logits_SNC = torch.stack([scores(net, w_P, test.x) for w_P in ends])
    return float((logits_SNC.argmax(-1) == test.y).float().mean())
