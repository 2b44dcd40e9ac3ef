"""ProlificDreamer: particles of a scene descend the divergence between what is seen of them and the teacher's data.

A critic, the teacher with its own adapter, learns the noise of what is seen of all particles. Where score distillation
subtracts the noise that was drawn, which is the best critic of one particle alone, this subtracts what the critic says,
so that particles keep apart and ordinary guidance is enough.
"""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.scene import particle_views
from limbeck.parts.schedule import piecewise
from limbeck.parts.score_direction import critic_denoising, latent_levels, score_distillation, variational_score
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import copy_of, frozen, learning

LEVELS = latent_levels(high=piecewise(values=(0.98, 0.5), until=(0.2,)))
SCENE = Phase("scene", ("scene",), variational_score(levels=LEVELS), particle_views())
CRITIC = Phase("critic", ("critic",), critic_denoising(), particle_views())
SDS = {"distill.scene.loss": score_distillation(levels=LEVELS), "distill.critic.times": 0}

recipe = Recipe(
    key="prolificdreamer",
    title="ProlificDreamer: High-Fidelity and Diverse Text-to-3D Generation with Variational Score Distillation",
    paper="arXiv:2305.16213",
    family="score",
    kind="method",
    learns="particles of a scene, a critic of what is seen of them",
    teacher="white-box",
    players={
        "scene": learning(adamw(lr=1e-2, weight_decay=0.0)),
        "teacher": frozen(),
        "critic": copy_of("teacher", adamw(lr=1e-4)),
    },
    stages=(Learn("distill", (SCENE, CRITIC), steps=25_000, batch_size=1),),
    product="scene",
    variants={"sds": SDS},
    deviates=(
        "the critic is a whole copy of the teacher and reads the camera as that does, from the prompt of a view; the "
        "paper trains low-rank adapters and an embedding of the pose",
        "the critic is fitted to the noise, where the code fits v by default, and always reads its prompt",
        "one stage: the geometry stage, which takes normals and score distillation, and the texture stage are not here",
    ),
)
