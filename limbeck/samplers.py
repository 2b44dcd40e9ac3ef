"""How the product of a recipe is sampled: what its claim samples it by, at the levels that it was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from limbeck.adapters.convention import grid
from limbeck.adapters.pipeline import Denoiser
from limbeck.override import flatten
from limbeck.part import Expr, Part
from limbeck.parts.bootstrap import noise_and_levels
from limbeck.parts.continuous import level_states
from limbeck.parts.flow_matching import path_states
from limbeck.parts.flowmap import triangle_states
from limbeck.parts.guidance import Guided
from limbeck.parts.halved_steps import halved_states
from limbeck.parts.halving import cosine_times
from limbeck.parts.neighbours import free_step, ladder_step, reach_below
from limbeck.parts.pairs import straight_states
from limbeck.parts.solver import euler, in_steps, ode_sample
from limbeck.parts.states import few_step
from limbeck.probes.pictures import picture_probes
from limbeck.recipe import Learn, Recipe, Repeat, walk

__all__ = ["ode_of", "read_at", "sampler_of", "taught_everywhere", "watched_of"]

TEACHER_STEPS, WATCHED_STEPS = 50, 16
FIELDS = ("ode_sample", "path_sample")  # samplers that any other solver may take the place of
EVERYWHERE = frozenset(  # states whose levels are drawn from all between data and noise
    (level_states, path_states, straight_states, triangle_states, halved_states, noise_and_levels,
     reach_below, free_step, ladder_step)
)  # fmt: skip


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
    draws = [draw for probe in probes.values() for draw in _draws(probe)]
    # a learned solver answers as a generator of one step too; what is to be written down are its steps
    own = [] if recipe.sampler is None else [recipe.sampler]
    draw: Any = next(iter(own + draws if recipe.product == "student" else draws + own), None)
    if not isinstance(draw, Part):
        # the sampler of a learned solver asks its teacher; a student that is drawn through another player is a field
        return None if recipe.product == "student" else draw
    name, set_ = draw.spec.name, flatten(recipe)
    if name == "ode_sample" and "ladder" in recipe.players:
        rounds = sum(s.times for s in recipe.stages if isinstance(s, Repeat))
        return ode_sample(times=cosine_times(max(1, set_["ladder.builder.start"] >> rounds)))
    if name == "ode_sample" and (borders := _last(set_, "batch.borders") or _last(set_, "batch.times")):
        plain = any(path.endswith("batch.analytic") and not v for path, v in set_.items())
        return ode_sample(times=borders) if plain else draw.child("times", borders)
    # levels that somebody gave to the recipe's own sampler are kept
    if "times" in draw.children() and (draw == few_step() or not own) and (levels := _last(set_, "batch.times")):
        return draw.child("times", levels[:-1] if levels[-1] == 0 else levels)
    if "told" in draw.children():
        return draw.child("told", next((v for path, v in set_.items() if path.endswith("loss.told")), True))
    return None if name in FIELDS else draw


def _draws(probe: Part) -> Iterator[Expr]:
    """The samplers of a probe, or of the probes inside it: the last of those is the method's own, after its rivals."""
    if isinstance(draw := probe.children().get("draw"), Expr):
        yield draw
    else:
        inner = [c for c in probe.children().values() if isinstance(c, Part) and c.spec.takes == ("players", "data")]
        yield from (draw for other in reversed(inner) for draw in _draws(other))


def _last(settings: Mapping[str, Any], ending: str) -> tuple[float, ...]:
    """The last tuple whose path has this ending; () if there is none."""
    found = [v for path, v in settings.items() if path.endswith(ending) and isinstance(v, tuple)]
    return found[-1] if found else ()


def taught_everywhere(recipe: Recipe) -> bool:
    """Whether a product has learnt at all levels, so that it may be sampled in any number of steps.

    Others have met few levels, those of their sampler, and are not made for any other number.

    Args:
        recipe: with everything set.

    Example:
        >>> from limbeck.index import load
        >>> [taught_everywhere(load(key)) for key in ("rcm", "tcd", "flow-matching", "dmd2", "perflow")]
        [True, True, True, False, False]
    """
    learning = [s for s in walk(recipe.stages) if isinstance(s, Learn)]
    last = [ps for s in learning if (ps := [p for p in s.phases if recipe.product in p.learns])][-1:]
    leaves = [leaf for phases in last for p in phases if p.batch is not None for leaf in p.batch.leaves()]
    return any(leaf.spec in EVERYWHERE and not _chosen(leaf.children().get("levels")) for leaf in leaves)


def _chosen(levels: Any) -> bool:
    """Whether levels are drawn from a few."""
    return isinstance(levels, Expr) and "times" in levels.children()


def read_at(draw: Expr, steps: Sequence[int], everywhere: bool) -> list[tuple[Expr, bool]]:
    """Say how a product is sampled for a curve: as it was made to be, and in other numbers of even steps beside it.

    Args:
        draw: its sampler.
        steps: the numbers of steps.
        everywhere: whether it was made for any number of them.

    Returns:
        Samplers, and whether the product was made for that. One that has learnt its times, or stops above the data,
        has no other.

    Example:
        >>> [(d.children()["times"], made) for d, made in read_at(few_step(times=(1.0, 0.3)), (1, 2, 4), False)][:2]
        [((1.0, 0.3), True), ((1.0,), False)]
    """
    times = draw.children().get("times")
    if times is None or (isinstance(draw, Part) and draw.spec.name == "ode_sample" and times[-1] != 0):
        return [(draw, True)]
    own = len(times) - (times[-1] == 0)
    return [(draw, True), *((in_steps(draw, n), everywhere) for n in steps if n != own)]


def ode_of(net: Denoiser | Guided, steps: int = TEACHER_STEPS) -> Part:
    """Straight steps over the levels of a pipeline's own scheduler, as its teacher is sampled.

    Args:
        net: a pipeline's, or a guided one.
        steps: how many.
    """
    plain: Any = net.net if isinstance(net, Guided) else net
    return ode_sample(solver=euler(), times=grid(plain.frame.scheduler, steps))


def watched_of(recipe: Recipe, net: Denoiser | Guided) -> dict[str, Part]:
    """What is measured of a pipeline's product while it learns.

    Args:
        recipe: with everything set.
        net: of the pipeline, whose scheduler a field is sampled by, in 16 steps.

    Returns:
        Name to probe; none where the product is no player.
    """
    if recipe.product not in recipe.players:
        return {}
    critic = recipe.players.get("critic")
    game = critic is not None and critic.of == ("teacher",) and critic.builder is None
    return picture_probes(sampler_of(recipe) or ode_of(net, WATCHED_STEPS), game)
