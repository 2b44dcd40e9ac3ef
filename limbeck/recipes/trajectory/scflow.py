"""SCFlow: a flow that gives the same picture in one step and in four.

The student must be consistent with its neighbours on both sides of every state, and near the data with the datum
itself; its one-step samples must pass for real; and on the straight lines that end in them it must stay.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.consistency import consistency, reverse_consistency
from limbeck.parts.distance import huber_each
from limbeck.parts.gan import discriminator_head, gan_discriminator
from limbeck.parts.neighbours import free_step, teacher_step
from limbeck.parts.optimizer import adamw
from limbeck.parts.self_correction import from_noise, self_reflow
from limbeck.parts.states import noise_states
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import built, copy_of, ema_of, frozen, learning

HUBER = huber_each(c=0.01)
LOSS = terms(
    near=consistency(distance=HUBER, truncation=0.1), far=0.1 * reverse_consistency(distance=HUBER),
    reflow=0.1 * self_reflow(), gan=0.1 * from_noise(),
)  # fmt: skip
JUDGE = Phase("critic", learns=("critic", "head"), batch=noise_states(), loss=terms(gan=gan_discriminator()))
FLOW = Phase("student", learns=("student",), batch=free_step(longest=0.1) >> teacher_step(), loss=LOSS)

recipe = Recipe(
    key="scflow",
    title="Self-Corrected Flow Distillation for Consistent One-Step and Few-Step Text-to-Image Generation",
    paper="arXiv:2412.16906",
    family="trajectory",
    kind="method",
    learns="student weights",
    teacher="white-box",
    players={
        "student": learning(adamw(lr=1e-5)), "teacher": frozen(), "target": ema_of("student", decay=0.9),
        "critic": copy_of("teacher", adamw(lr=1e-5)), "head": built(discriminator_head(), adamw(lr=1e-5)),
    },
    stages=(Learn("distill", (JUDGE, FLOW), steps=20_000, batch_size=40),),
    deviates=(
        "all terms count from the first step; the code lets two of them in after 500 steps, and clips gradients at 1",
        "the discriminator sees noised samples through a copy of the teacher, as the paper's text-to-image one does, "
        "without a penalty on its gradient; at levels of its own, where the code takes those of the nearer state",
        "guidance of scale 1.5 belongs to the teacher: a guided teacher is given as a guided net",
    ),
)  # fmt: skip
