"""Small pictures and an untrained pipeline that could draw them: `python -m limbeck.pictures OUT --size 8`.

The pictures are the handwritten digits of scikit-learn, 8 x 8 pixels, or any set in the files of MNIST (Fashion-MNIST
comes so), brought to a size of 8, 16 or 32. OUT/train.npz and OUT/test.npz hold them in [-1, 1] with their classes, and
OUT/untrained is a pipeline of diffusers: a UNet that reads a class or none, on the path of rectified flow.

Shapes: N pictures of one channel.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, interpolate, pad

from limbeck.errors import BadData, BadValue

__all__ = ["main", "read_idx", "save_untrained", "sized"]

SIZES = (8, 16, 32)
FILES = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> np.ndarray[Any, Any]:
    """Read a file of the format of MNIST.

    Args:
        path: of pictures or labels, packed with gzip.

    Returns:
        (N, 28, 28) or (N,) uint8.

    Raises:
        BadData: a file that is missing, cut or of another format.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise BadData(f"{path} cannot be read: {error}") from None
    axes = raw[3] if len(raw) > 4 and raw[:3] == b"\0\0\x08" else 0
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes)]
    if not axes or len(raw) != 4 + 4 * axes + math.prod(shape):
        raise BadData(f"{path} is no whole file of bytes in the format of MNIST")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)


def sized(x: torch.Tensor, size: int) -> torch.Tensor:
    """Bring pictures of 8 x 8 or 28 x 28 pixels to a size, by means over pixels or by linear interpolation.

    Args:
        x: (N, 1, H, H).
        size: of the sides: 8, 16 or 32.

    Returns:
        (N, 1, size, size).

    Raises:
        BadValue: another size, or pictures of another.

    Example:
        >>> sized(torch.ones(2, 1, 28, 28), 16).shape
        torch.Size([2, 1, 16, 16])
    """
    if size not in SIZES:
        raise BadValue(f"pictures come in sizes {', '.join(map(str, SIZES))}, not {size}")
    if tuple(x.shape[-2:]) not in ((8, 8), (28, 28)):
        raise BadValue(f"pictures of 8 x 8 or 28 x 28 pixels are brought to a size, not {tuple(x.shape[-2:])}")
    if x.shape[-1] == 28:
        x = pad(x, (2, 2, 2, 2))
    if x.shape[-1] > size:
        return avg_pool2d(x, x.shape[-1] // size)
    return x if x.shape[-1] == size else interpolate(x, size=(size, size), mode="bilinear")


def _digits() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Pixels in [0, 1] and classes; the test rows are those of the bed `digits`."""
    from limbeck.beds.digits import splits

    whole = splits()
    parts = {"train": ("pool", "valid"), "test": ("test",)}
    columns = {k: [torch.cat([whole[p].columns[c] for p in v]) for c in "xy"] for k, v in parts.items()}  # type: ignore[misc]
    return {name: (x, y) for name, (x, y) in columns.items()}


def _mnist(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    found = {}
    for name, stem in FILES.items():
        x = torch.tensor(read_idx(folder / f"{stem}-images-idx3-ubyte.gz"), dtype=torch.float32)[:, None] / 255
        y = torch.tensor(read_idx(folder / f"{stem}-labels-idx1-ubyte.gz"), dtype=torch.int64)
        if len(x) != len(y):
            raise BadData(f"{folder} has {len(x)} pictures and {len(y)} labels in its files {stem}-*")
        found[name] = x, y
    return found


def save_untrained(out: Path, size: int, classes: int, width: int, seed: int = 0) -> int:
    """Write a pipeline whose UNet has yet to learn.

    Args:
        out: its directory.
        size: of the sides of a picture.
        classes: of the pictures; the class after the last stands for none.
        width: channels of the first block.
        seed: of the weights.

    Returns:
        How many weights it has.
    """
    import diffusers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = diffusers.UNet2DModel(
            sample_size=size,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(width, 2 * width),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            attention_head_dim=width,
            num_class_embeds=classes + 1,
        )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    unet.save_pretrained(out / "unet")
    scheduler.save_pretrained(out / "scheduler")
    parts = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", type(scheduler).__name__]}
    index = {"_class_name": "DDPMPipeline", "_diffusers_version": diffusers.__version__, **parts}
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    (out / "limbeck.json").write_text(json.dumps({"classes": classes}) + "\n")
    return int(sum(p.numel() for p in unet.parameters()))


def main(argv: list[str] | None = None) -> None:
    """Write pictures and pipeline, and say what to do with them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--mnist", type=Path, help="a folder with the four files of MNIST or Fashion-MNIST")
    parser.add_argument("--size", type=int, default=8, help="of the sides: 8, 16 or 32")
    parser.add_argument("--width", type=int, default=16, help="channels of the first block of the UNet")
    asked = parser.parse_args(argv)
    if asked.size not in SIZES or asked.width < 8 or asked.width % 8:
        parser.error(f"--size is one of {', '.join(map(str, SIZES))} and --width a multiple of 8")
    asked.out.mkdir(parents=True, exist_ok=True)
    data = _digits() if asked.mnist is None else _mnist(asked.mnist)
    for name, (x, y) in data.items():
        np.savez_compressed(asked.out / f"{name}.npz", x=2 * sized(x, asked.size).numpy() - 1, y=y.numpy())
        print(f"{asked.out / name}.npz: {len(y)} pictures of {asked.size}x{asked.size}")
    classes = int(data["train"][1].max()) + 1
    weights = save_untrained(asked.out / "untrained", asked.size, classes, asked.width)
    print(f"{asked.out}/untrained: a UNet of {weights:,} weights for {classes} classes, untrained")


if __name__ == "__main__":
    main()
