"""Flow maps by self-distillation: the net learns the field on its diagonal and teaches itself to jump along it.

No teacher and no pre-training are needed. The jump may be taught by where it lands (Lagrangian), by where it starts
(Eulerian) or by two shorter ones (progressive), and is taken over any grid of levels afterwards.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.flow_matching import flow_matching
from limbeck.parts.flowmap import (
    any_step,
    eulerian,
    lagrangian,
    log_weight,
    semigroup,
    triangle_states,
)
from limbeck.parts.flowmap import off_diagonal as off
from limbeck.parts.flowmap import on_diagonal as on
from limbeck.parts.optimizer import adam
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import built, learning

LOSS = terms(diagonal=on(loss=flow_matching()), off=off(loss=lagrangian()))
PHASE = Phase("student", ("student", "weights"), LOSS, triangle_states())
OFF = "distill.student.loss.off.loss"
ESD, PSD, UNIFORM = {OFF: eulerian()}, {OFF: semigroup()}, {OFF: semigroup(low=0.0, high=1.0)}

recipe = Recipe(
    key="flow-map-self-distill",
    title="How to build a consistency model: Learning flow maps via self-distillation",
    paper="arXiv:2505.18825",
    family="trajectory",
    kind="method",
    learns="student weights",
    teacher="self",
    players={"student": learning(adam(lr=1e-3)), "weights": built(log_weight(), adam(lr=1e-3))},
    stages=(Learn("distill", (PHASE,), steps=400_000, batch_size=512, clip=1.0),),
    sampler=any_step(),
    variants={"esd": ESD, "psd-mid": PSD, "psd-uniform": UNIFORM},
    deviates=(
        "rate 1e-3 without decay: the code's 1e-2, which falls with the root of the step, is for normalised weights",
        "the weights that sample are those of the last step, where the code keeps a moving average of them",
        "how many rows of a batch lie on the diagonal varies from batch to batch; in the code it does not",
    ),
)
