"""ED-NeRF: a scene of latents, fitted through a refinement, then edited by delta denoising inside a region.

Rendering latents costs a fraction of rendering pixels and needs no encoder while it is edited; what a volume of latents
renders is brought to what the encoder gives by a small net. The difference between what the teacher says of the edited
scene under the new prompt and of the source under the old one has none of the noise of score distillation.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.latent_editing import latent_fitting, outside_matching, refined, refinement, reprompted, whole_region
from limbeck.parts.optimizer import adam
from limbeck.parts.score_direction import delta_denoising, score_distillation
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import built, frozen, learning

EDIT = terms(delta=refined(loss=delta_denoising()), outside=1.0 * refined(loss=outside_matching()))
SDS = {"edit.scene.loss": terms(score=refined(loss=score_distillation(scale=7.5))), "edit.scene.batch": reprompted()}
EVERYWHERE = {"edit.scene.batch": whole_region()}

recipe = Recipe(
    key="ed-nerf",
    title="ED-NeRF: Efficient Text-Guided Editing of 3D Scene using Latent Space NeRF",
    paper="arXiv:2310.02712",
    family="score",
    kind="method",
    learns="a scene of latents",
    teacher="white-box",
    players={"scene": learning(adam(lr=5e-3)), "refiner": built(refinement(), adam(lr=1e-3)), "teacher": frozen()},
    stages=(
        Learn("fit", (Phase("scene", ("scene", "refiner"), latent_fitting()),), steps=50_000, batch_size=1),
        Learn("edit", (Phase("scene", ("scene",), EDIT),), steps=3_000, batch_size=1),
    ),
    product="scene",
    variants={"sds": SDS, "no-region": EVERYWHERE},
    deviates=(
        "the refinement is made of residual convolutions, without the self-attention between them",
        "the region is a column of the data, where the paper segments what the source prompt names",
        "no additional reference prompt, which the paper offers to strengthen the edit",
        "steps and weights are not from the code, of which none is public",
    ),
)
