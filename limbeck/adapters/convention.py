"""What a scheduler of diffusers says of a net: on which path it was trained, what it predicts, what it is told.

    alphas_cumprod (DDPM, DDIM, PNDM, DPM-Solver, LCM ...)   variance-preserving by a table; told the index
    sigma_data (EDM)                                         x / sqrt(s^2 + d^2); told log(s) / 4
    FlowMatch ..., flow_prediction                           rectified flow; told N t

All parts of this library ask at a level t of rectified flow, from 0 to 1. A net was trained between two levels only;
beyond them it is asked at the nearest of them, on the state as it would be there:

    x_net = x / sqrt(t^2 + d^2 (1 - t)^2),   d = 1 for a table

which is the net's own path inside the range, and what the samplers of diffusers start from at t = 1.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from limbeck.adapters.weights import silent
from limbeck.errors import BadValue, BadWeights
from limbeck.parts.path import RF, Head, Path, data_head, edm_head, eps_head, expectations, v_head, vp_table
from limbeck.parts.states import like

__all__ = ["HEADS", "Convention", "flow", "grid", "read_scheduler", "table"]

HEADS: dict[str, Head] = {"epsilon": eps_head, "sample": data_head, "v_prediction": v_head}
CLOSEST = 2.0**-24  # what is left of the signal where a table ends in pure noise
WHOLE = 5e-3  # indices of a table that differ from a whole number by less are that number
ENDS = 1e-6  # how near to pure data and pure noise a ratio of the two is still a number


def flow_head(path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
    """A net that predicts e - x0, whatever its time is counted in: p = -1, q = 1. (`flow_prediction` in diffusers.)"""
    return -torch.ones_like(t), torch.ones_like(t)


@dataclass(frozen=True)
class Convention:
    """How a net is asked, and how its answer is read.

    Args:
        name: the prediction type, in the words of diffusers.
        path: of the states that the net sees, by the time that it is told.
        head: what it predicts.
        time: the time that it is told at a level t of rectified flow.
        data: d, the deviation of the data by which states are scaled; 0 where they are not.
        low: the lowest level at which it was trained.
        high: the highest.

    Example:
        >>> asked = flow(1000)
        >>> asked.told(torch.tensor([0.25])), asked.seen(torch.ones(1, 2), torch.tensor([0.25]))
        (tensor([250.]), tensor([[1., 1.]]))
    """

    name: str
    path: Path
    head: Head
    time: Callable[[Tensor], Tensor]
    data: float = 0.0
    low: float = 0.0
    high: float = 1.0

    def told(self, t: Tensor) -> Tensor:
        """What the net is told at level t, (B,)."""
        return self.time(t.double().clamp(self.low, self.high)).to(t.dtype)

    def seen(self, x: Tensor, t: Tensor) -> Tensor:
        """The state that the net is shown, for x (B, ...) at level t (B,)."""
        if not self.data:
            return x
        return x * like((t.square() + (self.data * (1 - t)).square()).rsqrt(), x)

    def read(self, h: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Data and noise of which x = (1 - t) x0 + t e, from the answer h.

        Beyond the range of the net, what it knows better is kept: x0 near the noise, e near the data.

        Args:
            h: (B, ...) the answer.
            x: (B, ...) the state on the path of rectified flow.
            t: (B,) its level.

        Returns:
            x0 and e, (B, ...) each.
        """
        x0, e = expectations(self.path, self.head, h, self.seen(x, t), self.told(t))
        above, below = like(t > self.high, x).bool(), like(t < self.low, x).bool()
        level = like(t, x)
        e = torch.where(above, (x - (1 - level) * x0) / level.clamp(min=ENDS), e)
        return torch.where(below, (x - level * e) / (1 - level).clamp(min=ENDS), x0), e


def flow(steps: int) -> Convention:
    """Rectified flow with the level told as a step of so many.

    x_t = (1 - t) x0 + t e, h = e - x0, told N t

    Args:
        steps: N.

    Example:
        >>> flow(1000).path.sigma(torch.tensor([500.0]))
        tensor([0.5000])
    """
    path = Path(lambda n: 1 - n / steps, lambda n: n / steps, lambda r: steps * RF.time(r))
    return Convention("flow_prediction", path, flow_head, lambda t: steps * t)


def table(alphas_cumprod: Tensor, prediction: str) -> Convention:
    """The variance-preserving path of a table, told as an index.

    Args:
        alphas_cumprod: (N,), falling; a last entry of 0 is allowed where noise is not what is predicted.
        prediction: "epsilon", "sample" or "v_prediction".

    Raises:
        BadValue: another prediction, a table that does not fall, or one that ends in pure noise under "epsilon".

    Example:
        >>> table(torch.tensor([0.9, 0.5, 0.1]), "epsilon").told(torch.tensor([0.5]))
        tensor([1.])
    """
    if prediction not in HEADS:
        raise BadValue(f"prediction_type {prediction!r} is not known; possible: {', '.join(HEADS)}, flow_prediction")
    rows = alphas_cumprod.detach().double().clone()
    if rows[-1] < CLOSEST and prediction == "epsilon":
        raise BadValue("the table ends in pure noise, where a net of epsilon says nothing: is it v_prediction?")
    if rows[-1] < CLOSEST:  # a little signal is left, so that the ratio of noise to signal is a number
        rows[-1] = min(CLOSEST, float(rows[-2]) / 4)
    path = vp_table(rows)
    ratio = ((1 - rows) / rows).sqrt()
    low, high = (float(r / (1 + r)) for r in (ratio[0], ratio[-1]))
    return Convention(prediction, path, HEADS[prediction], partial(_index, path), 1.0, low, high)


def _index(path: Path, t: Tensor) -> Tensor:
    """The index of a level; a whole one where rounding of t alone keeps it from being so. Slopes are kept."""
    n = path.time(t / (1 - t))
    whole = n.detach().round()
    return torch.where((n.detach() - whole).abs() < WHOLE, n + (whole - n).detach(), n)


def _edm(config: Any) -> Convention:
    """EDM: the net sees x / sqrt(s^2 + d^2) and is told log(s) / 4."""
    d = float(config.sigma_data)

    def size(c: Tensor) -> Tensor:
        return ((8 * c).exp() + d**2).rsqrt()

    path = Path(size, lambda c: (4 * c).exp() * size(c), lambda r: r.log() / 4)
    head = edm_head(d)
    if config.prediction_type == "v_prediction":

        def turned(path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
            p, q = head(path, t)
            return -p, -q

        kept: Head = turned
    else:
        kept = head
    ends = [s / (1 + s) for s in (float(config.sigma_min), float(config.sigma_max))]
    return Convention("edm", path, kept, lambda t: (t / (1 - t)).log() / 4, d, *ends)


def read_scheduler(scheduler: Any) -> Convention:
    """What a scheduler says of its net.

    Args:
        scheduler: of diffusers; which sampler it is does not matter.

    Raises:
        BadWeights: a scheduler of another kind of path, or a prediction type that it cannot have.
    """
    config, name = scheduler.config, type(scheduler).__name__
    prediction = config.get("prediction_type", "epsilon")
    if "FlowMatch" in name or prediction == "flow_prediction" or config.get("use_flow_sigmas"):
        return flow(int(config.num_train_timesteps))
    try:
        if name.startswith("EDM"):
            return _edm(config)
        if hasattr(scheduler, "alphas_cumprod"):
            return table(scheduler.alphas_cumprod, prediction)
    except BadValue as error:
        raise BadWeights(f"{name}: {error}") from None
    raise BadWeights(f"the scheduler {name} is not known; possible: those with a table of betas, EDM, FlowMatch")


def grid(scheduler: Any, steps: int) -> tuple[float, ...]:
    """The levels that a scheduler visits in so many steps, and 0 at the end.

    Raises:
        BadValue: fewer than one step, or more than the scheduler has.
    """
    if steps < 1:
        raise BadValue(f"a sampler needs at least one step, got steps = {steps}")
    fresh, convention = copy.deepcopy(scheduler), read_scheduler(scheduler)
    try:
        with silent():
            fresh.set_timesteps(steps)
    except ValueError as error:
        raise BadValue(f"{type(scheduler).__name__} in {steps} steps: {str(error).splitlines()[0]}") from None
    time = torch.as_tensor(fresh.timesteps).double()
    a, s = convention.path.alpha(time), convention.path.sigma(time)
    return (*dict.fromkeys((s / (a + s)).tolist()), 0.0)
