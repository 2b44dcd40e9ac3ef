"""How the product of a recipe is sampled: what its claim samples it by, at the levels that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.adapters.convention import grid
from limbeck.adapters.pipeline import Denoiser
from limbeck.override import flatten
from limbeck.part import Expr, Part
from limbeck.parts.guidance import Guided
from limbeck.parts.halving import cosine_times
from limbeck.parts.solver import euler, ode_sample
from limbeck.parts.states import few_step
from limbeck.recipe import Recipe, Repeat

__all__ = ["ode_of", "sampler_of"]

TEACHER_STEPS = 50
FIELDS = ("ode_sample", "path_sample")  # samplers that any other solver may take the place of


def sampler_of(recipe: Recipe) -> Expr | None:
    """The sampler of a recipe's product.

    It is the recipe's own, else that of its claim's probes, at the levels that its settings name: those of its states,
    the borders of its windows, or the steps that are left at the end of its ladder.

    Args:
        recipe: with everything set.

    Returns:
        A part that draws; None where the product is a field for any solver, or nothing is drawn.

    Example:
        >>> from limbeck.index import load
        >>> sampler_of(load("dmd2")).spec.name, sampler_of(load("flow-map-self-distill")).spec.name
        ('few_step', 'any_step')
        >>> len(sampler_of(load("progressive-distillation")).children()["times"])  # 8192 steps, halved 11 times
        5
    """
    probes = {} if recipe.claim is None else recipe.claim.probes
    draws = [p.children()["draw"] for p in probes.values() if isinstance(p.children().get("draw"), Expr)]
    # a learned solver answers as a generator of one step too; what is to be written down are its steps
    own = [] if recipe.sampler is None else [recipe.sampler]
    draw: Any = next(iter(own + draws if recipe.product == "student" else draws + own), None)
    if not isinstance(draw, Part):
        # the sampler of a learned solver asks its teacher; a student that is drawn through another player is a field
        return None if recipe.product == "student" else draw
    name, set_ = draw.spec.name, flatten(recipe)
    if draw == few_step() and (levels := _last(set_, "batch.times")):
        return few_step(times=levels)
    if name == "ode_sample" and "ladder" in recipe.players:
        rounds = sum(s.times for s in recipe.stages if isinstance(s, Repeat))
        return ode_sample(times=cosine_times(max(1, set_["ladder.builder.start"] >> rounds)))
    if name == "ode_sample" and (borders := _last(set_, "batch.borders")):
        return ode_sample(times=borders)
    return None if name in FIELDS else draw


def _last(settings: Mapping[str, Any], ending: str) -> tuple[float, ...]:
    """The last tuple whose path has this ending; () if there is none."""
    found = [v for path, v in settings.items() if path.endswith(ending) and isinstance(v, tuple)]
    return found[-1] if found else ()


def ode_of(net: Denoiser | Guided, steps: int = TEACHER_STEPS) -> Part:
    """Straight steps over the levels of a pipeline's own scheduler, as its teacher is sampled.

    Args:
        net: a pipeline's, or a guided one.
        steps: how many.
    """
    plain: Any = net.net if isinstance(net, Guided) else net
    return ode_sample(solver=euler(), times=grid(plain.frame.scheduler, steps))
