"""Claim: pictures drawn by the noise-free score come nearer to the data than those of score distillation.

Bed: the teacher is trained, so that what it takes for noise is not the noise that was drawn. Every arm may choose its
guidance; the control has no negative prompt.
"""

from __future__ import annotations

from limbeck.parts.optimizer import adam
from limbeck.parts.scene import particles, rendered
from limbeck.parts.schedule import linear
from limbeck.parts.score_direction import score_distillation
from limbeck.probes.distribution import energy_distance
from limbeck.probes.scenes import drawn_accuracy, sharpness_error
from limbeck.recipe import Arm, Claim, Tune, less
from limbeck.roles import built

SEEN = rendered()
PICTURES = built(particles(count=16, spread=0.5, limit=1.0), adam(lr=linear(start=3e-2, end=3e-3)))
SDS = {"distill.scene.loss": score_distillation()}
SCALE = "distill.scene.loss.scale"
NOMINAL = {SCALE: (1.0, 2.0, 4.0, 7.5)}

claim = Claim(
    bed="digits_flawed",
    set={"scene": PICTURES, "distill.steps": 300, "distill.batch_size": 160},
    arms={"nfsd": Arm(), "sds": Arm(set=SDS), "no negative": Arm(set={"distill.scene.loss.negative": 0})},
    probes={"energy": energy_distance(draw=SEEN, rows=500), "accuracy": drawn_accuracy(), "detail": sharpness_error()},
    says=(less("energy", "nfsd", "sds", by=0.05),),
    tune=Tune("energy", {"nfsd": NOMINAL, "no negative": NOMINAL, "sds": {SCALE: (1.0, 2.0, 7.5, 100.0)}}),
    control="no negative",
)
