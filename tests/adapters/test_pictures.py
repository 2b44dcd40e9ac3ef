"""Rows as pipelines read them: any usual form of pictures, once, in [-1, 1], and refused where they do not fit."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from limbeck.adapters.data import Images, Records, hold_out, open_data
from limbeck.adapters.pictures import decode, pictures
from limbeck.adapters.pipeline import Denoiser
from limbeck.adapters.source import open_player, read_for
from limbeck.beds import load_bed
from limbeck.data import Table
from limbeck.errors import BadData, Mismatch
from tests.adapters import pipes
from tests.adapters.pipes import diffusers

LINEAR = diffusers.DDIMScheduler(clip_sample=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pipelines")
    pipes.write_unet(place / "plain", LINEAR)
    pipes.write_unet(place / "classes", LINEAR, pipes.unet(11), '{"classes": 10}')
    pipes.write_dit(place / "latent", LINEAR)
    pipes.write_text(place / "text", diffusers.DDIMScheduler(clip_sample=False, steps_offset=1))
    return place


def test_all_forms_of_one_picture_are_the_same(home: Path) -> None:
    net = open_player(home / "plain")
    grey = (torch.arange(3 * 64).view(3, 1, 8, 8) % 256).byte()
    want = grey.float() / 255 * 2 - 1
    forms = {
        "bytes": grey, "channels last": grey.permute(0, 2, 3, 1), "no channels": grey[:, 0], "unit": grey.float() / 255,
        "both signs": want,
    }  # fmt: skip
    for name, x in forms.items():
        got = pictures(Table({"x": x}), net).take(torch.tensor([2, 0]))["x"]
        torch.testing.assert_close(got, want[[2, 0]], msg=lambda m, n=name: f"{n}: {m}")


def test_a_folder_of_pictures_with_classes(home: Path, tmp_path: Path) -> None:
    for name, value in (("a", 0), ("b", 255)):
        (tmp_path / "rows" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((16, 16, 3), value - i if value else i, np.uint8)).save(
                tmp_path / "rows" / name / f"{i}.png"
            )
    source = read_for(open_player(home / "classes"), open_data(tmp_path / "rows"))
    rows = source.take(torch.arange(6))
    assert rows["x"].shape == (6, 1, 8, 8) and rows["y"].tolist() == [0, 0, 0, 1, 1, 1]
    assert float(rows["x"].min()) == -1 and float(rows["x"].max()) == 1
    split = hold_out(source, 0.3)
    assert len(split.train) + len(split.held) == 6


def test_a_bed_and_an_array_with_classes(home: Path, tmp_path: Path) -> None:
    net = open_player(home / "classes")
    source = read_for(net, load_bed("digits").data(0)["test"])
    rows = source.take(torch.arange(4))
    assert rows["x"].shape == (4, 1, 8, 8) and float(rows["x"].min()) == -1 and set(rows) == {"x", "y"}
    assert source.fingerprint != read_for(net, load_bed("digits").data(0)["valid"]).fingerprint


def test_pictures_become_latents_and_come_back(home: Path) -> None:
    net = open_player(home / "latent")
    x = torch.rand(2, 1, 16, 16)
    rows = read_for(net, Table({"x": x, "y": torch.tensor([1, 2])})).take(torch.arange(2))
    vae, scale = net.frame.vae, net.frame.vae.config.scaling_factor
    with torch.no_grad():
        want = vae.encode(2 * x - 1).latent_dist.mean * scale
        torch.testing.assert_close(rows["x"], want)
        torch.testing.assert_close(decode(net, rows["x"]), (vae.decode(want / scale).sample / 2 + 0.5).clamp(0, 1))
    # latents that were made before are taken as they are
    again = read_for(net, Table({"x": want, "y": torch.tensor([1, 2])})).take(torch.arange(2))
    assert torch.equal(again["x"], want)


def test_texts_are_what_the_text_encoder_says(home: Path) -> None:
    net = open_player(home / "text")
    assert isinstance(net, Denoiser) and net.classes == 1
    picture = Image.fromarray(np.zeros((16, 16), np.uint8))
    given = datasets.Dataset.from_dict(
        {"image": [picture, picture], "text": ["a b", ""]},
        features=datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")}),
    )
    rows = read_for(net, Records(given)).take(torch.arange(2))
    assert rows["x"].shape == (2, 2, 8, 8) and rows["text"].shape == (2, 6, 16) and rows["y"].tolist() == [0, 0]
    torch.testing.assert_close(rows["text"][1], net.nothing)
    with pytest.raises(BadData, match="text"):
        read_for(net, Images(Records(given.remove_columns("text"))))


def test_rows_that_do_not_fit_are_refused(home: Path) -> None:
    net, plain = open_player(home / "classes"), open_player(home / "plain")
    x, y = torch.rand(3, 1, 8, 8), torch.tensor([0, 3, 9])
    for columns, said in (
        ({"x": x}, "need a column 'y'"),
        ({"x": x, "y": y + 1}, "class 10 is out of range.* 0 to 9"),
        ({"x": x, "y": y - 1}, "class -1 is out of range"),
        ({"x": 255 * x, "y": y}, "pixels must lie in"),
        ({"z": x}, "array x"),
    ):
        with pytest.raises(BadData, match=said):
            read_for(net, Table(columns))
    with pytest.raises(Mismatch, match="pictures of 1x8x8, the rows hold 1x4x4"):
        read_for(plain, Table({"x": x[:, :, :4, :4]}))
    with pytest.raises(BadData, match="NaN"):
        Table({"x": x / 0 * 0})


def test_latents_that_are_not_finite_are_refused(home: Path) -> None:
    net = open_player(home / "latent")
    with torch.no_grad():
        net.frame.vae.quant_conv.bias[0] = float("nan")
    with pytest.raises(BadData, match=r"latents.* NaN or infinity, first in row 0"):
        read_for(net, Table({"x": torch.rand(2, 1, 16, 16), "y": torch.tensor([1, 2])}))
