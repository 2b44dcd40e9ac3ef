"""Examinations of pictures: closed forms of both distances, a pipeline against its own samples, and what is shown."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from limbeck.adapters.convention import read_scheduler
from limbeck.adapters.pipeline import Denoiser, Frame
from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.data import Table
from limbeck.errors import BadData
from limbeck.examine_pictures import examine_pictures, sampled_by, seeded, write_grid
from limbeck.part import part
from limbeck.parts.states import few_step
from limbeck.players import Players
from limbeck.probes.pictures import judge_of
from tests.adapters import pipes
from tests.adapters.pipes import diffusers

FLOW = diffusers.FlowMatchEulerDiscreteScheduler()


def net(side: int, seed: int = 0) -> Denoiser:
    model = pipes.unet(side=side, seed=seed)
    return Denoiser(model, read_scheduler(FLOW), Frame(Path("nowhere"), "DDPMPipeline", "unet", FLOW)).eval()


def opened(path: Path) -> Image.Image:
    return Image.open(BytesIO(path.read_bytes()))


@part
def moved(players: Players, batch: Batch, *, by: float = 0.2) -> Tensor:
    """The held-out pictures, brighter."""
    return batch.x + by


def test_distances_of_even_pictures_are_closed_forms() -> None:
    # pixels are halved into [0, 1]: 0.5 against 0.6 in each of 64 means, in units of 0.02; contrasts are as they were
    found = examine_pictures({"after": net(16)}, Table({"x": torch.zeros(5, 1, 16, 16)}), moved())
    frechet, kernel = found.qualities
    assert frechet.values["after"].value == pytest.approx(64 * 5.0**2, rel=1e-4)
    assert kernel.values["after"].value == pytest.approx((64 / 96 * 25 + 1) ** 3 - 1, rel=1e-4)
    assert not frechet.higher_is_better and kernel.n == 5 and "blocks of pixels" in found.notes[0]
    speed = found.costs["after"].speed
    assert speed is not None and found.costs["after"].parameters == sum(p.numel() for p in net(16).parameters())


def test_a_pipeline_is_nearest_to_its_own_samples(tmp_path: Path) -> None:
    nets, rows = {"before": net(8, 1), "after": net(8)}, torch.arange(6)
    blank = Table({"x": torch.zeros(6, 1, 8, 8)})
    own = sampled_by({"student": nets["after"]}, few_step(), seeded(blank, rows, torch.device("cpu")))
    found = examine_pictures(nets, Table({"x": own}), few_step(), run=tmp_path)
    frechet, kernel = (q.values for q in found.qualities)
    assert frechet["after"].value < 1e-6 < 1e-2 * frechet["before"].value
    assert kernel["after"].value < kernel["before"].value
    assert {p.name for p in tmp_path.iterdir()} == {"samples-before.png", "samples-after.png"}
    assert opened(tmp_path / "samples-after.png").size == (6 * 49 - 1, 48)


def test_one_row_is_not_enough() -> None:
    with pytest.raises(BadData, match="two held-out rows"):
        examine_pictures({"after": net(8)}, Table({"x": torch.zeros(1, 1, 8, 8)}), None)


def test_digits_are_judged_by_features_that_tell_their_classes() -> None:
    rows = load_bed("digits").data(0)["test"].take(torch.arange(300))
    features, named = judge_of(torch.as_tensor(rows["x"]))
    assert "digits" in named
    seen, y = features(torch.as_tensor(rows["x"])), torch.as_tensor(rows["y"])
    centres = torch.stack([seen[:150][y[:150] == c].mean(0) for c in range(10)])
    nearest = torch.cdist(seen[150:], centres).argmin(1)
    assert float((nearest == y[150:]).float().mean()) > 0.95


def test_other_pictures_are_judged_by_blocks_in_deviations_of_the_data() -> None:
    x = torch.rand(30, 2, 16, 24)
    features, named = judge_of(x)
    blocks = x.numpy().reshape(30, 2, 8, 2, 8, 3).mean((3, 5)).reshape(30, -1)
    blocks = (blocks - blocks.mean(0)) / blocks.std(0)
    assert "pixels" in named and np.allclose(features(x).numpy()[:, :128], blocks, atol=1e-4)
    # the means of blocks are those of a blurred picture, whose contrasts are less
    blurred = torch.nn.functional.avg_pool2d(x, (2, 3)).repeat_interleave(2, 2).repeat_interleave(3, 3)
    seen = features(blurred).numpy()
    assert np.allclose(seen[:, :128], blocks, atol=1e-4) and (seen[:, 128:] < -1).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_small_pictures_are_shown_larger_pixel_by_pixel(channels: int, tmp_path: Path) -> None:
    x = torch.rand(7, channels, 8, 8)
    write_grid(x, tmp_path / "sheet.png")
    sheet = np.asarray(opened(tmp_path / "sheet.png")).reshape(97, 293, channels)
    for i in range(7):
        top, left = 49 * (i // 6), 49 * (i % 6)
        shown = sheet[top : top + 48, left : left + 48].reshape(8, 6, 8, 6, channels)
        assert (shown == shown[:, :1, :, :1]).all()  # blocks of six by six
        assert np.abs(shown[:, 0, :, 0] / 255 - x[i].permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
    assert (sheet[48] == 255).all() and (sheet[:, 48] == 255).all() and (sheet[49:, 49:] == 255).all()


def test_large_pictures_are_shown_as_they_are(tmp_path: Path) -> None:
    write_grid(torch.zeros(2, 1, 64, 50), tmp_path / "sheet.png")
    assert opened(tmp_path / "sheet.png").size == (101, 64)
