"""Features of a student drawn towards a teacher's, through a projector between the two sizes.

Legend of shapes: B rows, S student features, D teacher features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, mse_loss, smooth_l1_loss
from torch.nn.utils.parametrizations import orthogonal

from limbeck.batch import Batch
from limbeck.part import part
from limbeck.players import Players

__all__ = [
    "Projector",
    "feature_mse",
    "linear_projector",
    "orthogonal_projector",
    "project",
    "standardised_features",
    "whiten",
    "whitened_features",
]


class Projector(nn.Module):
    """A net from the column "features" (B, S) to the answer "projected" (B, D).

    Args:
        net: the map.

    Example:
        >>> wide = Projector(nn.Linear(2, 3))
        >>> wide({"features": torch.ones(5, 2)}, frozenset({"projected"}))["projected"].shape
        torch.Size([5, 3])

    Source: Romero et al., "FitNets", arXiv:1412.6550, equation 3, for vectors.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Tensor]:
        """Answer "projected"."""
        return {"projected": self.net(batch["features"])}


def _sizes(players: Players, batch: Batch) -> tuple[int, int]:
    """The numbers of student and teacher features, found by asking for them."""
    with torch.no_grad():
        student, teacher = (players[name](batch, "features").shape[-1] for name in ("student", "teacher"))
    return student, teacher


@part
def linear_projector(players: Players, batch: Batch, *, bias: bool = True) -> nn.Module:
    """Build a free linear map from the student's features to the teacher's.

    P(z) = W z + b

    Args:
        players: student and teacher answer "features".
        batch: rows on which they are asked for their sizes.
        bias: whether it has one.

    Source: Romero et al., "FitNets", arXiv:1412.6550, equation 3, for vectors.
    """
    return Projector(nn.Linear(*_sizes(players, batch), bias=bias))


@part
def orthogonal_projector(players: Players, batch: Batch) -> nn.Module:
    """Build a linear map that keeps angles and lengths, so that it can learn nothing in the student's place.

    P(z) = W z with W'W = I on the smaller side: Gram(P(Z)) = Gram(Z) for S <= D; W by Cayley's map of a skew matrix

    Args:
        players: student and teacher answer "features".
        batch: rows on which they are asked for their sizes.

    Source: Miles et al., "V_kD", arXiv:2403.06213, section 3.2.
    """
    linear = nn.Linear(*_sizes(players, batch), bias=False)
    return Projector(orthogonal(linear, orthogonal_map="cayley"))


def project(players: Players, batch: Batch) -> Tensor:
    """The student's features in the teacher's space (B, D), by the player `projector`.

    Raises:
        UnknownName: there is no player `projector`.

    Source: Romero et al., "FitNets", arXiv:1412.6550, equation 3, for vectors.
    """
    return players.projector(batch.with_(features=players.student(batch, "features")), "projected")  # type: ignore[no-any-return]


def whiten(z_BD: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Whiten features over the batch: mean 0, covariance I where they vary.

    (Z - mean) (Cov + eps tr(Cov) / D I)^-1/2

    Args:
        z_BD: the features.
        eps: the share of the mean variance added to every direction.

    Example:
        >>> whiten(torch.tensor([[3.0], [1.0], [2.0]]), eps=0).flatten().tolist()
        [1.0, -1.0, 0.0]

    Source: Miles et al., "V_kD", arXiv:2403.06213, section 3.3.
    """
    centred_BD = z_BD - z_BD.mean(0)
    d_D, v_DD = torch.linalg.eigh(centred_BD.mT @ centred_BD / (len(z_BD) - 1))
    d_D = d_D.clamp(min=0)
    return centred_BD @ (v_DD * (d_D + eps * d_D.mean()).rsqrt()) @ v_DD.mT


@part
def standardised_features(players: Players, batch: Batch) -> Tensor:
    """Smooth L1 distance of the projected features from the teacher's, standardised row by row.

    mean_d smoothL1(P(z)_d - ((t - mean t) / std t)_d)

    Args:
        players: student and teacher answer "features"; the `projector` joins their spaces.
        batch: the rows.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `projector`.

    Source: Miles et al., "V_kD", arXiv:2403.06213, section 3.3, for discriminative tasks.
    """
    teacher_BD = players.teacher(batch, "features")
    target_BD = layer_norm(teacher_BD, teacher_BD.shape[-1:])
    return smooth_l1_loss(project(players, batch), target_BD, reduction="none").mean(-1)


@part(coupled=True)  # type: ignore[untyped-decorator]
def whitened_features(players: Players, batch: Batch) -> Tensor:
    """Smooth L1 distance of the projected features from the teacher's, whitened over the batch.

    mean_d smoothL1(P(z)_d - ((t - mean t) Cov(t)^-1/2)_d)

    Args:
        players: student and teacher answer "features"; the `projector` joins their spaces.
        batch: the rows; their number should exceed that of the teacher's features.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `projector`.

    Source: Miles et al., "V_kD", arXiv:2403.06213, section 3.3, for generative tasks.
    """
    target_BD = whiten(players.teacher(batch, "features"))
    return smooth_l1_loss(project(players, batch), target_BD, reduction="none").mean(-1)


@part
def feature_mse(players: Players, batch: Batch) -> Tensor:
    """Squared distance of the projected features from the teacher's.

    mean_d (P(z) - t)_d^2

    Args:
        players: student and teacher answer "features"; the `projector` joins their spaces.
        batch: the rows.

    Returns:
        (B,).

    Raises:
        UnknownName: there is no player `projector`.

    Source: Romero et al., "FitNets", arXiv:1412.6550, equation 3, for vectors.
    """
    return mse_loss(project(players, batch), players.teacher(batch, "features"), reduction="none").mean(-1)
