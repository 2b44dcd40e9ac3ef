"""What a step of few-step distillation costs: ours against the same step written by hand in plain PyTorch.

Each is told in multiples of one forward without gradient: on a perceptron of 1.1 million weights (1024 rows), a UNet of
diffusers of 1.1 million (8 pictures of 32 x 32) and a transformer of 4.2 million with fused attention (the same); the
tiny net (64 points) shows what is left of a step when the nets cost nothing. By hand and by the loop the same nets take
the same kind of states: discrete consistency with a step of the teacher and a moving average, the generator and the
critic of distribution matching, and the average velocity of MeanFlow. By hand that takes its derivative as the public
code does, without gradient, and asks the net again for the loss; ours takes one pass whose derivative is held fixed, or
a difference that reuses the forward of the loss and whose step is checked once. By hand the derivative needs the plain
kernel of attention and contiguous group norms, which are put in for it. Seconds are those of the processor between two
updates, and the three are taken in turns: after each update of the loop one step by hand and one forward. Adam in all.

*At least* is what a step cannot do without, measured beside it: one forward with its gradients, and a forward more for
every other evaluation and for the derivative; the optimiser, noise and activations of the derivative come on top.
"""

from __future__ import annotations

import logging
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.nets import NETS, Asked, data_of, made, rows_like
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
from limbeck.progress import Progress
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import Role, built, copy_of, ema_of, frozen, learning

REPEATS = 5
THREADS = 1
WARM = 2
ADAM, EVEN = adam(lr=1e-4), uniform_levels()


# -- by hand ----------------------------------------------------------------------------------------------------------


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


def by_hand(name: str, step: str, data: Tensor) -> Callable[[], None]:
    """A step by hand, to be called again and again."""
    student, teacher, third = (made(name, seed) for seed in (0, 1, 0))
    if step == "average velocity, exact":
        for module in student.modules():
            if isinstance(module, nn.GroupNorm):
                module.register_forward_pre_hook(lambda _, given: (given[0].contiguous(),))
    for net in (teacher.eval(), third.eval()):
        net.requires_grad_(False)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-4, fused=True)

    def once() -> None:
        rows = data[torch.randint(len(data), (NETS[name][1][0],))]
        loss = WORKS[step][0]([student, teacher, third], rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == "consistency":
            with torch.no_grad():
                torch._foreach_lerp_(list(third.parameters()), list(student.parameters()), 0.05)
        loss.item()

    return once


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


def by_loop(
    name: str, step: str, data: Tensor, steps: int, compiled: bool = False, progress: Progress | None = None
) -> None:
    """Steps by the loop."""
    _, players, work = WORKS[step]
    facts = dict(title="", paper="", family="", kind="", learns="", teacher="")
    stages = (Learn("fit", (work,), steps=steps, batch_size=NETS[name][1][0]),)
    nets = {who: made(name, seed) for who, seed in (("student", 0), ("teacher", 1)) if who in players}
    for net in nets.values() if compiled else ():
        net.compile()
    recipe, given = Recipe(key="step", players=players, stages=stages, **facts), {k: Asked(n) for k, n in nets.items()}
    Loop(recipe, given, {"train": Table({"x": data})}, progress=progress or Progress()).execute()


MORE = {"consistency": 2, "generator": 2, "critic": 1, "average velocity, exact": 1, "average velocity, difference": 1}


# -- in turns ---------------------------------------------------------------------------------------------------------


def clocked(work: Callable[[], object]) -> float:
    """Seconds of the processor."""
    start = time.process_time()
    work()
    return time.process_time() - start


def in_turns(loop: Callable[[], None], others: list[Callable[[], object]]) -> list[list[float]]:
    """Seconds of the processor of each update of the loop, and of the other works, which are done after it."""
    found: list[list[float]] = []
    since, busy = time.process_time(), False

    def after(*_: object) -> None:
        nonlocal since, busy
        if not busy:
            took, busy = time.process_time() - since, True
            with torch.enable_grad():
                found.append([took, *map(clocked, others)])
            since, busy = time.process_time(), False

    hook = register_optimizer_step_post_hook(after)
    loop()
    hook.remove()
    return found[WARM:]


def evaluations(name: str, data: Tensor) -> list[Callable[[], object]]:
    """A forward without gradient, and one with its gradients, to be called again and again."""
    net, rows = made(name, 0).eval(), data[: NETS[name][1][0]]
    t = torch.rand(len(rows))

    def forward() -> Tensor:
        return net(rows, t, 0 * t)  # type: ignore[no-any-return]

    def both() -> None:
        net.zero_grad()
        forward().sum().backward()

    return [torch.no_grad()(forward), both]


def table() -> list[str]:
    """The rows of the table: net and step, milliseconds and forwards of each, overhead and ratio."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    heading = ["net", "step", "at least", "by hand", "by the loop", "overhead", "ratio"]
    out = [f"| {' | '.join(heading)} |", "|---" * len(heading) + "|"]
    for name in NETS:
        data, repeats = data_of(name), REPEATS * (10 if name == "tiny" else 1)
        for step in WORKS:
            others = [by_hand(name, step, data), *evaluations(name, data)]
            runs = in_turns(partial(by_loop, name, step, data, repeats + WARM), others)
            out.append(f"| {' | '.join(cells(name, step, runs))} |")
    return out


def cells(name: str, step: str, runs: list[list[float]]) -> list[str]:
    """One row: medians, each in milliseconds and in forwards of the same repeat; overhead and ratio of neighbours."""
    shown = [
        f"{1e3 * statistics.median(r[i] for r in runs):.3g} ms, {statistics.median(r[i] / r[2] for r in runs):.2f} x"
        for i in (1, 0)
    ]
    more = 1e3 * statistics.median(r[0] - r[1] for r in runs)
    least = statistics.median(r[3] / r[2] + MORE[step] for r in runs)
    return [
        name,
        step,
        f"{least:.2f} x",
        *shown,
        f"{more:.2f} ms",
        f"{statistics.median(r[0] / r[1] for r in runs):.3f}",
    ]
