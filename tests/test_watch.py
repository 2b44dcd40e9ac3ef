"""Watching a run: when something is said, that it is said once, and that a sound run is silent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from limbeck import distill
from limbeck.batch import Batch
from limbeck.data import Table
from limbeck.part import part
from limbeck.parts.states import few_step
from limbeck.players import Player, Players
from limbeck.probes.field_game import LIMITS, faults, mean_drift
from limbeck.probes.pictures import contrast_drift, critic_gap, critic_lag, critic_loss, picture_kid, picture_probes
from limbeck.progress import Progress
from limbeck.report import write_report
from limbeck.roles import frozen
from limbeck.watch import Watching
from tests.adapters import pipes
from tests.adapters.pipes import diffusers

# -- when something is said -------------------------------------------------------------------------------------------


class Notes(Progress):
    """What was noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def watched(*drifts: float, rows: int = 400, name: str = "spread drift") -> list[str]:
    notes = Notes()
    watch = Watching(notes, rows)
    for drift in drifts:
        watch.show({"student/loss": 1.0})  # between evaluations nothing is judged
        watch.show({"student/loss": 1.0, f"eval/{name}": drift})
    assert notes.notes == [f"warning: {line}" for line in watch.said]
    return watch.said


@pytest.mark.parametrize(
    ("drifts", "said"),
    [
        ((-3.0, -2.0, -1.0, -0.8), 0),  # far off at first, and better each time
        ((-3.0,), 0),
        ((0.1, -0.9), 0),  # once may be chance
        ((0.1, -0.9, -0.9, -0.9), 1),  # lost later; said once
        ((-3.0, -3.1), 1),
        ((-1.0, 0.0, -1.0, 0.0), 0),
        ((2.0, 3.0, -1.0, -1.0), 2),  # burst, then collapsed
        ((float("nan"), float("nan")), 0),
    ],
)
def test_a_fault_is_told_once_when_it_stays(drifts: tuple[float, ...], said: int) -> None:
    assert len(watched(*drifts)) == said


def test_few_rows_must_be_further_off() -> None:
    assert watched(0.2, 0.2, name="mean drift") and not watched(0.2, 0.2, rows=12, name="mean drift")
    assert faults({"mean drift": 0.9}, rows=12)


@pytest.mark.parametrize(
    ("figures", "remedy"),
    [
        ({"contrast drift": -1.0}, "one colour; lower the student's rate"),
        ({"critic lag": 0.2}, "give it more updates a step"),
        ({"mean drift": 0.4}, "move the levels of the loss towards noise"),
    ],
)
def test_a_fault_says_what_to_do(figures: dict[str, float], remedy: str) -> None:
    ((size, line),) = faults(figures).values()
    (name, value) = next(iter(figures.items()))
    assert remedy in line and size == pytest.approx(abs(value) - LIMITS[name])


# -- figures ----------------------------------------------------------------------------------------------------------


class Says(torch.nn.Module):
    """A net that answers a multiple of what it sees."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))
        self.asked = 0

    def forward(self, batch: Batch, want: frozenset[str]) -> dict[str, torch.Tensor]:
        self.asked += 1
        return {"x0": self.factor * batch["x"]}


@part
def rows_again(players: Players, batch: Batch, *, by: float = 1.0) -> torch.Tensor:
    """The held-out pictures, through the student."""
    return by * players.student(batch.with_(t=torch.zeros(batch.size)), "x0")  # type: ignore[no-any-return]


def game(student: float = 1.0, critic: float = 1.0, teacher: float = 1.0) -> Players:
    nets = {"student": student, "critic": critic, "teacher": teacher}
    return Players({name: Player(name, frozen(), Says(factor)) for name, factor in nets.items()})


DATA = {"test": Table({"x": torch.randn(100, 2, 9, 9, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)})}


def test_figures_of_pictures_that_are_the_data_are_zero() -> None:
    found = {n: p(game(), DATA) for n, p in picture_probes(rows_again(), critic=False).items()}
    assert found["kid"] == pytest.approx(picture_kid(draw=rows_again())(game(), DATA)) and abs(found["kid"]) < 0.2
    assert found["mean drift"] == found["spread drift"] == found["contrast drift"] == pytest.approx(0, abs=1e-6)


def test_contrast_is_a_ratio_of_variances_and_grey_has_none() -> None:
    assert contrast_drift(draw=rows_again())(game(student=0.5), DATA) == pytest.approx(2 * np.log(0.5), abs=1e-6)
    assert contrast_drift(draw=rows_again())(game(student=0.0), DATA) < -20
    assert picture_kid(draw=rows_again())(game(student=0.0), DATA) > 1


def test_a_critic_lags_by_its_loss_over_the_teachers() -> None:
    # x0 - f x_t at fixed levels: a critic that says 0 errs by all of x
    draw, players = rows_again(), game(critic=0.0, teacher=0.0)
    x = DATA["test"].columns["x"][:50]
    assert isinstance(x, torch.Tensor)
    assert critic_loss(draw=draw)(players, DATA) == pytest.approx(float(x.square().mean()), rel=1e-5)
    assert critic_lag(draw=draw)(players, DATA) == pytest.approx(0, abs=1e-9) == critic_gap(draw=draw)(players, DATA)
    worse = game(critic=3.0, teacher=0.0)
    assert critic_lag(draw=draw)(worse, DATA) > 0.5 and critic_gap(draw=draw)(worse, DATA) > 0.5


def test_an_evaluation_draws_once_and_again_when_weights_changed() -> None:
    players = game()
    net = players["student"].module
    assert isinstance(net, Says)
    for probe in picture_probes(rows_again(), critic=False).values():
        probe(players, DATA)
    assert net.asked == 2  # a hundred rows, in blocks of 64
    with torch.no_grad():
        net.factor.data.mul_(0.5)  # unseen by version counters, as fused optimisers are
    assert mean_drift(draw=rows_again(), rows=400)(players, DATA) == pytest.approx(0, abs=0.1)
    assert net.asked == 4
    assert few_step() != rows_again()


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained pipeline, and pictures of digits."""
    place = tmp_path_factory.mktemp("watched")
    pipes.write_unet(place / "net", diffusers.FlowMatchEulerDiscreteScheduler(), pipes.unet(11), '{"classes": 10}')
    columns = pipes.digits(300)
    np.savez(place / "rows.npz", x=columns["x"].numpy(), y=columns["y"].numpy())
    return place


@pytest.mark.parametrize(("rate", "fault"), [(3e-3, ""), (1.0, "they burst; lower the student's rate")])
def test_a_huge_rate_is_told_and_a_sound_one_is_not(
    rate: float, fault: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = distill(
        "flow-matching", student=str(place / "net"), data=str(place / "rows.npz"), out=place / f"{rate}", steps=45,
        batch_size=24, eval_every=15, eval=str(place / "rows.npz"), set={"student.optimizer.lr.peak": rate},
    )  # fmt: skip
    told = " ".join(capsys.readouterr().err.split())
    said = json.loads((run / "run.json").read_text())["alarms"]
    assert any(fault in line for line in said) if fault else said == []
    assert ("warning:" in told) is bool(fault) and fault in told
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seen = [row for row in rows if "eval/kid" in row]
    assert [row["step"] for row in seen] == [14, 29, 44] and all("eval/contrast drift" in row for row in seen)
    report = write_report([run]).read_text()
    assert "eval/kid" in report and ("While it learned" in report) is bool(fault)
