"""Finished runs side by side: what is read at which steps, and that what was measured is found again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import limbeck.finished as finished
from limbeck import distill
from limbeck.adapters.convention import read_scheduler
from limbeck.adapters.pipeline import Denoiser, Frame
from limbeck.adapters.unrolled import unrolled
from limbeck.commands import app
from limbeck.errors import BadData, BadValue
from limbeck.evaluate import Examination, Interval
from limbeck.examine_pictures import sampled_by, seeded
from limbeck.finished import Finished, Reading, compare_runs, replayed
from limbeck.parts.flowmap import any_step
from limbeck.parts.solver import dpm_multistep, even, heun, ode_sample
from limbeck.parts.states import few_step
from limbeck.parts.stochastic_jumps import jump_and_noise
from limbeck.report.finished import figures, said, write_finished
from limbeck.report.words import number
from tests.adapters import pipes
from tests.adapters.pipes import diffusers
from tests.test_report import Page

FLOW = diffusers.FlowMatchEulerDiscreteScheduler()
V = diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, and pictures of digits."""
    place = tmp_path_factory.mktemp("finished")
    pipes.write_unet(place / "net", V, pipes.unet(11), '{"classes": 10}')
    columns = pipes.digits(40)
    np.savez(place / "rows.npz", x=columns["x"].numpy(), y=columns["y"].numpy())
    return place


@pytest.fixture(scope="module")
def one(place: Path) -> Path:
    """A student of one step."""
    given: Any = dict.fromkeys(("teacher", "student"), str(place / "net"))
    return distill("dmd2", **given, data=str(place / "rows.npz"), out=place / "one", steps=1, batch_size=4,
                   set={"distill.critic.times": 1})  # fmt: skip


@pytest.fixture(scope="module")
def more(place: Path, one: Path) -> dict[str, Path]:
    """The same, jumps of a map, and a learned solver, all of one teacher."""
    net, rows = str(place / "net"), str(place / "rows.npz")
    jumps = distill("tcd", teacher=net, student=f"map:{net}", data=rows, out=place / "jumps", steps=1, batch_size=4)
    solver = distill("d-ode", teacher=net, data=rows, out=place / "solver", set={"fit.batch_size": 2})
    return {"one": one, "jumps": jumps, "solver": solver}


# -- how a saved student is read --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        few_step(times=(1.0, 0.6, 0.3)), ode_sample(solver=heun(), times=even(3)),
        ode_sample(solver=dpm_multistep(order=2), times=(0.99, 0.5, 0.1)), jump_and_noise(times=even(3), gamma=0.4),
        any_step(times=even(2)),
    ],
    ids=["few", "heun", "memory", "jumps", "map"],
)  # fmt: skip
@pytest.mark.parametrize("scheduler", [FLOW, V], ids=["flow", "table"])
def test_a_fixed_grid_replayed_is_its_sampler(draw: Any, scheduler: Any) -> None:
    from limbeck.adapters.pipeline import with_second_time
    from limbeck.data import Table

    net = Denoiser(pipes.unet(), read_scheduler(scheduler), Frame(Path("x"), "DDPMPipeline", "unet", scheduler)).eval()
    if draw.spec.name in ("jump_and_noise", "any_step"):
        net = with_second_time(net).eval()
        torch.nn.init.normal_(net.second.outer.weight, std=0.1)  # type: ignore[union-attr]
    rows = seeded(Table({"x": torch.zeros(3, 1, 8, 8)}), torch.arange(3), torch.device("cpu"))
    numbers = json.loads(json.dumps(unrolled(net.convention, draw)))
    drawn, again = (sampled_by({"student": net}, d, rows) for d in (draw, replayed(numbers)))
    assert torch.allclose(drawn, again, atol=2e-4 * float(drawn.abs().max()))


@pytest.mark.slow
def test_students_are_read_at_what_they_were_made_for_and_their_teacher_once(
    more: dict[str, Path], tmp_path: Path
) -> None:
    found = compare_runs(list(more.values()), tmp_path)
    read = {who: {r.evaluations: r.made for r in rs} for who, rs in found.readings.items()}
    assert list(read) == ["teacher", "one", "jumps", "solver"]
    assert read["teacher"] == dict.fromkeys((1, 2, 4, 8, 16, 50), True)
    assert read["one"] == {1: True, 2: False, 4: False, 8: False}
    assert read["jumps"] == dict.fromkeys((1, 2, 4, 8), True)  # taught to jump from and to any level
    ((own, made),) = read["solver"].items()
    assert made and own == len(json.loads((more["solver"] / "solver" / "limbeck.json").read_text())["steps"]) - 1
    assert found.recipes == {"one": "dmd2", "jumps": "tcd", "solver": "d-ode"} and found.rows >= 2
    # what it was made for is what the run's own examination measured, on the same rows from the same noise
    for who, at in (("one", 1), ("jumps", 8), ("solver", own)):
        exam = Examination.load(more[who])
        (reading,) = [r for r in found.readings[who] if r.evaluations == at]
        assert reading.fid == pytest.approx(exam.qualities[0].values["after"].value, rel=1e-3)
        teacher = found.readings["teacher"][-1]
        assert teacher.fid == pytest.approx(exam.qualities[0].values["teacher"].value, rel=1e-3)
        assert (tmp_path / reading.grid).exists() and reading.seconds > 0


@pytest.mark.slow
def test_learned_solvers_and_jumps_are_examined_and_shown(more: dict[str, Path]) -> None:
    for who in ("jumps", "solver"):
        exam = Examination.load(more[who])
        assert set(exam.qualities[0].values) == {"teacher", "before", "after"}
        assert (more[who] / "report.html").read_text().count("data:image/png;base64,") == 3
    solver = Examination.load(more["solver"])
    # a solver moves the pictures, and no weight of the net
    assert solver.costs["after"].parameters == solver.costs["teacher"].parameters
    assert solver.qualities[0].values["after"] != solver.qualities[0].values["before"]


def test_what_was_measured_is_not_measured_again(one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, drawn = finished._Stand.read, []

    def counted(self: Any, net: Any, draw: Any, grid: Path, n: int, made: bool) -> Reading:
        drawn.append(n)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return read(self, net, draw, grid, n, made)

    monkeypatch.setattr(finished._Stand, "read", counted)
    monkeypatch.setattr(finished, "FIELD", (1, 2, 3))
    monkeypatch.setattr(finished, "STEPS", (1, 2))
    with pytest.raises(KeyboardInterrupt):
        compare_runs([one], tmp_path)
    first = compare_runs([one], tmp_path)
    assert drawn == [1, 2, 3, 3, 1, 2]  # the teacher's third again, then the student
    assert compare_runs([one], tmp_path) == first and len(drawn) == 6
    (tmp_path / finished.KEPT).write_text("[]")
    with pytest.raises(BadValue, match="choose another --out"):
        compare_runs([one], tmp_path)


# -- what is refused --------------------------------------------------------------------------------------------------


def refused(*args: str) -> str:
    done = CliRunner().invoke(app, ["compare", *args])
    assert done.exit_code == 2 and not done.stdout and done.stderr.count("\n") == 1, done.output
    return done.stderr


def test_runs_and_recipes_do_not_mix(one: Path) -> None:
    assert f"not both: {one} is a run and dmd2 is none" in refused(str(one), "dmd2")
    assert "--bed is for recipes" in refused(str(one), "--bed", "mog8")
    assert "give --bed" in refused("dmd2") and "give --bed" in refused("dmd2", "--bed", "mog8", "--eval", "x.npz")


def changed(run: Path, into: Path, **entries: Any) -> Path:
    """The same run, of which run.json says something else."""
    into.mkdir(parents=True)
    (into / "run.json").write_text(json.dumps({**json.loads((run / "run.json").read_text()), **entries}))
    (into / "student").symlink_to(run / "student")
    return into


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"status": "interrupted"}, "is interrupted: finish it with --resume"),
        ({"resolved": {"product": "drawn"}}, "has no pipeline of diffusers"),
        ({"data": {"test": "other"}}, "were examined on different rows: give --eval"),
        ({"players": {"teacher": "elsewhere"}}, "have 2 teachers"),
    ],
)
def test_runs_that_cannot_be_compared_are_told(entries: dict[str, Any], says: str, one: Path, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=says):
        compare_runs([one, changed(one, tmp_path / "odd", **entries)], tmp_path / "out")


def test_rows_that_are_not_known_or_have_changed_are_asked_for(one: Path, tmp_path: Path) -> None:
    silent = changed(one, tmp_path / "silent", rows=None)
    with pytest.raises(BadData, match="does not say where its rows are: give --eval"):
        compare_runs([silent], tmp_path / "out")
    other = json.loads((one / "run.json").read_text())["rows"]["data"]
    moved = changed(one, tmp_path / "moved", rows={"data": other, "eval": other})
    with pytest.raises(BadData, match="have changed since"):
        compare_runs([moved], tmp_path / "out")


# -- what is written --------------------------------------------------------------------------------------------------


@pytest.fixture
def found(tmp_path: Path) -> Finished:
    from limbeck.examine_pictures import write_grid

    def reading(who: str, n: int, fid: float, made: bool = True) -> Reading:
        write_grid(torch.rand(10, 1, 8, 8), tmp_path / f"{who}-{n}.png", 10)
        return Reading(n, made, fid, Interval(fid - 2, fid - 3, fid - 1), 0.002 * n, f"{who}-{n}.png")

    readings = {
        "teacher": [reading("teacher", n, fid) for n, fid in ((1, 25.0), (2, 20.0), (50, 1.5))],
        "one": [reading("one", 1, 4.0), reading("one", 2, 6.0, made=False)],
        "two": [reading("two", 2, 1.0)],
    }
    return Finished(readings, {"one": "dmd2", "two": "rcm"}, "some features", 400, ["runs/one", "runs/two"])


def test_a_page_shows_curves_pictures_and_a_table(found: Finished, tmp_path: Path) -> None:
    page = Page(write_finished(found, tmp_path).read_text())
    one = f"where its teacher has {number(25.0)}; the teacher comes as near at 50."
    two = f"where its teacher has {number(20.0)}; the teacher never comes as near."
    four, least = number(4.0), number(1.0)
    assert f"one has a Frechet distance of {four} at 1 evaluation, {one}" in page.text
    assert f"two has a Frechet distance of {least} at 2 evaluations, {two}" in page.text
    assert said(found)[0] in (tmp_path / "compare.md").read_text()
    html = (tmp_path / "compare.html").read_text()
    assert html.count("data:image/png;base64,") == 4  # the teacher twice, each student at what it was made for
    assert html.count(' hollow"') == 2  # one reading, in both curves
    assert "some features" in page.text and "limbeck compare runs/one runs/two" in page.text
    assert json.loads((tmp_path / "compare.json").read_text()) == json.loads(json.dumps(figures(found)))
    assert (tmp_path / "compare.svg").read_text().startswith("<svg") and "nan" not in html


def test_the_command_says_what_can_be_read_off(
    found: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.json").write_text("{}")
    monkeypatch.setattr(finished, "compare_runs", lambda *args: found)
    args = ["compare", str(tmp_path), "--out", str(tmp_path)]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0 and done.stdout.splitlines() == [*said(found), f"{tmp_path}/compare.html"]
    done = CliRunner().invoke(app, [*args, "--json"])
    assert json.loads(done.stdout) == json.loads(json.dumps(figures(found)))
