"""Gaussian paths and the heads that nets predict on them: every convention of the field, and the exact way between.

A path noises data, x_t = a(t) x0 + s(t) e. All parts of this library speak of one path, rectified flow (a = 1 - t,
s = t; 0 is data, 1 is noise); a net of another path is asked at the same ratio of noise to signal r = s / a, on the
same point in its own scale:

    t_RF = s / (a + s) = r / (1 + r),    x_RF = x / (a + s)

A head is the combination p x0 + q e that a net predicts. Given the state x = a x0 + s e, any head gives data and noise:

    x0 = (q x - s h) / (a q - s p),    e = (a h - p x) / (a q - s p)

Shapes: B rows; a datum has any shape; times and levels (B,).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.errors import BadValue
from limbeck.parts.jvp import jvp
from limbeck.parts.states import like

__all__ = [
    "EDM",
    "RF",
    "TRIG",
    "VP_COSINE",
    "Head",
    "Path",
    "data_head",
    "edm_head",
    "eps_head",
    "expectations",
    "from_rectified",
    "score_head",
    "to_rectified",
    "v_head",
    "velocity_head",
    "vp_table",
]

Curve = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Path:
    """One Gaussian path.

    Args:
        alpha: a(t), how much of the datum is left.
        sigma: s(t), how much noise there is.
        time: the time at which s / a is a given ratio, the inverse of both.

    Example:
        >>> [round(float(f(torch.tensor(0.25))), 4) for f in (RF.alpha, RF.sigma, RF.time)]
        [0.75, 0.25, 0.2]
    """

    alpha: Curve
    sigma: Curve
    time: Curve

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The derivatives a'(t) and s'(t), (B,) each.

        Example:
            >>> RF.slopes(torch.tensor([0.3]))
            (tensor([-1.]), tensor([1.]))
        """
        ones = torch.ones_like(t)  # forward mode nests: a derivative along t passes through to the second one
        return jvp(self.alpha, (t,), (ones,))[1], jvp(self.sigma, (t,), (ones,))[1]


RF = Path(lambda t: 1 - t, lambda t: 1 * t, lambda r: r / (1 + r))
VP_COSINE = Path(
    lambda t: torch.cos(math.pi / 2 * t), lambda t: torch.sin(math.pi / 2 * t), lambda r: torch.atan(r) * (2 / math.pi)
)
EDM = Path(lambda t: torch.ones_like(t) + 0 * t, lambda t: 1 * t, lambda r: r)
TRIG = Path(torch.cos, torch.sin, torch.atan)


def vp_table(alphas_cumprod: Tensor) -> Path:
    """The variance-preserving path of a table of N steps, as schedulers of DDPM keep it; time is the index, 0 to N - 1.

    a_n = sqrt(alphas_cumprod[n]), s_n = sqrt(1 - alphas_cumprod[n]); between indices log(s / a) is linear

    Args:
        alphas_cumprod: (N,) falling, inside (0, 1).

    Returns:
        The path; ratios outside the table get its first or last time.

    Raises:
        BadValue: a table that does not fall or leaves (0, 1); a last entry of 0 (no signal at all) is refused too, for
            a head of noise says nothing there.

    Example:
        >>> path = vp_table(torch.tensor([0.9, 0.5, 0.1]))
        >>> path.time(torch.tensor([1.0])), path.alpha(torch.tensor([2.0]))
        (tensor([1.]), tensor([0.3162]))

    Source: Ho et al., arXiv:2006.11239, the closed form of the forward process.
    """
    table = alphas_cumprod.detach().double()
    if table.ndim != 1 or len(table) < 2 or not ((table > 0) & (table < 1)).all() or not (table.diff() < 0).all():
        raise BadValue("a table of alphas_cumprod must fall strictly and lie inside (0, 1)")
    log_ratio = 0.5 * ((1 - table).log() - table.log())  # rises with the index

    def log_r(t: Tensor) -> Tensor:
        knots = log_ratio.to(t.device)
        n = t.detach().floor().long().clamp(0, len(knots) - 2)
        return knots[n] + (t.double() - n) * (knots[n + 1] - knots[n])

    def time(r: Tensor) -> Tensor:
        knots, wanted = log_ratio.to(r.device), r.double().log()
        n = (torch.searchsorted(knots, wanted.contiguous()) - 1).clamp(0, len(knots) - 2)
        t = n + (wanted - knots[n]) / (knots[n + 1] - knots[n])
        return t.clamp(0, len(knots) - 1).to(r.dtype)

    return Path(
        lambda t: torch.sigmoid(-2 * log_r(t)).sqrt().to(t.dtype),
        lambda t: torch.sigmoid(2 * log_r(t)).sqrt().to(t.dtype),
        time,
    )


def to_rectified(path: Path, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Carry a point of a path to the rectified-flow path.

    x / (a + s),  s / (a + s)

    Args:
        path: the path that x and t belong to.
        x: (B, ...).
        t: (B,).

    Returns:
        The same point on the rectified-flow path, and its level.

    Example:
        >>> to_rectified(EDM, torch.tensor([[2.0]]), torch.tensor([1.0]))
        (tensor([[1.]]), tensor([0.5000]))
    """
    a, s = path.alpha(t), path.sigma(t)
    return x / like(a + s, x), s / (a + s)


def from_rectified(path: Path, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Carry a point of the rectified-flow path to another path; the inverse of `to_rectified`.

    Args:
        path: where to.
        x: (B, ...) on the rectified-flow path.
        t: (B,) its level, inside (0, 1) for a path that has no such end.

    Returns:
        The same point on the path, and its time.

    Example:
        >>> from_rectified(EDM, torch.tensor([[1.0]]), torch.tensor([0.5]))
        (tensor([[2.]]), tensor([1.]))
    """
    time = path.time(t / (1 - t))
    a, s = path.alpha(time), path.sigma(time)
    return x * like(a + s, x), time


Head = Callable[[Path, Tensor], tuple[Tensor, Tensor]]


def data_head(path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
    """A net that predicts the datum: p = 1, q = 0. (`sample` in diffusers.)"""
    return torch.ones_like(t), torch.zeros_like(t)


def eps_head(path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
    """A net that predicts the noise: p = 0, q = 1. (`epsilon` in diffusers.)"""
    return torch.zeros_like(t), torch.ones_like(t)


def score_head(path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
    """A net that predicts the score of the noised data: p = 0, q = -1 / s."""
    return torch.zeros_like(t), -1 / path.sigma(t)


def v_head(path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
    """A net that predicts v = a e - s x0: p = -s, q = a. (`v_prediction` in diffusers.)

    Source: Salimans and Ho, arXiv:2202.00512, appendix D.
    """
    return -path.sigma(t), path.alpha(t)


def velocity_head(path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
    """A net that predicts the velocity dx/dt of its path: p = a', q = s'. (`flow_prediction` in diffusers.)

    Source: Lipman et al., arXiv:2210.02747.
    """
    return path.slopes(t)


def edm_head(sigma_data: float = 0.5) -> Head:
    """The raw output F of a net under the preconditioning of EDM, D = c_skip x + c_out F.

    p = s / (d sqrt(s^2 + d^2)), q = -d / sqrt(s^2 + d^2), on the path with a = 1

    Args:
        sigma_data: d, the standard deviation of the data.

    Returns:
        The head.

    Source: Karras et al., arXiv:2206.00364, the preconditioning of EDM.
    """

    def head(path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        s = path.sigma(t) / path.alpha(t)
        root = (s.square() + sigma_data**2).sqrt()
        return s / (sigma_data * root), -sigma_data / root

    return head


def expectations(path: Path, head: Head, h: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Data and noise as a head believes them.

    x0 = (q x - s h) / (a q - s p),  e = (a h - p x) / (a q - s p)

    Args:
        path: the path of the net.
        head: what it predicts.
        h: (B, ...) its answer.
        x: (B, ...) the state that it saw, on its path.
        t: (B,) the time there.

    Returns:
        x0 and e, (B, ...) each.

    Example:
        >>> x0, e = expectations(EDM, eps_head, torch.ones(1, 1), torch.full((1, 1), 3.0), torch.tensor([2.0]))
        >>> x0, e
        (tensor([[1.]]), tensor([[1.]]))
    """
    a, s = path.alpha(t), path.sigma(t)
    p, q = head(path, t)
    det = a * q - s * p
    return like(q / det, x) * x - like(s / det, x) * h, like(a / det, x) * h - like(p / det, x) * x
