"""Claim: taught block by block, a grid shows unseen views better than one taught by rays alone or by pictures.

Bed: the teacher is a field in closed form and the training pictures are exact, so neither of them is to blame. In the
control the blocks are taught as long, with what the teacher says along other rays.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.shuffled import misled
from limbeck.parts.volume_distillation import picture_matching
from limbeck.probes.scenes import psnr
from limbeck.recipe import Arm, Claim, Tune, more
from limbeck.recipes.score.pvd import COLOUR, DENSITY, FEATURES

STEPS = {"features.steps": 30, "points.steps": 60, "rays.steps": 110}
ONE_STAGE = {"features.steps": 1, "points.steps": 1, "rays.steps": 198}
ROWS = {"features.batch_size": 128, "points.batch_size": 128, "rays.batch_size": 128}
PICTURES = {"rays.student.loss": picture_matching(), "rays.student.batch": None}
OTHERS = {
    name: 2e-3 * misled(loss=loss) for name, loss in (("features", FEATURES), ("density", DENSITY), ("colour", COLOUR))
}
MISLED = {"features.student.loss": terms(features=OTHERS["features"]), "points.student.loss": terms(**OTHERS)}
GRID = {"student.optimizer.lr": (1e-2, 3e-2, 6e-2)}
ARMS = {
    "pvd": Arm(),
    "rays alone": Arm(set=ONE_STAGE),
    "pictures": Arm(set=ONE_STAGE | PICTURES),
    "misled": Arm(set=MISLED),
}

claim = Claim(
    bed="vox",
    set=STEPS | ROWS,
    arms=ARMS,
    probes={"psnr": psnr()},
    says=(more("psnr", "pvd", "pictures", by=3.0), more("psnr", "pvd", "rays alone", by=1.0)),
    tune=Tune("psnr", dict.fromkeys(ARMS, GRID)),
    control="misled",
)
