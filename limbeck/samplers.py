"""How the product of a recipe is sampled: what its claim samples it by, at the levels that it was trained on."""

from __future__ import annotations

from typing import Any

from limbeck.adapters.convention import grid
from limbeck.adapters.pipeline import Denoiser
from limbeck.override import flatten
from limbeck.part import Part
from limbeck.parts.guidance import Guided
from limbeck.parts.solver import euler, ode_sample
from limbeck.parts.states import few_step
from limbeck.recipe import Recipe

__all__ = ["ode_of", "sampler_of", "times_of"]

TEACHER_STEPS = 50


def sampler_of(recipe: Recipe) -> Part | None:
    """The sampler of a recipe's product.

    A few-step student takes the levels of the recipe's states where these name any, else those of its claim.

    Args:
        recipe: with everything set.

    Returns:
        `few_step`, `any_step` or another part that draws; None where the product is a field for any solver.

    Example:
        >>> from limbeck.index import load
        >>> sampler_of(load("dmd2")).spec.name, sampler_of(load("flow-map-self-distill")).spec.name
        ('few_step', 'any_step')
    """
    if recipe.sampler is not None:
        return None if recipe.sampler.spec.name == "ode_sample" else recipe.sampler
    probes = {} if recipe.claim is None else recipe.claim.probes
    draws = [p.children()["draw"] for p in probes.values() if isinstance(p.children().get("draw"), Part)]
    if not draws or draws[0].spec.name == "ode_sample":
        return None
    draw: Part = draws[0]
    taught = [
        value for path, value in flatten(recipe).items()
        if path.endswith("batch.times") and isinstance(value, tuple)
    ]  # fmt: skip
    if draw.spec.name == "few_step" and taught:
        return few_step(times=taught[-1])
    return draw


def times_of(draw: Part | None) -> tuple[tuple[float, ...], bool]:
    """The levels of a sampler, and whether it noises anew in every step; no levels for a field.

    Example:
        >>> times_of(few_step(times=(1.0, 0.5)))
        ((1.0, 0.5), True)
    """
    if draw is None:
        return (), True
    times: Any = draw.children().get("times", ())
    return tuple(times), draw.spec.name != "any_step"


def ode_of(net: Denoiser | Guided, steps: int = TEACHER_STEPS) -> Part:
    """Straight steps over the levels of a pipeline's own scheduler, as its teacher is sampled.

    Args:
        net: a pipeline's, or a guided one.
        steps: how many.
    """
    plain: Any = net.net if isinstance(net, Guided) else net
    return ode_sample(solver=euler(), times=grid(plain.frame.scheduler, steps))
