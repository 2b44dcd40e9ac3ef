"""What becomes of a student's features on their way to the teacher's.

Legend of shapes: N rows of the test split, S student features, D teacher features.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.part import part
from limbeck.parts.features import project
from limbeck.players import Players

__all__ = ["gram_gap"]


@part
@torch.no_grad()
def gram_gap(players: Players, data: Mapping[str, Source]) -> float:
    """How far the projector changes the inner products of the student's features: 0 if it is orthogonal.

    |P(Z) P(Z)' - Z Z'|_F / |Z Z'|_F; nothing is changed where there is no projector

    Args:
        players: the student answers "features"; `projector` maps them.
        data: the rows, under "test".

    Raises:
        UnknownName: the student does not answer "features".

    Source: Miles et al., "V_kD", arXiv:2403.06213, section 3.2.
    """
    if "projector" not in players:
        return 0.0
    rows = Batch(data["test"].take(torch.arange(len(data["test"]))))
    own_NS, sent_ND = (z.double() for z in (players.student(rows, "features"), project(players, rows)))
    own_NN, sent_NN = own_NS @ own_NS.mT, sent_ND @ sent_ND.mT
    return float((sent_NN - own_NN).norm() / own_NN.norm())
