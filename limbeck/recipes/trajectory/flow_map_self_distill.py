"""Flow maps by self-distillation: the net learns the field on its diagonal and teaches itself to jump along it.

No teacher and no pre-training are needed. The jump may be taught by where it lands (Lagrangian), by where it starts
(Eulerian) or by two shorter ones (progressive), and is taken over any grid of levels afterwards.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.flowmap import eulerian, lagrangian, log_weight, semigroup, triangle_states, velocity_matching
from limbeck.parts.flowmap import off_diagonal as off
from limbeck.parts.flowmap import on_diagonal as on
from limbeck.parts.optimizer import adam
from limbeck.parts.schedule import cosine
from limbeck.probes.trajectory import trajectory_error
from limbeck.recipe import Arm, Claim, Learn, Phase, Recipe, Tune, less
from limbeck.roles import built, learning

LOSS = terms(diagonal=on(loss=velocity_matching()), off=off(loss=lagrangian()))
PHASE = Phase("student", ("student", "weights"), LOSS, triangle_states())
OFF, GRID = "distill.student.loss.off.loss", {"student.optimizer.lr.start": (3e-3, 5e-3, 8e-3, 1.2e-2)}
ESD, PSD, UNIFORM = {OFF: eulerian()}, {OFF: semigroup()}, {OFF: semigroup(low=0.0, high=1.0)}
# learned weights are off, as in the code's experiments in two dimensions
QUICK = {"distill.student.learns": ("student",), "distill.steps": 300, "student.optimizer.lr": cosine(start=5e-3)}
FLOW = {"distill.student.batch.diagonal": 1.0}
ARMS = {"lsd": Arm(), "esd": Arm(set=ESD), "psd": Arm(set=PSD), "flow matching": Arm(set=FLOW)}

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
    variants={"esd": ESD, "psd-mid": PSD, "psd-uniform": UNIFORM},
    deviates=(
        "rate 1e-3 without decay: the code's 1e-2, which falls with the root of the step, is for normalised weights",
        "the weights that sample are those of the last step, where the code keeps a moving average of them",
        "how many rows of a batch lie on the diagonal varies from batch to batch; in the code it does not",
    ),
    claim=Claim(
        bed="mog8",
        set=QUICK,
        arms=ARMS,
        probes={"error": trajectory_error()},
        says=(less("error", "lsd", "esd", by=0.01), less("error", "lsd", "psd", by=0.05)),
        tune=Tune("error", dict.fromkeys(ARMS, GRID)),
        control="flow matching",
    ),
)
