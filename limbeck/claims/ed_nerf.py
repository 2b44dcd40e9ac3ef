"""Claim: delta denoising in a region makes the new object better than score distillation and leaves the rest alone.

Bed: the field of every prompt is exact, the background of the scene is new to it, and the right edit is known.
The control looks for the region where another view has it.
"""

from __future__ import annotations

from limbeck.parts.shuffled import shuffled
from limbeck.probes.scenes import edit_error
from limbeck.recipe import Arm, Claim, Tune, less
from limbeck.recipes.score.ed_nerf import EVERYWHERE, SDS

SIZE = {"fit.steps": 150, "fit.batch_size": 8, "edit.steps": 120, "edit.batch_size": 8}
RATES = {"scene.optimizer.lr": (2e-2, 4e-2)}
DELTA = RATES | {"edit.scene.loss.delta.loss.scale": (1.0, 2.0)}
SCORE = RATES | {"edit.scene.loss.score.loss.scale": (1.0, 2.0)}

claim = Claim(
    bed="edit",
    set=SIZE | {"refiner.builder.width": 16, "refiner.optimizer.lr": 5e-3},
    arms={
        "ed-nerf": Arm(),
        "sds": Arm(set=SDS),
        "no region": Arm(set=EVERYWHERE),
        "another region": Arm(set={"edit.scene.batch": shuffled(columns=("region",))}),
    },
    probes={
        "error": edit_error(),
        "object": edit_error(outside=False),
        "background": edit_error(inside=False),
    },
    says=(less("object", "ed-nerf", "sds", by=0.04), less("background", "ed-nerf", "no region", by=0.05)),
    tune=Tune("error", {"ed-nerf": DELTA, "sds": SCORE, "no region": DELTA, "another region": DELTA}),
    control="another region",
)
