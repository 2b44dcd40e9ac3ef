"""Claim: adapters that learn on guided trajectories end nearer to guided samples than those that learn on noised data.

Bed: four classes and a small trained teacher, sampled in twenty steps at scales of 1 to 6, one evaluation a step
against two. Noised data are drawn afresh in every step, so that the states are what differs. 0.05 is a third of a
mode's deviation.
The states are all that differs, so the baseline is the control.
"""

from __future__ import annotations

from limbeck.parts.adapters import guided_noised, guided_sample, guided_states
from limbeck.parts.guidance import guidance_scales
from limbeck.parts.schedule import cosine
from limbeck.parts.solver import euler, even, ode_sample
from limbeck.probes.endpoint import endpoint_error
from limbeck.recipe import Arm, Claim, Tune, less

SCALES, TIMES = guidance_scales(low=1.0, high=6.0), even(20)
NOISED = {"distill.data": "train", "distill.student.batch": SCALES >> guided_noised()}
RATES = {"student.optimizer.lr.start": (3e-3, 1e-2)}

claim = Claim(
    bed="mog8c_learnt",
    set={
        "sample.rows": SCALES >> guided_states(solver=euler(), times=TIMES), "sample.chunk": 0,
        "distill.steps": 600, "distill.batch_size": 256, "student.optimizer.lr": cosine(start=1e-2),
    },
    arms={"agd": Arm(), "noised": Arm(set=NOISED)},
    probes={
        "error": endpoint_error(
            draw=SCALES >> ode_sample(solver=euler(), times=TIMES), reference=SCALES >> guided_sample(times=TIMES)
        )
    },
    says=(less("error", "agd", "noised", by=0.05),),
    tune=Tune("error", {"agd": RATES, "noised": RATES}),
    control="noised",
)  # fmt: skip
