"""Guidance: exact fields of classes and of none, and the algebra of their combination."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.beds._nets import fresh
from limbeck.errors import BadValue
from limbeck.parts.guidance import Guided, dropped_labels
from limbeck.players import Player, Players
from limbeck.roles import frozen

FIELD = load_bed("mog8c").players["teacher"](0)
WANTS = frozenset({"velocity", "x0", "eps", "score"})


def rows(n: int = 50, y: int | None = None) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    classes = torch.arange(n) % 4 if y is None else torch.full((n,), y)
    x = torch.randn(n, 2, generator=rng, dtype=torch.float64)
    return {"x": x, "t": torch.rand(n, generator=rng).double() * 0.9 + 0.05, "y": classes}


def test_the_fields_of_the_classes_make_up_the_field_of_none() -> None:
    # p(x) = mean_y p(x | y), and the score of a mixture is the posterior mean of the scores
    batch = rows()
    each = [FIELD(batch | {"y": torch.full((50,), y)}, frozenset({"log_density", "score"})) for y in range(4)]
    none = FIELD(batch | {"y": torch.full((50,), 4)}, frozenset({"log_density", "score"}))
    log_p = torch.stack([e["log_density"] for e in each])
    torch.testing.assert_close(none["log_density"], log_p.logsumexp(0) - torch.tensor(4.0).log())
    share = log_p.softmax(0)[..., None]
    torch.testing.assert_close(none["score"], (share * torch.stack([e["score"] for e in each])).sum(0))
    whole = load_bed("mog8").players["teacher"](0)({k: batch[k] for k in ("x", "t")}, WANTS)
    for want, answer in FIELD(batch | {"y": torch.full((50,), 4)}, WANTS).items():
        torch.testing.assert_close(answer, whole[want])


def test_guidance_in_velocity_is_guidance_in_score() -> None:
    batch = rows()
    found = Guided(FIELD, 3.0)(batch, WANTS)
    x, t = batch["x"], batch["t"][:, None]
    with_class, none = FIELD(batch, WANTS), FIELD(batch | {"y": torch.full((50,), 4)}, WANTS)
    tilted = none["score"] + 3.0 * (with_class["score"] - none["score"])
    eps = -t * tilted
    torch.testing.assert_close(found["velocity"], eps - (x - t * eps) / (1 - t), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close((1 - t) * found["x0"] + t * found["eps"], x)


def test_scales_of_rows_and_the_two_ends() -> None:
    batch = rows()
    for w, y in ((1.0, batch["y"]), (0.0, torch.full((50,), 4))):
        plain = FIELD(batch | {"y": y}, WANTS)["velocity"]
        torch.testing.assert_close(Guided(FIELD, w)(batch, WANTS)["velocity"], plain)
        by_row = Guided(FIELD, 9.0)(batch | {"w": torch.full((50,), w)}, WANTS)["velocity"]
        torch.testing.assert_close(by_row, plain)


def test_labels_are_dropped_at_the_stated_rate() -> None:
    student = Player("student", frozen(), fresh(0, 2, 8, 1, classes=4))
    batch = Batch({"x": torch.zeros(4000, 2), "y": torch.arange(4000) % 4})
    y = dropped_labels(share=0.25)(Players({"student": student}), batch).y
    assert abs(float((y == 4).float().mean()) - 0.25) < 0.03
    assert torch.equal(y[y != 4], batch.y[y != 4])


def test_what_has_no_classes_is_refused() -> None:
    with pytest.raises(BadValue, match="unconditional"):
        Guided(nn.Identity(), 2.0)
    plain = Players({"student": Player("student", frozen(), fresh(0, 2, 8, 1))})
    with pytest.raises(BadValue, match="unconditional"):
        dropped_labels()(plain, Batch({"x": torch.zeros(1, 2), "y": torch.zeros(1, dtype=torch.int64)}))
    some = Players({"student": Player("student", frozen(), fresh(0, 2, 8, 1, classes=4))})
    with pytest.raises(BadValue, match="the student has 4 classes"):
        dropped_labels()(some, Batch({"x": torch.zeros(1, 2), "y": torch.tensor([7])}))
