"""Progressive distillation: in each round the student learns to do in one step what its teacher does in two.

The first teacher may be any field; afterwards the student is its own teacher, so that 8192 steps become 4 in eleven
rounds, each as long as the others. The student keeps its weights from round to round.
"""

from __future__ import annotations

from limbeck.part import Expr, terms
from limbeck.parts.halving import cosine_times, halve, ladder, landing, landing_states, truncated_weight
from limbeck.parts.optimizer import adam
from limbeck.parts.schedule import linear
from limbeck.parts.solver import ode_sample
from limbeck.recipe import Learn, Phase, Recipe, Repeat, Solve, Stage
from limbeck.roles import built, copy_of, frozen, learning


def rounds(states: Expr) -> tuple[Stage, ...]:
    """A round: half the steps, then the student follows who made the states."""
    phase = Phase("student", ("student",), terms(land=truncated_weight() * landing()), states)
    return Solve("halve", halve(), ("ladder",), batch_size=1), Learn(
        "distill", (phase,), steps=50_000, batch_size=128, clip=1.0
    )


recipe = Recipe(
    key="progressive-distillation", title="Progressive Distillation for Fast Sampling of Diffusion Models",
    paper="arXiv:2202.00512", family="trajectory", kind="method", learns="student weights", teacher="white-box",
    players={
        "student": learning(adam(lr=linear(start=5e-5, end=0.0))), "teacher": frozen(), "past": copy_of("student"),
        "ladder": built(ladder(start=8192)),
    },
    stages=(
        Repeat("first", rounds(landing_states()), carry={"past": "student"}),
        Repeat("later", rounds(landing_states().on(teacher="past")), times=10, carry={"past": "student"}),
    ),
    sampler=ode_sample(times=cosine_times(4)),
    variants={"one-step": {"later.times": 12}, "large-pictures": {"ladder.builder.start": 1024, "later.times": 7}},
    deviates=(
        "the student is given, as a copy of the teacher where there are weights to copy; the paper always copies",
        "all rounds have 50,000 steps; the paper takes 100,000 for those that end in one or two steps of the sampler",
        "the ratio of signal to noise is not clipped at exp(20), and predictions are not clipped to the range of data",
    ),
)  # fmt: skip
