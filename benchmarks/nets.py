"""Nets of few-step distillation as the benchmarks have them: u(x, t, s) of points and of pictures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def rows_like(t: Tensor, x: Tensor) -> Tensor:
    return t.view(-1, *[1] * (x.ndim - 1))


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Linear(16, 2))

    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.net(torch.cat((x, t[:, None], s[:, None]), 1))


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        sizes = [66, 512, 512, 512, 512, 512, 64]
        layers = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.SiLU())]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.net(torch.cat((x, t[:, None], s[:, None]), 1))


class Unet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.net = UNet2DModel(
            sample_size=32, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(32, 64, 64),
            norm_num_groups=8, down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.net(x, 500 * (t + s)).sample


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.level, self.qkv = nn.Linear(width, 6 * width), nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        a, b, g, d, e, k = self.level(F.silu(c))[:, None].chunk(6, 2)
        normed = F.layer_norm(h, (self.width,)) * (1 + a) + b
        q, key, v = (p.unflatten(2, (self.heads, -1)).transpose(1, 2) for p in self.qkv(normed).chunk(3, 2))
        h = h + g * self.out(F.scaled_dot_product_attention(q, key, v).transpose(1, 2).flatten(2))
        return h + k * self.mlp(F.layer_norm(h, (self.width,)) * (1 + d) + e)


class Transformer(nn.Module):
    def __init__(self, width: int = 240, depth: int = 4, patch: int = 4) -> None:
        super().__init__()
        self.cut, self.embed = nn.PixelUnshuffle(patch), nn.Linear(3 * patch**2, width)
        self.place = nn.Parameter(0.02 * torch.randn(1, (32 // patch) ** 2, width))
        self.level = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width, 6) for _ in range(depth))
        self.read, self.join = nn.Linear(width, 3 * patch**2), nn.PixelShuffle(patch)

    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        h, c = self.embed(self.cut(x).flatten(2).mT) + self.place, self.level(torch.stack((t, s), 1))
        for block in self.blocks:
            h = block(h, c)
        return self.join(self.read(h).mT.unflatten(2, (8, 8)))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "tiny": (Tiny, (64, 2)), "perceptron": (Perceptron, (1024, 64)), "UNet": (Unet, (8, 3, 32, 32)),
    "transformer": (Transformer, (8, 3, 32, 32)),
}  # fmt: skip


class Asked(nn.Module):
    """A net that answers as parts ask."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: Mapping[str, Tensor], want: frozenset[str]) -> dict[str, Tensor]:
        v = self.net(batch["x"], batch["t"], batch.get("s", torch.zeros_like(batch["t"])))  # type: ignore[call-overload]
        return {"velocity": v, "x0": batch["x"] - rows_like(batch["t"], v) * v}


def made(name: str, seed: int) -> nn.Module:
    """A net by name, with its weights from a seed."""
    torch.manual_seed(seed)
    return NETS[name][0]()


def data_of(name: str) -> Tensor:
    """Rows of the shape that a net takes, four batches of them."""
    rows, *shape = NETS[name][1]
    return torch.randn(4 * rows, *shape, generator=torch.Generator().manual_seed(0))
