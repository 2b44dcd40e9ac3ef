"""Claim: taught block by block, a grid shows unseen views better than one taught by rays alone or by pictures.

Bed: the teacher is a field in closed form and the training pictures are exact, so neither of them is to blame.
"""

from __future__ import annotations

from limbeck.parts.volume_distillation import picture_matching
from limbeck.probes.scenes import psnr
from limbeck.recipe import Arm, Claim, Tune, more

STEPS = {"features.steps": 30, "points.steps": 60, "rays.steps": 110}
ONE_STAGE = {"features.steps": 1, "points.steps": 1, "rays.steps": 198}
ROWS = {"features.batch_size": 128, "points.batch_size": 128, "rays.batch_size": 128}
PICTURES = {"rays.student.loss": picture_matching(), "rays.student.batch": None}
GRID = {"student.optimizer.lr": (1e-2, 3e-2, 6e-2)}
ARMS = {"pvd": Arm(), "rays alone": Arm(set=ONE_STAGE), "pictures": Arm(set=ONE_STAGE | PICTURES)}

claim = Claim(
    bed="vox",
    set=STEPS | ROWS,
    arms=ARMS,
    probes={"psnr": psnr()},
    says=(more("psnr", "pvd", "pictures", by=3.0), more("psnr", "pvd", "rays alone", by=1.0)),
    tune=Tune("psnr", dict.fromkeys(ARMS, GRID)),
    control="rays alone",
)
