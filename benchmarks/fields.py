"""What a step of few-step distillation costs: ours against the same step written by hand in plain PyTorch.

Each is told in multiples of one forward without gradient, on a perceptron of 1.1 million weights (1024 rows), a UNet of
diffusers of 1.1 million (8 pictures of 32 x 32) and a transformer of 4.2 million with fused attention (the same). By
hand and by the loop the same nets take the same kind of states: discrete consistency with a step of the teacher and a
moving average, the generator and the critic of distribution matching, and the average velocity of MeanFlow. By hand
that takes its derivative as the public code does, without gradient, and asks the net again for the loss; ours takes one
pass with gradient, or a difference that reuses the forward of the loss and whose step is checked once. By hand the
derivative needs the plain kernel of attention and contiguous group norms, which are put in for it. Seconds are those of
the processor between two updates; the first, which sets up, is left out. Adam steps in all.
"""

from __future__ import annotations

import itertools
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.optimizer import register_optimizer_step_post_hook

from limbeck.data import Table
from limbeck.loop import Loop
from limbeck.part import Expr
from limbeck.parts.consistency import consistency
from limbeck.parts.distance import squared
from limbeck.parts.distribution import distribution_matching, fake_denoising
from limbeck.parts.flowmap import triangle_states
from limbeck.parts.mean_velocity import difference_step, mean_velocity, mean_velocity_by_difference
from limbeck.parts.neighbours import grid_step, teacher_step
from limbeck.parts.optimizer import adam
from limbeck.parts.solver import even
from limbeck.parts.states import noise_states, uniform_levels
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import Role, built, copy_of, ema_of, frozen, learning

REPEATS = 5
THREADS = 1
STEPS = 3
ADAM, EVEN = adam(lr=1e-4), uniform_levels()


# -- nets -------------------------------------------------------------------------------------------------------------


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
    "perceptron": (Perceptron, (1024, 64)), "UNet": (Unet, (8, 3, 32, 32)),
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
    torch.manual_seed(seed)
    return NETS[name][0]()


# -- by hand ----------------------------------------------------------------------------------------------------------


def rows_like(t: Tensor, x: Tensor) -> Tensor:
    return t.view(-1, *[1] * (x.ndim - 1))


def hand_consistency(nets: list[nn.Module], x0: Tensor) -> Tensor:
    student, teacher, target = nets
    times = torch.linspace(1, 0, 19)
    k, e = torch.randint(18, (len(x0),)), torch.randn_like(x0)
    t, r = times[k], times[k + 1]
    with torch.no_grad():
        x = (1 - rows_like(t, x0)) * x0 + rows_like(t, x0) * e
        near = x + rows_like(r - t, x) * teacher(x, t, 0 * t)
        end = near - rows_like(r, x) * target(near, r, 0 * r)
    return (x - rows_like(t, x) * student(x, t, 0 * t) - end).square().flatten(1).sum(1).mean()


def believed(net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    return x - rows_like(t, x) * net(x, t, 0 * t)


def hand_generator(nets: list[nn.Module], x0: Tensor) -> Tensor:
    student, teacher, critic = nets
    z, one = torch.randn_like(x0), torch.ones(len(x0))
    x = believed(student, z, one)
    with torch.no_grad():
        t = 0.02 + 0.96 * torch.rand(len(x0))
        seen = (1 - rows_like(t, x)) * x + rows_like(t, x) * torch.randn_like(x)
        real, fake = believed(teacher, seen, t), believed(critic, seen, t)
        g = (fake - real) / rows_like((x - real).abs().flatten(1).mean(1), x)
    return 0.5 * (x - (x - g).detach()).square().flatten(1).mean(1).mean()


def hand_critic(nets: list[nn.Module], x0: Tensor) -> Tensor:
    critic, student = nets[0], nets[2]
    with torch.no_grad():
        x = believed(student, torch.randn_like(x0), torch.ones(len(x0)))
        t = 0.02 + 0.96 * torch.rand(len(x0))
        seen = (1 - rows_like(t, x)) * x + rows_like(t, x) * torch.randn_like(x)
    weight = ((1 - t) / t).square() + 4.0
    return (weight * (believed(critic, seen, t) - x).square().flatten(1).mean(1)).mean()


def triangle(x0: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States, levels and slopes, a quarter of the rows with s below t."""
    ends, e, on = torch.rand(2, len(x0)), torch.randn_like(x0), torch.rand(len(x0)) < 0.75
    t, s = torch.where(on, ends[0], ends.amax(0)), torch.where(on, ends[0], ends.amin(0))
    return (1 - rows_like(t, x0)) * x0 + rows_like(t, x0) * e, t, s, e - x0


def hand_derivative(nets: list[nn.Module], x0: Tensor) -> Tensor:
    student = nets[0]
    x, t, s, v = triangle(x0)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        _, du = torch.func.jvp(lambda x, t: student(x, t, s), (x, t), (v, torch.ones_like(t)))
    return (student(x, t, s) - (v - rows_like(t - s, x) * du)).square().flatten(1).sum(1).mean()


def hand_difference(nets: list[nn.Module], x0: Tensor, h: float = 1e-4) -> Tensor:
    student = nets[0]
    x, t, s, v = triangle(x0)
    u = student(x, t, s)
    with torch.no_grad():
        du = (student(x + h * v, t + h, s) - u) / h
    return (u - (v - rows_like(t - s, x) * du)).square().flatten(1).sum(1).mean()


def by_hand(name: str, step: str, data: Tensor) -> None:
    student, teacher, third = (made(name, seed) for seed in (0, 1, 0))
    if step == "average velocity, exact":
        for module in student.modules():
            if isinstance(module, nn.GroupNorm):
                module.register_forward_pre_hook(lambda _, given: (given[0].contiguous(),))
    for net in (teacher.eval(), third.eval()):
        net.requires_grad_(False)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-4, fused=True)
    for _ in range(STEPS + 1):
        rows = data[torch.randint(len(data), (NETS[name][1][0],))]
        loss = WORKS[step][0]([student, teacher, third], rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == "consistency":
            with torch.no_grad():
                torch._foreach_lerp_(list(third.parameters()), list(student.parameters()), 0.05)
        loss.item()


# -- by the loop ------------------------------------------------------------------------------------------------------


def phase(loss: Expr, states: Expr, learns: str = "student") -> Phase:
    return Phase(learns, (learns,), loss, states)


BASE: dict[str, Role] = {"student": learning(ADAM), "teacher": frozen()}
STEP = {"step": built(difference_step())}
WORKS: dict[str, tuple[Callable[[list[nn.Module], Tensor], Tensor], dict[str, Role], Phase]] = {
    "consistency": (
        hand_consistency, BASE | {"target": ema_of("student", decay=0.95)},
        phase(consistency(distance=squared()), grid_step(times=even(18)) >> teacher_step()),
    ),
    "generator": (
        hand_generator, BASE | {"critic": copy_of("student")}, phase(distribution_matching(levels=EVEN), noise_states())
    ),
    "critic": (
        hand_critic, {"student": learning(ADAM), "critic": copy_of("student", ADAM)},
        phase(fake_denoising(levels=EVEN), noise_states(), "critic"),
    ),
    "average velocity, exact": (
        hand_derivative, {"student": learning(ADAM)}, phase(mean_velocity(), triangle_states())
    ),
    "average velocity, difference": (
        hand_difference, {"student": learning(ADAM)} | STEP, phase(mean_velocity_by_difference(), triangle_states())
    ),
}  # fmt: skip


def by_loop(name: str, step: str, data: Tensor) -> None:
    _, players, work = WORKS[step]
    facts = dict(title="", paper="", family="", kind="", learns="", teacher="")
    stages = (Learn("fit", (work,), steps=STEPS + 1, batch_size=NETS[name][1][0]),)
    nets = {who: Asked(made(name, seed)) for who, seed in (("student", 0), ("teacher", 1)) if who in players}
    Loop(Recipe(key="step", players=players, stages=stages, **facts), nets, {"train": Table({"x": data})}).execute()


def forwards(name: str, data: Tensor) -> float:
    """Seconds of the processor of a forward without gradient."""
    net, rows = made(name, 0).eval(), data[: NETS[name][1][0]]
    t, found = torch.rand(len(rows)), []
    with torch.no_grad():
        for _ in range(STEPS + 1):
            start = time.process_time()
            net(rows, t, 0 * t)
            found.append(time.process_time() - start)
    return statistics.median(found[1:])


def seconds(work: Callable[[], None]) -> float:
    """Seconds of the processor between two updates."""
    ticks: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: ticks.append(time.process_time()))
    work()
    hook.remove()
    return statistics.median(b - a for a, b in itertools.pairwise(ticks))


def table() -> list[str]:
    """The rows of the table: net and step, milliseconds and forwards of each, and their ratio."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    out = ["| net | step | by hand | by the loop | ratio |", "|---|---|---|---|---|"]
    for name, (_, shape) in NETS.items():
        data = torch.randn(4 * shape[0], *shape[1:], generator=torch.Generator().manual_seed(0))
        for step in WORKS:
            works = [partial(by_hand, name, step, data), partial(by_loop, name, step, data)]
            runs = [(forwards(name, data), *map(seconds, works)) for _ in range(REPEATS)]
            out.append(f"| {' | '.join(cells(name, step, runs))} |")
    return out


def cells(name: str, step: str, runs: list[Any]) -> list[str]:
    """One row: medians, each in milliseconds and in forwards of the same repeat, and the median ratio."""
    shown = [
        f"{1e3 * statistics.median(r[i] for r in runs):.0f} ms, {statistics.median(r[i] / r[0] for r in runs):.2f} x"
        for i in (1, 2)
    ]
    return [name, step, *shown, f"{statistics.median(r[2] / r[1] for r in runs):.3f}"]
