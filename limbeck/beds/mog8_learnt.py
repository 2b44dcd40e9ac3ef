"""Eight equal Gaussians on a circle of radius 2, with a teacher trained on them; the student starts as the teacher.

Where data are rare the teacher errs, as trained fields do; the exact field is there to tell by how much. The student's
first samples, the teacher's at pure noise, all lie near the centre, where there are no data.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

import limbeck.assets
from limbeck.beds._nets import fresh
from limbeck.beds.mog8 import bed as exact

__all__ = ["TEACHER", "bed"]

TEACHER = Path(limbeck.assets.__file__).parent / "mog8-teacher" / "model.safetensors"


def _teacher(_seed: int) -> nn.Module:
    net = fresh(0, 2)
    net.load_state_dict(load_file(TEACHER))
    return net


bed = replace(
    exact,
    key="mog8_learnt",
    about="mog8 with a trained teacher, which errs where data are rare; the student starts as the teacher",
    players={**exact.players, "teacher": _teacher, "student": _teacher},
)
