"""Whole distillations of pipelines: from a directory and pictures to a student that diffusers loads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from limbeck import distill
from limbeck.adapters.source import open_player
from limbeck.errors import BadData, UserError
from limbeck.evaluate import Examination
from tests.adapters import pipes
from tests.adapters.pipes import diffusers

DMD2 = {"distill.critic.times": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher conditional on classes, and pictures of digits."""
    place = tmp_path_factory.mktemp("runs")
    v = diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False)
    pipes.write_unet(place / "teacher", v, pipes.unet(11), '{"classes": 10}')
    columns = pipes.digits(60)
    np.savez(place / "rows.npz", x=(columns["x"].numpy() + 1) / 2, y=columns["y"].numpy())
    return place


def test_dmd2_of_a_pipeline(place: Path) -> None:
    run = distill(
        "dmd2", teacher=str(place / "teacher"), student=str(place / "teacher"), data=str(place / "rows.npz"),
        out=place / "dmd2", steps=2, batch_size=4, set=DMD2,
    )  # fmt: skip
    student = open_player(run / "student")
    teacher = open_player(place / "teacher")
    assert any(not torch.equal(a, b) for a, b in zip(student.parameters(), teacher.parameters(), strict=True))
    facts = json.loads((run / "student" / "limbeck.json").read_text())
    assert facts["times"] == [1.0] and facts["timesteps"] == [999] and facts["classes"] == 10
    pipe = diffusers.DiffusionPipeline.from_pretrained(run / "student")
    assert type(pipe.scheduler) is diffusers.LCMScheduler
    exam = Examination.load(run)
    assert [q.name.split(" (")[0] for q in exam.qualities] == ["Frechet distance", "kernel distance"]
    assert set(exam.qualities[0].values) == {"teacher", "before", "after"} and exam.costs["after"].speed is not None
    assert (run / "report.html").read_text().count("data:image/png;base64,") == 3
    assert "samples-after.png" in (run / "report.md").read_text()
    assert "timesteps=[999]" in (run / "student" / "README.md").read_text()


def test_flow_map_self_distillation_of_a_pipeline(place: Path) -> None:
    run = distill(
        "flow-map-self-distill", student=f"map:{place / 'teacher'}", data=str(place / "rows.npz"), out=place / "map",
        steps=2, batch_size=4,
    )  # fmt: skip
    saved = run / "student"
    assert {"pipeline.py", "second_time", "unet", "scheduler"} <= {p.name for p in saved.iterdir()}
    again = open_player(saved)
    t, y = torch.full((2,), 0.8), torch.zeros(2).long()
    answers = again({"x": torch.randn(2, 1, 8, 8), "t": t, "s": t / 2, "y": y}, frozenset({"velocity"}))
    assert bool(answers["velocity"].isfinite().all()) and bool(again.second.outer.weight.any())
    said = json.loads((saved / "model_index.json").read_text())["_class_name"]
    assert said == ["pipeline", "FixedGridPipeline"]
    # the file in the directory, as it is loaded by who trusts it
    pipe = diffusers.DiffusionPipeline.from_pretrained(saved, custom_pipeline=str(saved), trust_remote_code=True)
    assert pipe(class_labels=[0, 1], output_type="pt").shape == (2, 1, 8, 8)


@pytest.mark.parametrize("key", ["tcd", "boot"])
def test_students_that_jump_learn_from_a_teacher_that_does_not(place: Path, tmp_path: Path, key: str) -> None:
    distill(
        key, teacher=str(place / "teacher"), student=f"map:{place / 'teacher'}", data=str(place / "rows.npz"),
        out=tmp_path / "run", steps=1, batch_size=4,
    )  # fmt: skip
    assert open_player(tmp_path / "run" / "student").second is not None


def test_a_map_needs_two_times(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give map:"):
        distill(
            "flow-map-self-distill", student=str(place / "teacher"), data=str(place / "rows.npz"), out=tmp_path / "run",
            steps=1, batch_size=4,
        )  # fmt: skip


def test_a_class_out_of_range_is_found_before_anything_is_trained(place: Path, tmp_path: Path) -> None:
    columns = pipes.digits(12)
    np.savez(tmp_path / "odd.npz", x=columns["x"].numpy(), y=columns["y"].numpy() + 5)
    with pytest.raises(BadData, match=r"class 1\d is out of range"):
        distill(
            "dmd2", teacher=str(place / "teacher"), student="from-teacher", data=str(tmp_path / "odd.npz"),
            out=tmp_path / "run", steps=1, batch_size=4,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_guided_teacher_and_the_rows_of_a_bed(place: Path, tmp_path: Path) -> None:
    run = distill(
        "dmd2", teacher=f"guided:scale=2:{place / 'teacher'}", student="from-teacher", data="digits",
        out=tmp_path / "run", steps=1, batch_size=4, set=DMD2, dry_run=True,
    )  # fmt: skip
    assert not run.exists()


@pytest.mark.slow
def test_a_learned_solver_of_a_pipeline(place: Path, tmp_path: Path) -> None:
    run = distill(
        "d-ode", teacher=str(place / "teacher"), data=str(place / "rows.npz"), out=tmp_path / "run",
        set={"fit.batch_size": 2},
    )  # fmt: skip
    facts = json.loads((run / "solver" / "limbeck.json").read_text())
    assert (run / "solver" / "pipeline.py").exists() and "told" not in facts["steps"][-1]
    assert len(facts["steps"]) > 2 and all(len(s["answers"]) <= i for i, s in enumerate(facts["steps"]))


@pytest.mark.slow
def test_progressive_distillation_of_a_pipeline(place: Path, tmp_path: Path) -> None:
    small = {"ladder.builder.start": 8, "later.times": 1}
    run = distill(
        "progressive-distillation", teacher=str(place / "teacher"), student="from-teacher", out=tmp_path / "run",
        data=str(place / "rows.npz"), steps=1, batch_size=4, set=small,
    )  # fmt: skip
    steps = json.loads((run / "student" / "limbeck.json").read_text())["steps"]
    assert len(steps) == 3  # 8 steps, halved twice: two evaluations and the sample
