"""2-rectified flow++: one round of reflow, with its training where a straightened flow still errs.

Straight lines between pairs of one flow hardly cross, so a second round gains little; what is left are errors near both
ends, and there the levels crowd. The loss grows as the error, not as its square.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.flow_matching import huber_matching
from limbeck.parts.levels import u_shaped_levels
from limbeck.parts.optimizer import adam
from limbeck.parts.pairs import inverted_pairs, sampled_pairs, straight_states
from limbeck.parts.solver import heun, karras
from limbeck.parts.states import few_step
from limbeck.recipe import Learn, Make, Phase, Recipe
from limbeck.roles import frozen, learning

TIMES = karras(18)
UP = (*TIMES[-2::-1],)  # from the last noise above 0 to the first
LOSS = terms(flow=huber_matching())
PHASE = Phase("student", ("student",), LOSS, straight_states(levels=u_shaped_levels(steepness=4.0)))

recipe = Recipe(
    key="rfpp",
    title="Improving the Training of Rectified Flows",
    paper="arXiv:2405.20320",
    family="trajectory",
    kind="method",
    learns="student weights",
    teacher="white-box",
    players={"student": learning(adam(lr=2e-4)), "teacher": frozen()},
    stages=(
        Make("ask", sampled_pairs(solver=heun(), times=TIMES), into="pairs"),
        Learn("reflow", (PHASE,), steps=800_000, batch_size=512, data="pairs"),
    ),
    sampler=few_step(),
    variants={"inverted": {"ask.rows": inverted_pairs(solver=heun(), times=UP)}},
    deviates=(
        "no perceptual distance, which is for pictures: with |x0_hat - x0| = t |r| in its place, the paper's loss "
        "(1 - t) h(r) + d(x0_hat, x0) is h(r) beyond the turn of h, so h stands without weight",
        "pairs by inversion are a variant; the paper mixes them with those that the teacher draws",
        "the rate is constant, where that of the code rises over the first 5,000 steps",
        "the weights that sample are those of the last step, where the code keeps a moving average of them",
    ),
)
