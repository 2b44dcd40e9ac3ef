"""NFSD: the score without its noise, so that the guidance with which one samples is enough.

What the teacher says under guidance is noise, a pull into its domain and a pull towards the prompt. Score distillation
subtracts the noise that was drawn, which is not the noise that the teacher sees; the rest is drowned by guidance of
100, at the price of colours. Here the domain is taken alone: as it is where noise is small, against a negative prompt
where it is large, for both prompts share the noise.
"""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.scene import particle_views
from limbeck.parts.score_direction import noise_free, score_distillation
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import frozen, learning

PHASE = Phase("scene", ("scene",), noise_free(), particle_views())

recipe = Recipe(
    key="nfsd",
    title="Noise-Free Score Distillation",
    paper="arXiv:2310.17590",
    family="score",
    kind="method",
    learns="a scene or picture",
    teacher="white-box",
    players={"scene": learning(adamw(lr=1e-2, weight_decay=0.0)), "teacher": frozen()},
    stages=(Learn("distill", (PHASE,), steps=25_000, batch_size=1),),
    product="scene",
    variants={"sds": {"distill.scene.loss": score_distillation()}},
    deviates=("the negative prompt is a class of the teacher, by default its last, instead of words",),
)
