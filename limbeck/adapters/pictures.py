"""Rows as a pipeline of diffusers reads them: pictures in [-1, 1] or their latents, with classes or texts.

Accepted are image folders (with a column `text` beside the pictures for text-conditional pipelines), and tables with
arrays x (N, C, H, W) or (N, H, W, C), floats in [0, 1] or [-1, 1] or bytes, and y. What is read is checked once.

Shapes: B rows, N rows of a source, C channels, H by W pixels, T tokens, D features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from limbeck.adapters.consistent import checked
from limbeck.adapters.data import Images, Records, need
from limbeck.adapters.pipeline import Denoiser, encode_text
from limbeck.batch import Column
from limbeck.data import Source, Table
from limbeck.errors import BadData, Mismatch

__all__ = ["Pictures", "as_pictures", "decode", "pictures"]

CHUNK = 64


class Pictures:
    """A source whose rows a pipeline reads.

    Args:
        source: rows with a column x of pictures, and y or text where the pipeline is conditioned on it.
        net: the pipeline's net.
        low: 0 where pixels go from 0 to 1, -1 where they go from -1, None where x are latents.
        channels_last: x is (N, H, W, C).
    """

    def __init__(self, source: Source, net: Denoiser, low: float | None, channels_last: bool) -> None:
        self.source, self.net, self.low, self.channels_last = source, net, low, channels_last

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: Tensor) -> dict[str, Column]:
        """Return x (B, C, H, W), and y (B,) and text (B, T, D) where the pipeline is conditioned on them."""
        given = self.source.take(rows)
        x = as_pictures(torch.as_tensor(given["x"]), self.low, self.channels_last)
        vae = self.net.frame.vae
        out: dict[str, Column] = {"x": encode(vae, x) if vae is not None and self.low is not None else x}
        if self.net.nothing is not None:
            prompts = [str(p) for p in given["text"]]
            out |= {"text": encode_text(self.net.frame.text, prompts), "y": torch.zeros(len(rows), dtype=torch.int64)}  # type: ignore[arg-type]
        elif self.net.classes:
            out["y"] = given["y"]
        return out

    @property
    def fingerprint(self) -> str:
        """A hash of the contents and of how they are read."""
        how = f"{self.source.fingerprint} {self.low} {self.channels_last} {self.net.shape}"
        return hashlib.blake2b(how.encode(), digest_size=8).hexdigest()


def as_pictures(x: Tensor, low: float | None = 0.0, channels_last: bool = False) -> Tensor:
    """Pixels as floats in [-1, 1], channels first.

    Args:
        x: (B, C, H, W), (B, H, W, C) or (B, H, W); bytes, or floats.
        low: 0 where they go from 0 to 1 (bytes: to 255), -1 or None where they are taken as they are.
        channels_last: the channels stand last.

    Returns:
        (B, C, H, W) float32.

    Example:
        >>> as_pictures(torch.tensor([[[0, 255]]], dtype=torch.uint8)).tolist()
        [[[[-1.0, 1.0]]]]
    """
    x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2) if channels_last else x
    x = x.float() if x.is_floating_point() else x.float() / 255
    return (2 * x - 1 if low == 0 else x).contiguous()


def pictures(rows: Any, net: Denoiser) -> Source:
    """Make rows into what a pipeline reads, and check them against it. Latents are made once, and kept in memory.

    Args:
        rows: what `open_data` gave.
        net: the pipeline's net.

    Returns:
        A source of columns x, and y or text.

    Raises:
        BadData: no pictures, no classes or texts where they are needed, a class out of range, values that are not
            finite.
        Mismatch: pictures of another size or number of channels.
        BadWeights: on these rows the net does not predict what its scheduler says.
    """
    source = _with_pictures(rows, net)
    first = source.take(torch.arange(min(CHUNK, len(source))))
    for name, known in (("text", net.nothing is not None), ("y", net.nothing is None and bool(net.classes))):
        if known and name not in first:
            what = "texts" if name == "text" else f"classes 0 to {net.classes - 1}"
            raise BadData(f"{net.frame.home} is conditioned on {what}: the rows need a column {name!r}")
    x = torch.as_tensor(first["x"])
    channels_last = x.ndim == 4 and x.shape[1] != _channels(net) and x.shape[3] == _channels(net)
    low = _low(source.columns["x"] if isinstance(source, Table) else x, net)  # type: ignore[arg-type]
    found = Pictures(source, net, low, channels_last)
    batch = found.take(torch.arange(min(CHUNK, len(source))))
    _check(torch.as_tensor(batch["x"]), x, net)
    if "y" in batch and net.labels:
        for block in torch.arange(len(source)).split(4096):
            net.check_classes(torch.as_tensor(source.take(block)["y"]))
    checked(net, batch)
    return in_memory(found) if net.frame.vae is not None and net.nothing is None else found


def _with_pictures(rows: Any, net: Denoiser) -> Source:
    """Rows with a column x."""
    if isinstance(rows, Records) and "image" in rows.names:
        rows = Images(rows)
    if isinstance(rows, Images):
        if rows.size is None:
            rows = Images(rows.records, _side(net))
        rows.mode = "L" if _channels(net) == 1 else "RGB"
        return _Captioned(rows) if net.nothing is not None else rows
    if isinstance(rows, Records):
        need(rows, "image")
    if "x" not in rows.take(torch.arange(1)):
        raise BadData("a pipeline of pictures reads an image folder or an .npz with an array x")
    source: Source = rows
    return source


class _Captioned:
    """Pictures with the texts that stand beside them."""

    def __init__(self, images: Images) -> None:
        need(images.records, "text")
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Tensor) -> Mapping[str, Column]:
        return {**self.images.take(rows), "text": list(self.images.records.rows[rows.tolist()]["text"])}

    @property
    def fingerprint(self) -> str:
        return self.images.fingerprint


def _channels(net: Denoiser) -> int:
    """Channels of pictures."""
    return net.shape[0] if net.frame.vae is None else int(net.frame.vae.config.in_channels)


def _side(net: Denoiser) -> int:
    """The side of pictures in pixels."""
    vae = net.frame.vae
    return net.shape[-1] if vae is None else int(net.shape[-1]) * 2 ** (len(vae.config.block_out_channels) - 1)


def _low(x: Tensor, net: Denoiser) -> float | None:
    """Where pixels begin; None for latents, which have the shape of the net's states."""
    if net.frame.vae is not None and tuple(x.shape[1:]) == net.shape:
        return None
    if x.is_floating_point() and bool((x < 0).any()):
        return -1.0
    if x.is_floating_point() and bool((x > 1).any()):
        raise BadData(f"pixels must lie in [0, 1], in [-1, 1] or be bytes; x goes up to {float(x.max()):g}")
    return 0.0


def _check(x: Tensor, given: Tensor, net: Denoiser) -> None:
    if tuple(x.shape[1:]) != net.shape:
        theirs = "x".join(str(n) for n in given.shape[1:])
        wanted = "x".join(str(n) for n in (_channels(net), _side(net), _side(net)))
        raise Mismatch(f"{net.frame.home} takes pictures of {wanted}, the rows hold {theirs}")
    bad = ~x.isfinite().flatten(1).all(1)
    if bool(bad.any()):
        what = "latents" if net.frame.vae is not None else "pictures"
        raise BadData(f"{what} hold NaN or infinity, first in row {int(bad.nonzero()[0])}")


@torch.no_grad()
def encode(vae: Any, x: Tensor) -> Tensor:
    """Latents of pictures: the mean of the encoder, centred and scaled as the pipeline has them.

    z = (mean(x) - shift) scale

    Args:
        vae: of diffusers.
        x: (B, C, H, W) in [-1, 1].

    Returns:
        (B, c, h, w).
    """
    z: Tensor = vae.encode(x.to(vae.device)).latent_dist.mean
    return (z - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor


@torch.no_grad()
def decode(net: Denoiser, x: Tensor) -> Tensor:
    """Pictures in [0, 1] of what a pipeline's sampler ends with.

    Args:
        net: the pipeline's net.
        x: (B, C, H, W) pictures in [-1, 1] or latents.

    Returns:
        (B, C, H, W) in [0, 1].
    """
    vae = net.frame.vae
    if vae is not None:
        z = x.to(vae.device) / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
        x = vae.decode(z.to(vae.dtype)).sample
    return (x / 2 + 0.5).clamp(0, 1)


def in_memory(source: Source) -> Table:
    """The rows of a source, read once: pictures that are encoded need not be encoded again in every step."""
    blocks = [source.take(b) for b in torch.arange(len(source)).split(CHUNK)]
    try:
        return Table({k: torch.cat([torch.as_tensor(b[k]) for b in blocks]) for k in blocks[0]})
    except BadData as error:
        raise BadData(f"the latents of these rows: {error}") from None
