"""Does a net predict what its scheduler says? Asked on pure noise when it is opened, and on noised rows once there are.

A net says of x = a x0 + s e some p x0 + q e. In pure noise e is known: a net of noise or velocity repeats it, a net of
data or v says the same of all noise, the mean picture. On noised rows all is known, and of all heads the one that it
was trained for explains its answers best. A net that no head explains is untrained, or knows other pictures, and is let
pass.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.adapters.convention import HEADS, Convention, flow, table
from limbeck.adapters.pipeline import Denoiser
from limbeck.data import Source
from limbeck.errors import BadWeights, Mismatch
from limbeck.parts.guidance import Guided
from limbeck.parts.states import like
from limbeck.rng import Rng

__all__ = ["checked", "checked_together", "repeated", "unexplained"]

LEVELS = (0.1, 0.5, 0.9)
ROWS, STEPS = 8, 1000
CLEAR, KNOWN = 0.65, 0.7  # another head leaves less than this part of what the claimed one does, and less than this
REPEATS, SAME = 0.3, 0.75  # a net repeats noise where this is left of it; says one thing where this part is common
NOISY = ("epsilon", "flow_prediction")


def checked(net: Denoiser, batch: Mapping[str, Any] | None = None) -> Denoiser:
    """Refuse a net whose answers another prediction type explains much better than the one that its scheduler says.

    Args:
        net: as it was opened.
        batch: rows of data (x and what the net is conditioned on); without them it is asked on pure noise alone.

    Returns:
        The net.

    Raises:
        BadWeights: it predicts something else, and what.
    """
    if {"times", "steps"} & (net.frame.facts or {}).keys():
        return net  # a few-step student was taught at a few levels only
    claimed, kind = net.convention, type(net.frame.scheduler).__name__
    says = f"{net.frame.home}: {kind} says {claimed.name}, but"
    if batch is None:
        left, common = repeated(net)
        if claimed.name not in NOISY and left < REPEATS:
            raise BadWeights(f"{says} of pure noise the net repeats the noise; {_cause('epsilon', claimed)}")
        if claimed.name in NOISY and left > KNOWN and common > SAME:
            raise BadWeights(f"{says} of all noise the net says the same; {_cause('v_prediction', claimed)}")
        return net
    found = unexplained(net, batch)
    best = min(found, key=lambda name: found[name])
    if best != claimed.name and found[best] < min(KNOWN, CLEAR * found[claimed.name]):
        shares = f"{100 * found[best]:.0f}% of it unexplained, against {100 * found[claimed.name]:.0f}%"
        raise BadWeights(f"{says} the net predicts {best} ({shares}); {_cause(best, claimed)}")
    return net


def checked_together(nets: Iterable[nn.Module], source: Source) -> None:
    """Check that pipelines read the same rows, and that each predicts on them what its scheduler says.

    Args:
        nets: players; those that are no pipelines are left out.
        source: the rows, as the first pipeline among them reads them.

    Raises:
        Mismatch: they take states of different shapes, or one knows fewer classes than another.
        BadWeights: one does not predict what its scheduler says.
    """
    plain = [net.net if isinstance(net, Guided) else net for net in nets]
    found = [net for net in plain if isinstance(net, Denoiser)]
    for net in found:
        first = found[0]
        if net.shape != first.shape or net.classes != first.classes:
            mine, theirs = (f"{n.frame.home} takes {n.shape} and {n.classes} classes" for n in (first, net))
            raise Mismatch(f"pipelines that learn from each other read the same rows: {mine}, {theirs}")
        checked(net, source.take(torch.arange(min(ROWS, len(source)))))


def _cause(best: str, claimed: Convention) -> str:
    """What was probably changed."""
    if best in HEADS and claimed.name in HEADS:
        wanted = "'v_prediction' or 'sample'" if best == "v_prediction" else f"{best!r}"
        return f"the likely cause is prediction_type in scheduler/scheduler_config.json: try {wanted}"
    needed = "a FlowMatch scheduler" if best == "flow_prediction" else f"a table of betas and {best!r}"
    return f"the likely cause is a changed scheduler: the net needs one with {needed}"


@torch.no_grad()
def repeated(net: Denoiser) -> tuple[float, float]:
    """What a net says of pure noise.

    mean|h - e|^2 / mean|e|^2,  mean|h_mean|^2 / mean|h|^2

    Args:
        net: as it was opened.

    Returns:
        The part of the noise that it does not repeat, and the part of its answers that is common to all noise of one
        condition.
    """
    given = {"y": torch.zeros(ROWS, dtype=torch.int64)}
    if net.nothing is not None:
        given["text"] = net.nothing.expand(ROWS, *net.nothing.shape)
    e = Rng(("consistent",), torch.arange(ROWS)).normal("e", *net.shape).to(next(net.parameters()))
    h = net.say(net.convention, {**given, "x": e, "t": torch.ones(ROWS).to(e)})
    power = h.square().mean()
    # of independent answers 1 / ROWS would be common by chance
    common = (h.mean(0).square().mean() / power - 1 / ROWS) / (1 - 1 / ROWS)
    return float((h - e).square().mean() / e.square().mean()), float(common)


@torch.no_grad()
def unexplained(net: Denoiser, batch: Mapping[str, Any]) -> dict[str, float]:
    """The part of a net's answers that each prediction type leaves unexplained.

    mean over levels of |h - (p x0 + q e)|^2 / |p x0 + q e|^2

    Args:
        net: as it was opened.
        batch: rows of data.

    Returns:
        Prediction type to its share, near 0 for the right one of a well-trained net.
    """
    given = {k: c[:ROWS] for k, c in batch.items() if isinstance(c, Tensor)}
    x0 = given["x"].to(next(net.parameters()))
    e = Rng(("consistent",), torch.arange(len(x0))).normal("e", *net.shape).to(x0)
    return {
        name: sum(_left(net, convention, given, x0, e, t) for t in LEVELS) / len(LEVELS)
        for name, convention in _candidates(net.convention).items()
    }


def _candidates(claimed: Convention) -> dict[str, Convention]:
    """The claimed path under every head, and the other kind of path."""
    if claimed.name in HEADS:
        heads = {n: replace(claimed, name=n, head=HEADS[n]) for n in HEADS}
        return {**heads, "flow_prediction": flow(STEPS)}
    betas = torch.linspace(1e-4, 0.02, STEPS)
    tables = {n: table((1 - betas).cumprod(0), n) for n in HEADS}
    return {**tables, "flow_prediction": flow(STEPS), claimed.name: claimed}


def _left(
    net: Denoiser, convention: Convention, given: Mapping[str, Any], x0: Tensor, e: Tensor, level: float
) -> float:
    """What a prediction type leaves unexplained at one level."""
    t = torch.full((len(x0),), level, dtype=x0.dtype, device=x0.device).clamp(convention.low, convention.high)
    x = (1 - like(t, x0)) * x0 + like(t, x0) * e
    h = net.say(convention, {**given, "x": x, "t": t})
    p, q = convention.head(convention.path, convention.told(t))
    target = like(p, x0) * x0 + like(q, x0) * e
    return float((h - target).square().sum() / target.square().sum())
