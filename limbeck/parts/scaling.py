"""Scaling laws of distillation: the loss to expect of a student, given its size, its tokens and its teacher's loss.

Losses are cross-entropies in nats a token. Fits work on logarithms, where the laws are sums of exponentials and never
overflow; the heights of the power laws are parameters at the middle of the data, not at one weight and one token, so
that they do not trade against the exponents.

Shapes: C cells (runs), P coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import BadData, BadValue
from limbeck.part import part
from limbeck.players import Players

__all__ = [
    "Cells",
    "Distilled",
    "Laws",
    "Supervised",
    "allocate",
    "bootstrap",
    "cells_of",
    "fit_distilled",
    "fit_supervised",
    "huber",
    "laws",
    "step_distilled",
    "step_supervised",
]

Array = np.ndarray[Any, Any]

DELTA = 1e-4  # of the Huber loss
SMOOTH = 1e-2  # of a first pass, which finds the valley
# logarithms of heights, exponents and the other coefficients: beyond, a law overflows where it was not fitted
HEIGHT, EXPONENT, OTHER = (-20.0, 20.0), (-6.0, 1.1), (-8.0, 8.0)
POWER = (HEIGHT, HEIGHT, EXPONENT, EXPONENT, EXPONENT)


@dataclass(frozen=True, eq=False)
class Cells:
    """Runs, one entry each.

    Args:
        n: (C,) weights of the student, without embeddings.
        d: (C,) tokens that it saw.
        loss: (C,) its cross-entropy.
        teacher: (C,) its teacher's cross-entropy; None for supervised runs.
    """

    n: Tensor
    d: Tensor
    loss: Tensor
    teacher: Tensor | None = None

    def at(self, rows: Tensor) -> Cells:
        """Some of the runs."""
        teacher = None if self.teacher is None else self.teacher[rows]
        return Cells(self.n[rows], self.d[rows], self.loss[rows], teacher)


@dataclass(frozen=True)
class Supervised:
    """What a model reaches without a teacher.

    L(N, D) = E + (A / N^alpha + B / D^beta)^gamma

    Example:
        >>> law = Supervised(1.0, 10.0, 10.0, 1.0, 1.0, 1.0)
        >>> law(torch.tensor([10.0]), torch.tensor([10.0]))
        tensor([3.])

    Source: Busbridge et al., arXiv:2502.08606.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    gamma: float

    def __call__(self, n: Tensor, d: Tensor) -> Tensor:
        """The cross-entropy of N weights after D tokens."""
        return self.E + (self.A / n**self.alpha + self.B / d**self.beta) ** self.gamma


@dataclass(frozen=True)
class Distilled:
    """What a student reaches under a teacher, which enters by its loss alone.

    L_S = L_T + L_T^-c0 (1 + (L_T / (d1 L))^(1/f1))^(-c1 f1) (A / N^alpha + B / D^beta)^gamma, where L is what the
    student would reach without a teacher

    Source: Busbridge et al., arXiv:2502.08606.
    """

    A: float
    B: float
    alpha: float
    beta: float
    gamma: float
    c0: float
    c1: float
    f1: float
    d1: float

    def __call__(self, n: Tensor, d: Tensor, teacher: Tensor, alone: Tensor) -> Tensor:
        """The cross-entropy of N weights after D tokens of a teacher of a loss; `alone` is L, without a teacher."""
        ratio = (teacher / (self.d1 * alone)).log() / self.f1
        gap = torch.logaddexp(ratio, torch.zeros_like(ratio))  # log (1 + ratio^(1 / f1))
        power = (self.A / n**self.alpha + self.B / d**self.beta) ** self.gamma
        return teacher + (-self.c0 * teacher.log() - self.c1 * self.f1 * gap).exp() * power


def huber(residual: Tensor, delta: float = DELTA) -> Tensor:
    """Huber's loss over delta, so that its tails are |r| whatever delta.

    r^2 / (2 delta) for |r| <= delta, |r| - delta / 2 beyond

    Example:
        >>> huber(torch.tensor([0.5, -3.0]), delta=1.0)
        tensor([0.1250, 2.5000])

    Source: Huber, "Robust Estimation of a Location Parameter", 1964.
    """
    return nn.functional.huber_loss(residual, torch.zeros_like(residual), reduction="none", delta=delta) / delta


def _power(theta: Array, n: Array, d: Array) -> tuple[Array, Array]:
    """log (A / N^alpha + B / D^beta)^gamma (C,) and its slopes (5, C); n, d are centred logarithms.

    Args:
        theta: the heights a, b at the middle of the data, then log alpha, log beta, log gamma.
        n: (C,).
        d: (C,).
    """
    alpha, beta, gamma = np.exp(theta[2:5])
    u, v = theta[0] - alpha * n, theta[1] - beta * d
    both = np.logaddexp(u, v)
    in_u, in_v = gamma * np.exp(u - both), gamma * np.exp(v - both)
    return gamma * both, np.stack((in_u, in_v, -in_u * alpha * n, -in_v * beta * d, gamma * both))


def _supervised(theta: Array, n: Array, d: Array) -> tuple[Array, Array]:
    """log L of the law without a teacher and its slopes (6, C); theta is log E, then that of `_power`."""
    power, slopes = _power(theta[1:], n, d)
    found = np.logaddexp(theta[0], power)
    return found, np.concatenate((np.exp(theta[0] - found)[None], np.exp(power - found) * slopes))


def _distilled(theta: Array, n: Array, d: Array, log_t: Array, log_s: Array) -> tuple[Array, Array]:
    """log L_S of the law of distillation and its slopes (9, C); theta is that of `_power`, then log c0, c1, f1, d1."""
    power, slopes = _power(theta[:5], n, d)
    c0, c1, f1 = np.exp(theta[5:8])
    x = (log_t - theta[8] - log_s) / f1
    gap, over = c1 * f1 * np.logaddexp(x, 0), c1 * f1 * expit(x)
    above = power - c0 * log_t - gap
    found = np.logaddexp(log_t, above)
    slopes = np.concatenate((slopes, np.stack((-c0 * log_t, -gap, over * x - gap, over / f1))))
    return found, np.exp(above - found) * slopes


def _descend(
    log_law: Callable[[Array], tuple[Array, Array]], log_loss: Array, starts: Sequence[Sequence[float]],
    bounds: Sequence[tuple[float, float]],
) -> Any:  # fmt: skip
    """The coefficients that fit best: from every start with a smooth loss, from the best three with the sharp one."""

    def sink(start: Any, delta: float, steps: int) -> Any:
        def objective(theta: Array) -> tuple[float, Array]:
            found, slopes = log_law(theta)
            r = found - log_loss
            return float(huber(torch.from_numpy(r), delta).sum()), slopes @ np.clip(r / delta, -1, 1)

        return minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps})

    with threadpool_limits(1, "blas"):  # its matrices are tiny: more threads only wait for each other
        rough = sorted((sink(s, SMOOTH, 100) for s in starts), key=lambda found: float(found.fun))[:3]
        return min((sink(found.x, DELTA, 400) for found in rough), key=lambda found: float(found.fun)).x


def _centred(cells: Cells) -> tuple[Array, Array, float, float]:
    n, d = (column.double().log().numpy() for column in (cells.n, cells.d))
    return n - n.mean(), d - d.mean(), float(n.mean()), float(d.mean())


def _uncentred(theta: Sequence[float], n: float, d: float) -> tuple[float, ...]:
    """A, B, alpha, beta, gamma of a centred power law."""
    alpha, beta, gamma = (math.exp(v) for v in theta[2:5])
    return math.exp(theta[0] + alpha * n), math.exp(theta[1] + beta * d), alpha, beta, gamma


def fit_supervised(cells: Cells, start: Sequence[float] | None = None) -> tuple[Supervised, list[float]]:
    """Fit the law without a teacher: the least Huber loss of log L over many starts, by L-BFGS.

    Args:
        cells: at least four runs.
        start: one start, such as what an earlier fit ended with, instead of the grid.

    Returns:
        The law; and where the descent ended, from which others may start.

    Raises:
        BadData: fewer than four runs, or a loss that is not positive.

    Source: Hoffmann et al., arXiv:2203.15556, appendix D.3 (loss, starts and descent).
    """
    _check(cells)
    n, d, at_n, at_d = _centred(cells)
    low, spread = float(cells.loss.min()), float(cells.loss.max() - cells.loss.min()) + 1e-6
    height = math.log(spread / 2)
    grid = [
        [math.log(low) - e, height, height, alpha, beta, g]
        for e in (0.02, 0.2) for alpha in (-1.5, 0.0) for beta in (-1.5, 0.0) for g in (-0.7, 0.0)
    ]  # fmt: skip
    starts = grid if start is None else [start]
    log_loss = cells.loss.double().log().numpy()
    found = _descend(lambda theta: _supervised(theta, n, d), log_loss, starts, (HEIGHT, *POWER))
    return Supervised(math.exp(found[0]), *_uncentred(found[1:], at_n, at_d)), found.tolist()


def fit_distilled(
    cells: Cells, alone: Supervised, start: Sequence[float] | None = None
) -> tuple[Distilled, list[float]]:
    """Fit the law of distillation, given the law without a teacher.

    Args:
        cells: at least four runs, with their teachers' losses.
        alone: the law of the same students without a teacher.
        start: one start, such as what an earlier fit ended with, instead of the grid.

    Returns:
        The law; and where the descent ended.

    Raises:
        BadData: fewer than four runs, no losses of teachers, or a loss that is not positive.

    Source: Busbridge et al., arXiv:2502.08606.
    """
    _check(cells)
    if cells.teacher is None:
        raise BadData("the law of distillation needs the teacher's loss of every run")
    n, d, at_n, at_d = _centred(cells)
    log_t = cells.teacher.double().log().numpy()
    log_s = alone(cells.n.double(), cells.d.double()).log().numpy()
    height = math.log(float((cells.loss - cells.teacher).abs().mean()) + 1e-6)
    grid = [
        [height, height, alpha, alpha, g, -1.0, c1, -1.0, 0.0]
        for alpha in (-1.5, -0.5) for g in (-0.7, 0.0) for c1 in (-2.0, 1.0)
    ]  # fmt: skip
    starts = grid if start is None else [start]
    log_loss = cells.loss.double().log().numpy()
    found = _descend(lambda theta: _distilled(theta, n, d, log_t, log_s), log_loss, starts, (*POWER, *[OTHER] * 4))
    return Distilled(*_uncentred(found, at_n, at_d), *(math.exp(v) for v in found[5:])), found.tolist()


def _check(cells: Cells) -> None:
    if len(cells.loss) < 4:
        raise BadData(f"a scaling law needs at least 4 runs, got {len(cells.loss)}")
    if not bool((cells.loss > 0).all()):
        raise BadData("a scaling law is fitted to logarithms of losses, but a loss is not above 0")


def bootstrap(
    fit: Callable[[Cells], Supervised | Distilled], cells: Cells, *, times: int = 100, seed: int = 0
) -> Tensor:
    """How far coefficients may be trusted: fits to runs drawn with replacement.

    Args:
        fit: a fit, started where the whole data ended: `lambda c: fit_supervised(c, start)[0]`.
        cells: the runs.
        times: how often.
        seed: of the draws.

    Returns:
        (times, P) float64; quantiles over the first axis are intervals.

    Source: Efron, "Bootstrap methods: another look at the jackknife", 1979.
    """
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(cells.loss), (times, len(cells.loss)), generator=draw)
    return torch.tensor([astuple(fit(cells.at(r))) for r in rows], dtype=torch.float64)


def allocate(
    alone: Supervised, law: Distilled, *, weights: float, budget: float, answers: bool, training: bool,
    sizes: tuple[float, float] = (1e6, 1e12), texts: tuple[float, float] = (1e8, 1e14),
) -> dict[str, float]:  # fmt: skip
    """Spend a budget of compute so that one student becomes as good as it can.

    min L_S over N_T, D_T, D_S with 3 F(N_S) D_S + F(N_T) ([answers] D_S + [training] 3 D_T) = budget, F(N) = 2 N;
    L_T is the law without a teacher at N_T, D_T

    Args:
        alone: the law without a teacher.
        law: the law of distillation.
        weights: N_S.
        budget: in operations.
        answers: whether the teacher's answers are paid for.
        training: whether the teacher's training is paid for.
        sizes: the least and the most N_T.
        texts: the least and the most D_T.

    Returns:
        `teacher` N_T, `teacher_tokens` D_T, `tokens` D_S, `teacher_loss` and `loss`.

    Raises:
        BadValue: the budget does not pay for the smallest teacher.

    Source: Busbridge et al., arXiv:2502.08606.
    """

    def spent(x: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        n_t, d_t = torch.as_tensor(np.asarray(x), dtype=torch.float64).exp()
        d_s = (budget - training * 6 * n_t * d_t) / (6 * weights + answers * 2 * n_t)
        paid = d_s.clamp(min=1.0)
        n_s, l_t = torch.full_like(paid, weights), alone(n_t, d_t)
        return d_s, l_t, law(n_s, paid, l_t, alone(n_s, paid)), n_t

    def loss(x: Any) -> Any:
        d_s, _, found, _ = spent(x)
        return torch.where(d_s >= 1, found, torch.inf).numpy()

    bounds = [(math.log(low), math.log(high)) for low, high in (sizes, texts)]
    grid = np.stack(np.meshgrid(*[np.linspace(low, high, 64) for low, high in bounds], indexing="ij"))
    values = loss(grid)
    if not np.isfinite(values).any():
        raise BadValue(f"a budget of {budget:g} does not pay for a teacher of {sizes[0]:g} weights")
    rough = grid[:, *np.unravel_index(values.argmin(), values.shape)]
    x = minimize(loss, rough, method="Nelder-Mead", bounds=bounds, options={"xatol": 1e-6, "fatol": 1e-12}).x
    d_s, l_t, best, n_t = (float(v) for v in spent(x))
    return {"teacher": n_t, "teacher_tokens": math.exp(x[1]), "tokens": d_s, "teacher_loss": l_t, "loss": best}


class Laws(nn.Module):
    """A state player that holds fitted laws; zeros until they are fitted.

    Attributes:
        alone: (6,) the coefficients of `Supervised`.
        under: (9,) those of `Distilled`.
        blind: (6,) those of `Supervised`, fitted to distilled students as if their teachers did not matter.
    """

    alone: Tensor
    under: Tensor
    blind: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, size in (("alone", 6), ("under", 9), ("blind", 6)):
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))


@part
def laws(players: Players, batch: Batch) -> nn.Module:
    """A state player that holds fitted laws.

    Args:
        players: not asked.
        batch: not read.
    """
    return Laws()


def cells_of(table: Mapping[str, Any], held: int = 0, *, kept: bool = True) -> Cells:
    """The runs of a table of a sweep.

    Args:
        table: columns n, d, loss and perhaps teacher, (C,).
        held: every so many runs one is held out; 0 for none.
        kept: the others, or those held out.
    """
    place = torch.arange(len(table["loss"]))
    out = place % held == held - 1 if held else place < 0
    teacher = table["teacher"].cpu() if "teacher" in table else None
    n, d, loss = (table[name].cpu() for name in ("n", "d", "loss"))
    return Cells(n, d, loss, teacher).at(~out if kept else out)


@part
def step_supervised(
    players: Players, batch: Batch, state: Mapping[str, Any]
) -> tuple[Mapping[str, Any], dict[str, float]]:
    """Fit the law without a teacher to a table of runs, and keep it in the player `laws`.

    min sum_i Huber(log L(N_i, D_i) - log L_i)

    Args:
        players: `laws`.
        batch: columns n, d, loss (C,).
        state: not used.

    Returns:
        The state as it was, and the coefficients.

    Raises:
        BadData: fewer than four runs, or a loss that is not positive.
    """
    law, _ = fit_supervised(cells_of(batch))
    players.laws.alone.copy_(torch.tensor(astuple(law)))
    return state, vars(law)


@part
def step_distilled(
    players: Players, batch: Batch, state: Mapping[str, Any], *, held: int = 4
) -> tuple[Mapping[str, Any], dict[str, float]]:
    """Fit the law of distillation to a table of runs, and keep it in the player `laws`.

    min sum_i Huber(log L_S(N_i, D_i, L_Ti) - log L_i), over the runs that are not held out

    Args:
        players: `laws`, in which the law without a teacher stands already.
        batch: columns n, d, loss and teacher (C,).
        state: not used.
        held: every so many runs one is held out; 0 for none.

    Returns:
        The state as it was, and the coefficients.

    Raises:
        BadData: fewer than four runs, no losses of teachers, or a loss that is not positive.
    """
    cells = cells_of(batch, held)
    law, _ = fit_distilled(cells, Supervised(*players.laws.alone.tolist()))
    blind, _ = fit_supervised(cells)
    players.laws.under.copy_(torch.tensor(astuple(law)))
    players.laws.blind.copy_(torch.tensor(astuple(blind)))
    return state, vars(law)
