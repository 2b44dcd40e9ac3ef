"""What the probes share: modes whose numbers have gaps, and rows on the device of the players."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.data import Table
from limbeck.part import Part, part
from limbeck.parts.scene import Particles
from limbeck.players import Player, Players
from limbeck.probes.distribution import mode_quality, mode_recall
from limbeck.probes.editing import class_distance, displacement, inversion_error, target_accuracy
from limbeck.probes.forgetting import still_drawn
from limbeck.probes.modes import mode_means, nearest_mode
from limbeck.probes.rows import first_rows
from limbeck.probes.samplers import class_purity
from limbeck.probes.scenes import edit_error, psnr, reference_gap, references_reached, spread_error
from limbeck.roles import frozen

ROWS = dict(load_bed("mog8c").data(0)["test"].take(torch.arange(600)))
NAMES = torch.tensor([0, 1, 4, 5, 9, 11, 20, 33])  # what the eight modes are called where there are gaps


@part
def column(players: Players, batch: Batch, *, name: str = "drawn") -> Tensor:
    """What a column holds."""
    return batch[name]


@given(st.lists(st.integers(-3, 40), min_size=1, max_size=30))
def test_means_are_taken_over_the_modes_that_have_rows(modes: list[int]) -> None:
    y, mode = torch.arange(2.0 * len(modes)).view(-1, 2).double(), torch.tensor(modes)
    means, member, count = mode_means(y, mode)
    numbers = np.unique(modes)
    due = np.stack([y.numpy()[np.array(modes) == k].mean(0) for k in numbers])
    np.testing.assert_allclose(means.numpy(), due)
    assert numbers[member.numpy()].tolist() == modes and count.sum() == len(modes) and (count > 0).all()


@given(st.permutations(range(8)))
def test_what_modes_are_called_changes_nothing(order: list[int]) -> None:
    x, y = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).double(), ROWS["x"].double()
    names = NAMES[torch.tensor(order)]
    plain, other = nearest_mode(x, y, ROWS["mode"]), nearest_mode(x, y, names[ROWS["mode"]])
    numbers = names.sort().values
    assert torch.equal(numbers[other[0]], names[plain[0]]) and torch.equal(other[1], plain[1])
    torch.testing.assert_close(other[3][numbers.argsort()], plain[3][names.argsort()])


@pytest.mark.parametrize("probe", [mode_recall, mode_quality, class_purity, spread_error])
def test_a_mode_without_rows_changes_no_figure(probe: Callable[..., Part]) -> None:
    # samples of half the modes, some of them far off
    half = (ROWS["mode"] < 4).nonzero()[:, 0]
    drawn = ROWS["x"][half[torch.arange(600) % len(half)]] * torch.linspace(0.8, 1.2, 600)[:, None]
    tables = [Table(ROWS | {"drawn": drawn, "mode": mode}) for mode in (ROWS["mode"], NAMES[ROWS["mode"]])]
    plain, gaps = (probe(draw=column())(Players({}), {"test": table}) for table in tables)
    assert 0 < plain == gaps and plain != 1


def test_an_object_without_a_number_is_not_the_nearest() -> None:
    views = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    scene = Players({"scene": Player("scene", frozen(), Particles(views[None] + 0.1))})
    for name in (1, 7):
        data = {"test": Table({"x": views, "mode": torch.tensor([0, name])})}
        assert reference_gap()(scene, data) == pytest.approx(0.1, rel=1e-5)
        assert references_reached()(scene, data) == 2


class Elsewhere(nn.Module):
    """A player on a device without data, which sees where what it is asked on is."""

    particles, classes = 2, 4

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, device="meta"))
        self.asked: set[str] = set()

    def forward(self, batch: Batch, want: frozenset[str]) -> dict[str, Tensor]:
        self.asked |= {c.device.type for c in dict(batch).values()}
        return {w: batch["x"][:, 0] if w == "log_density" else self.weight * batch["x"] for w in want}


@part
def asked(players: Players, batch: Batch) -> Tensor:
    """What the student answers."""
    return players.student(batch, "sample")


TABLE = Table({
    "x": torch.ones(4, 3), "y": torch.tensor([0, 1, 0, 1]), "mode": torch.tensor([0, 1, 0, 1]),
    "target": torch.tensor([1, 0, 1, 0]), "edited": torch.zeros(4, 3), "region": torch.ones(4, 3),
    "real": torch.zeros(4, 3), "noise": torch.zeros(4, 3),
})  # fmt: skip


@pytest.mark.parametrize(
    "probe",
    [psnr(), edit_error(), reference_gap(), references_reached(), inversion_error(), target_accuracy(),
     still_drawn(draw=asked()), mode_recall(draw=asked())],
)  # fmt: skip
def test_rows_are_where_the_players_are(probe: Part) -> None:
    net = Elsewhere()
    players = Players({name: Player(name, frozen(), net) for name in ("student", "scene", "oracle")})
    # tensors of two devices would be refused before; here nothing is left but to read the figure
    with pytest.raises((RuntimeError, NotImplementedError), match=r"cannot be called on meta|no fake impl"):
        probe(players, {"test": TABLE, "edited": TABLE})
    assert net.asked == {"meta"}


def test_rows_stay_where_they_are_for_players_without_weights() -> None:
    players, data = Players({}), {"test": TABLE, "edited": TABLE}
    assert first_rows(players, data).size == 4 and first_rows(players, data, 3, "edited").device.type == "cpu"
    assert displacement()(players, data) == pytest.approx(3**0.5) and class_distance()(players, data) == 0
