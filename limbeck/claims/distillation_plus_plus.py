"""Claim: one evaluation of the teacher, at the first step, mends much of what a hurried student does wrong.

Bed: a student of four steps that was distilled too briefly, and the exact field of trajectories that bend, which by
itself has as many evaluations as student and correction together. The student is off by 0.13; a tenth of that counts.
In the control the student is asked again in the teacher's place.
"""

from __future__ import annotations

from limbeck.parts.solver import euler, even, ode_sample
from limbeck.parts.steered import steered
from limbeck.probes.made import made_sw2
from limbeck.recipe import Arm, Claim, less

ALONE = ode_sample(solver=euler(), times=even(5)).on(student="teacher")
ITSELF = steered().on(teacher="student")

claim = Claim(
    bed="mog5_hurried",
    set={"draw.chunk": 0},
    arms={
        "distillation-plus-plus": Arm(),
        "asked again": Arm(set={"draw.rows.sampler": ITSELF}),
        "student": Arm(set={"draw.rows.sampler.share": 0.0}),
        "teacher": Arm(set={"draw.rows.sampler": ALONE}),
    },
    probes={"sw2": made_sw2(made="drawn")},
    says=(
        less("sw2", "distillation-plus-plus", "student", by=0.013),
        less("sw2", "distillation-plus-plus", "teacher", by=0.02),
    ),
    no_tune="nothing is learned: the share of the teacher is 0.2, as the method is described, and all levels are even",
    control="asked again",
)  # fmt: skip
