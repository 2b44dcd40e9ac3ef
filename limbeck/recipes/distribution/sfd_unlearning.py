"""Score forgetting distillation: a one-step generator of all classes but one, from the teacher's scores alone.

What remains is distilled as ever; asked for the class to forget, the generator is pulled to the teacher's score of a
safe class. Forgetting costs no stage of its own, and no data are read.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.distribution import fake_denoising
from limbeck.parts.fisher import score_identity
from limbeck.parts.forgetting import asked_classes, class_weight, overridden
from limbeck.parts.optimizer import adam
from limbeck.parts.states import few_step, noise_states
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import built, copy_of, frozen, learning

ADAM = adam(lr=1e-5, betas=(0.0, 0.999))
ASKED = asked_classes() >> noise_states()
CRITIC = terms(denoise=class_weight() * fake_denoising())
STUDENT = terms(match=class_weight() * score_identity().on(teacher="safe"))

recipe = Recipe(
    key="sfd-unlearning",
    title="Score Forgetting Distillation: A Swift, Data-Free Method for Machine Unlearning in Diffusion Models",
    paper="arXiv:2409.11219", family="distribution", kind="defence", learns="student weights", teacher="white-box",
    players={
        "student": learning(ADAM), "teacher": frozen(), "critic": copy_of("teacher", ADAM),
        "safe": built(overridden()),
    },
    stages=(
        Learn(
            "distill",
            phases=(Phase("critic", ("critic",), CRITIC, ASKED), Phase("student", ("student",), STUDENT, ASKED)),
            steps=50_000, batch_size=256, clip=1.0,
        ),
    ),
    sampler=few_step(),
    deviates=(
        "clip is of the norm, where the code clips each coordinate of the gradient",
        "half of a batch of 256 asks for what is forgotten, where the code takes two batches of 128",
        "the generator starts at pure noise, t = 1, where the code gives it noise at step 440 of 1000 and that level",
        "levels and the weight of the critic's loss are those of SiD on EDM; the code's are steps 38 to 712 of 1000",
        "the weights that sample are those of the last step, where the code keeps a moving average of them",
        "the safe class is a fixed one, as in the public configuration; a random one for each row is not offered",
    ),
)  # fmt: skip
