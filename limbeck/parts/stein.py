"""Stein's identity: what may be taken from a score direction without changing where it leads on average.

The noise e that was drawn is in the teacher's answer on x_t = (1 - t) x + t e, and comes to nothing over many draws.
Score distillation subtracts e itself. By Stein's identity, for any scalar baseline phi,

    E[e phi(x_t)] = t E[grad phi(x_t)],    so    xi = e phi(x_t) - t grad phi(x_t)    has mean 0 at every x and t,

and any multiple of it may be subtracted too, element by element:

    g = w_t (eps_teacher - m_0 e - m_1 xi)

With m = (1, 0) that is score distillation; phi = 1 gives nothing new. The player `variate` holds the weights m of each
range of levels. They learn in a phase of their own, after the scene, from the second moment of g: its mean does not
depend on them, so that is least where the variance is. So the weights of a step know nothing of its noise, and the mean
of g stays that of score distillation exactly. What a baseline itself learns from the same loss keeps it unbiased too.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import Expr, part
from limbeck.parts.distribution import inject
from limbeck.parts.guidance import guided
from limbeck.parts.score_direction import ALL, level_noise, level_weight, noised_at
from limbeck.parts.states import like
from limbeck.players import Players

__all__ = ["Variate", "nearness", "resemblance", "stein_moment", "stein_score", "stein_variate", "variate"]


class Variate(nn.Module):
    """The weights of the noise and of Stein's variate, for each range of levels and each element of a datum.

    Args:
        pieces: equal ranges of levels.
        shape: of a datum.

    Example:
        >>> net = Variate(4, (3,))
        >>> net({"t": torch.tensor([0.0, 1.0])}, frozenset({"weight"}))["weight"].tolist()[1]
        [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """

    def __init__(self, pieces: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        start = torch.zeros(pieces, 2, *shape)
        start[:, 0] = 1
        self.weight = nn.Parameter(start)

    def forward(self, batch: Mapping[str, Tensor], want: frozenset[str]) -> dict[str, Any]:
        """Answer "weight" (B, 2, ...) on t (B,)."""
        pieces = len(self.weight)
        return {"weight": self.weight[(batch["t"] * pieces).long().clamp(max=pieces - 1)]}


@part
def variate(players: Players, batch: Batch, *, pieces: int = 10) -> Variate:
    """Build the player that holds the weights; it starts as score distillation.

    m = (1, 0)

    Args:
        players: not asked.
        batch: rows whose column x has the shape of a datum.
        pieces: equal ranges of levels, each with weights of its own.

    Returns:
        The net.

    Raises:
        BadValue: no range.
    """
    if pieces < 1:
        raise BadValue(f"variate needs a range of levels at least, got pieces={pieces}")
    return Variate(pieces, tuple(batch.x.shape[1:])).to(batch.x)


@part
def nearness(players: Players, batch: Batch) -> Tensor:
    """A baseline: how near a noised view is to the view itself.

    phi = -1/2 mean |x_t - x|^2

    Args:
        players: not asked.
        batch: x_t in `x`, and x in `clean`.

    Returns:
        (B,).

    Source: Wang et al., arXiv:2401.00604, where a net that estimates depth looks at both.
    """
    return -0.5 * (batch.x - batch.clean).square().flatten(1).mean(1)


@part
def resemblance(players: Players, batch: Batch, *, judge: str = "judge", want: str = "features") -> Tensor:
    """A baseline: how like a noised view is to the view itself, in the eyes of a player.

    phi = -1/2 mean |h(x_t) - h(x)|^2

    Args:
        players: the judge, an estimator of depth for one.
        batch: x_t in `x` at level t, and x in `clean`, which the judge sees at level 0.
        judge: which player.
        want: what it is asked for, h.

    Returns:
        (B,).

    Raises:
        UnknownName: no such player, or it does not answer that.

    Source: Wang et al., arXiv:2401.00604; there h(x) is the depth that the renderer knows.
    """
    due = players[judge](batch.with_(x=batch.clean, t=torch.zeros_like(batch.t)), want)
    return -0.5 * (players[judge](batch, want) - due).square().flatten(1).mean(1)  # type: ignore[no-any-return]


def stein_variate(players: Players, seen: Batch, e: Tensor, baseline: Expr) -> Tensor:
    """What has mean 0 over the noise, whatever the baseline is.

    xi = e phi(x_t) - t grad phi(x_t)

    Args:
        players: those that the baseline asks.
        seen: x_t in `x`, t (B,), and x in `clean`.
        e: (B, ...) the noise in x_t.
        baseline: a part that gives phi (B,), each row's of its own row alone.

    Returns:
        (B, ...), in the wider type of x_t and e. Gradients flow to what the baseline learns; under `no_grad` the graph
        of the slope is not kept.

    Source: Stein, "Estimation of the mean of a multivariate normal distribution", 1981, the lemma on Gaussians.
    """
    learns = torch.is_grad_enabled()
    with torch.enable_grad():
        at = seen.x.detach().requires_grad_()
        phi = baseline(players, seen.with_(x=at))  # type: ignore[operator]
        needed = phi.requires_grad  # a constant has no slope
        slope = torch.autograd.grad(phi.sum(), at, create_graph=learns)[0] if needed else torch.zeros_like(at)
    e = e.to(torch.promote_types(e.dtype, at.dtype))  # the noise is single precision, a scene may be half or double
    return like(phi, e) * e - like(seen.t, e) * slope


def _direction(
    players: Players, batch: Batch, x: Tensor, levels: Expr, scale: float, baseline: Expr, name: str
) -> Tensor:
    """Where what is seen of the scene, x, is to go, (B, ...)."""
    t, e = level_noise(players, batch, levels, name)
    seen = noised_at(batch, x, t, e).with_(clean=x.detach())
    with torch.no_grad():
        told = guided(players.teacher, seen, "eps", scale)
    xi = stein_variate(players, seen, e, baseline)
    both = torch.stack((e.to(xi.dtype), xi), 1)
    return level_weight(t, x) * (told - (players.variate(seen, "weight") * both).sum(1))


NEARNESS = nearness()


@part
def stein_score(
    players: Players, batch: Batch, *, levels: Expr = ALL, scale: float = 100.0, baseline: Expr = NEARNESS
) -> Tensor:
    """Move what is seen of the scene as score distillation does on average, with less noise in the way.

    1/2 ||x - sg[x - g]||^2, g = w_t (eps_teacher^w(x_t, t, y) - m_0 e - m_1 (e phi(x_t) - t grad phi(x_t)))

    Args:
        players: the scene answers "x0", the teacher "eps", `variate` "weight".
        batch: rows with what the scene reads (a camera, a particle) and the prompt y; x has the shape of a datum.
        levels: a level part.
        scale: w, the guidance; 1 for none.
        baseline: a part that gives phi (B,) of x_t in `x` and of x in `clean`.

    Returns:
        (B,).

    Raises:
        BadValue: guidance from a teacher without classes.
        UnknownName: there is no player `variate`.

    Source: Wang et al., arXiv:2401.00604, Stein score distillation.
    """
    x = players.scene(batch, "x0")
    with torch.no_grad():
        g = _direction(players, batch, x, levels, scale, baseline, "score")
    return inject(x, g)


@part
def stein_moment(
    players: Players, batch: Batch, *, levels: Expr = ALL, scale: float = 100.0, baseline: Expr = NEARNESS
) -> Tensor:
    """Fit the weights of the variates, and the baseline where it learns, so that the direction varies least.

    mean g^2 = mean (g - E g)^2 + mean (E g)^2, of which the last does not depend on weights or baseline

    Args:
        players: as for `stein_score`; the variate learns here, and the scene stands still.
        batch: as for `stein_score`.
        levels: a level part, the same as there.
        scale: the guidance there.
        baseline: the baseline there.

    Returns:
        (B,), means over the elements of a datum.

    Raises:
        BadValue: guidance from a teacher without classes.
        UnknownName: there is no player `variate`.

    Source: Wang et al., arXiv:2401.00604, the weights of the control variate.
    """
    x = players.scene(batch, "x0").detach()
    return _direction(players, batch, x, levels, scale, baseline, "variate").square().flatten(1).mean(1)
