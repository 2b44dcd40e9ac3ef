"""Claim: the way along the difference of two fields is shorter than that by the datum's noise.

Bed: classes that lie beside each other on a circle, an eighth of it apart. At 66 to 68 evaluations, and the scale of
guidance that brings each arm nearest to the class wanted, edits move data less by 0.3, a fifth of the distance between
neighbours; data that are noised half-way move as far or further, and end further from the class.
The control follows the wanted field alone, as often and from the same level.
"""

from __future__ import annotations

from limbeck.parts.editing import flow_edit, noise_edit, retargeted
from limbeck.parts.injection import feature_edit
from limbeck.parts.solver import even
from limbeck.probes.editing import class_distance, displacement, target_accuracy
from limbeck.recipe import Arm, Claim, Tune, less

SCALES = (1.0, 1.5, 2.0, 3.0)
EDITS = {
    "flowedit": flow_edit(times=even(25), skip=8, source=1.0, target=1.5),
    "inversion": feature_edit(times=even(11), kept=0),
    "noised": noise_edit(times=even(34, 0.5)),
    "no difference": flow_edit(times=even(50), skip=16, plain=34, source=1.0, target=1.5),
}

claim = Claim(
    bed="mog8c",
    set={"edit.data": "train", "edit.chunk": 0},
    arms={name: Arm(set={"edit.rows": retargeted() >> edit}) for name, edit in EDITS.items()},
    probes={"distance": class_distance(), "cost": displacement(), "accuracy": target_accuracy()},
    says=(less("cost", "flowedit", "inversion", by=0.3), less("distance", "flowedit", "noised", by=0.05)),
    tune=Tune(
        "distance",
        {
            "flowedit": {"edit.rows.flow_edit.source": (1.0, 1.5), "edit.rows.flow_edit.target": (1.5, 2.0)},
            "inversion": {"edit.rows.feature_edit.target": SCALES},
            "no difference": {"edit.rows.flow_edit.target": SCALES},
            "noised": {"edit.rows.noise_edit.target": SCALES},
        },
    ),
    players={"student": "teacher"},
    control="no difference",
)  # fmt: skip
