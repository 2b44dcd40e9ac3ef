"""Pictures and an untrained pipeline: files of MNIST as they are laid out, sizes by means, and what opens then."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from limbeck.adapters.data import open_data
from limbeck.adapters.pipeline import Denoiser
from limbeck.adapters.source import open_directory, open_player, read_for
from limbeck.errors import BadData, BadValue
from limbeck.pictures import main, read_idx, save_untrained, sized
from tests.adapters.pipes import diffusers


def packed(array: np.ndarray, kind: int = 8, cut: int = 0) -> bytes:
    """An array in the layout of LeCun's page: two zeros, the type, the number of axes, the axes, the bytes."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    whole = head + array.tobytes()
    return gzip.compress(whole[: len(whole) - cut])


def some(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, shape: list[int]) -> None:
    path = tmp_path_factory.mktemp("idx") / "file.gz"
    path.write_bytes(packed(some(*shape)))
    assert np.array_equal(read_idx(path), some(*shape)) and read_idx(path).dtype == np.uint8


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "file.gz", packed(some(2, 3, 3))
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(BadData, match=r"file\.gz"):
            read_idx(path)
    for cut in range(1, 2 * 9 + 4 + 12):  # what was packed is short already
        path.write_bytes(packed(some(2, 3, 3), cut=cut))
        with pytest.raises(BadData, match="no whole file"):
            read_idx(path)


def test_other_formats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.gz"
    others = {
        "words": (packed(some(4), kind=0x0D), "no whole file"),  # floats
        "plain": (gzip.decompress(packed(some(4))), "cannot be read"),  # not packed
        "long": (gzip.compress(gzip.decompress(packed(some(4))) + b"x"), "no whole file"),
        "text": (gzip.compress(b"label\n1\n2\n"), "no whole file"),
        "no axes": (gzip.compress(b"\0\0\x08\0\x07"), "no whole file"),
    }
    for content, said in others.values():
        path.write_bytes(content)
        with pytest.raises(BadData, match=said):
            read_idx(path)
    with pytest.raises(BadData, match="nowhere"):
        read_idx(tmp_path / "nowhere.gz")


@pytest.mark.parametrize("side", [8, 28])
@pytest.mark.parametrize("size", [8, 16, 32])
def test_sizes_keep_the_light(side: int, size: int) -> None:
    x = torch.rand(3, 1, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = sized(x, size)
    assert found.shape == (3, 1, size, size) and float(found.min()) >= 0 and float(found.max()) <= 1
    if side == 28:  # a black border of two, then means of blocks: the sum over all pixels is kept but for the area
        torch.testing.assert_close(found.sum((1, 2, 3)) * (32 / size) ** 2, x.sum((1, 2, 3)))
        torch.testing.assert_close(sized(x.flip(3), size), found.flip(3))
    else:  # linear interpolation is exact on a ramp, away from the border
        ramp = torch.linspace(0, 7, 8, dtype=torch.float64).expand(1, 1, 8, 8)
        inner = (torch.arange(size, dtype=torch.float64) + 0.5) * 8 / size - 0.5
        torch.testing.assert_close(sized(ramp, size)[0, 0, 0], inner.clamp(0, 7))


def test_another_size_is_refused() -> None:
    for size in (0, 7, 28, 64):
        with pytest.raises(BadValue, match=f"8, 16, 32, not {size}"):
            sized(torch.zeros(1, 1, 8, 8), size)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "new" / "folder"
    main([str(out), "--width", "8"])
    return out


def test_the_digits_are_those_of_scikit_learn(made: Path) -> None:
    splits = {name: np.load(made / f"{name}.npz") for name in ("train", "test")}
    x, y = (np.concatenate([splits[n][c] for n in splits]) for c in "xy")
    assert x.shape == (1797, 1, 8, 8) and x.min() == -1 and x.max() == 1
    truth = load_digits()
    assert np.array_equal(np.bincount(y), np.bincount(truth.target)) and len(splits["test"]["y"]) == 500
    # every picture is there once, with its class
    rows = {(img.astype(int).tobytes(), int(label)) for img, label in zip(truth.images, truth.target, strict=True)}
    assert {(np.rint(8 * (p[0] + 1)).astype(int).tobytes(), int(c)) for p, c in zip(x, y, strict=True)} == rows


@torch.no_grad()
def test_the_untrained_pipeline_opens_with_ten_classes_and_none(made: Path) -> None:
    for net in (open_player(made / "untrained"), open_directory(made / "untrained")):
        assert isinstance(net, Denoiser) and net.classes == 10 and net.labels == 11 and net.shape == (1, 8, 8)
        rows = read_for(net, open_data(str(made / "test.npz"))).take(torch.arange(2))
        batch = {"x": rows["x"], "t": torch.full((2,), 0.5), "y": torch.tensor([9, 10])}
        assert net(batch, frozenset({"velocity"}))["velocity"].isfinite().all()
        with pytest.raises(BadData, match="class 11 is out of range"):
            net({**batch, "y": torch.tensor([0, 11])}, frozenset({"velocity"}))
    # none is what guidance asks, so it opens guided too; and it is on the path of rectified flow
    assert open_player(f"guided:scale=2:{made / 'untrained'}").classes == 10
    assert net.convention.name == "flow_prediction" and bool((rows["x"] == -1).any()) and float(rows["x"].max()) <= 1


def test_diffusers_samples_the_untrained_pipeline(made: Path) -> None:
    kind = json.loads((made / "untrained" / "model_index.json").read_text())["unet"][1]
    unet = getattr(diffusers, kind).from_pretrained(made / "untrained" / "unet")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(made / "untrained" / "scheduler")
    scheduler.set_timesteps(2)
    x = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t, class_labels=torch.tensor([10])).sample, t, x).prev_sample
    assert x.shape == (1, 1, 8, 8) and bool(x.isfinite().all())


def test_the_seed_decides_the_weights_and_nothing_else_is_drawn(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    counts = [save_untrained(tmp_path / str(i), 8, 3, 8, seed=seed) for i, seed in enumerate((0, 0, 1))]
    assert torch.equal(state, torch.get_rng_state())
    a, b, c = (open_player(tmp_path / str(i)).state_dict() for i in range(3))
    assert all(torch.equal(a[k], b[k]) for k in a) and any(not torch.equal(a[k], c[k]) for k in a)
    assert counts[0] == sum(p.numel() for p in open_player(tmp_path / "0").parameters())


def test_files_of_mnist_become_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    black_white = np.zeros((4, 28, 28), np.uint8)
    black_white[1], black_white[2, :14], black_white[3, 4:24, 4:24] = 255, 255, 51
    for stem, n in (("train", 4), ("t10k", 2)):
        (tmp_path / f"{stem}-images-idx3-ubyte.gz").write_bytes(packed(black_white[:n]))
        (tmp_path / f"{stem}-labels-idx1-ubyte.gz").write_bytes(packed(np.arange(n, dtype=np.uint8)))
    main([str(tmp_path / "out"), "--mnist", str(tmp_path), "--size", "16", "--width", "8"])
    rows = np.load(tmp_path / "out" / "train.npz")
    x = rows["x"][:, 0]
    assert x.shape == (4, 16, 16) and x.dtype == np.float32 and rows["y"].tolist() == [0, 1, 2, 3]
    assert (x[0] == -1).all() and (x[1, 1:-1, 1:-1] == 1).all() and (x[1, 0] == -1).all()
    assert (x[2, 1:8, 1:-1] == 1).all() and (x[2, 8:] == -1).all()
    assert np.allclose(x[3, 3:13, 3:13], 2 * 51 / 255 - 1)
    said = capsys.readouterr().out
    assert "train.npz: 4 pictures of 16x16" in said and "for 4 classes" in said
    assert open_player(tmp_path / "out" / "untrained").shape == (1, 16, 16)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(BadData, match="t10k-labels"):
        main([str(tmp_path / "out"), "--mnist", str(tmp_path)])
