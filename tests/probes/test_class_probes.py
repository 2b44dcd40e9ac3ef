from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss
from torch import nn

from limbeck.adapters.modules import Plain
from limbeck.data import Table
from limbeck.players import Player, Players
from limbeck.probes.classification import accuracy, agreement, brier, ece, nll
from limbeck.roles import frozen


def world(logits: torch.Tensor, y: torch.Tensor) -> tuple[Players, dict[str, Table]]:
    ps = {n: Player(n, frozen(), Plain(nn.Identity())) for n in ("student", "teacher")}
    return Players(ps), {"test": Table({"x": logits, "y": y})}


@pytest.fixture
def random() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return 3 * torch.randn(400, 5, generator=g, dtype=torch.float64), torch.randint(0, 5, (400,), generator=g)


def test_probes_equal_scikit_learn(random: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, y = random
    p, seen = softmax(logits.numpy(), -1), world(*random)
    assert accuracy()(*seen) == pytest.approx(accuracy_score(y, p.argmax(-1)))
    assert nll()(*seen) == pytest.approx(log_loss(y, p, labels=range(5)))
    # scikit-learn's multiclass Brier score, unscaled, lies between 0 and 2 as well
    assert brier()(*seen) == pytest.approx(brier_score_loss(y, p, labels=range(5), scale_by_half=False))
    assert agreement()(*seen) == 1.0


def test_calibration_error_equals_torchmetrics(random: tuple[torch.Tensor, torch.Tensor]) -> None:
    metrics = pytest.importorskip("torchmetrics.functional.classification", reason="torchmetrics is not installed")
    theirs = metrics.multiclass_calibration_error(random[0].softmax(-1), random[1], num_classes=5, n_bins=15, norm="l1")
    assert ece()(*world(*random)) == pytest.approx(float(theirs), abs=1e-6)


def test_calibration_error_by_hand() -> None:
    # confidences 0.9, 0.9, 0.6 with right, wrong, right: bins hold (0.9, 0.9) and (0.6)
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]], dtype=torch.float64)
    seen = world(p.log(), torch.tensor([0, 1, 0]))
    assert ece()(*seen) == pytest.approx(2 / 3 * abs(0.5 - 0.9) + 1 / 3 * abs(1 - 0.6))


def test_calibration_error_of_calibrated_scores_is_small_and_of_overconfident_ones_large() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3)) * 1.5
    y = np.array([rng.choice(3, p=row) for row in softmax(logits, -1)])
    calibrated = ece()(*world(torch.tensor(logits), torch.tensor(y)))
    sure = ece()(*world(torch.tensor(3 * logits), torch.tensor(y)))
    assert calibrated < 0.015 < 0.1 < sure
