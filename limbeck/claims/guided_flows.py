"""Claim: guidance of a flow that has also learnt to go without class samples the class more surely.

The baseline is the same training, sampled without guidance; the control never drops a class, so that guidance has
nothing to push away from. Bed: four classes whose fields are known, and a net that has learnt them for a short while.
"""

from __future__ import annotations

from limbeck.parts.schedule import cosine
from limbeck.parts.solver import even, midpoint, ode_sample
from limbeck.probes.samplers import class_purity, class_w2
from limbeck.recipe import Arm, Claim, Tune, more

DRAW = ode_sample(solver=midpoint(), times=even(8)).on(student="guided")
RATES = (2.5e-3, 5e-3)
SCALES = {"guided.builder.scale": (1.5, 2.0), "student.optimizer.lr.start": RATES}
PLAIN = {"fit.student.batch.dropped_labels.share": (0.0, 0.2), "student.optimizer.lr.start": RATES}
ARMS = {
    "guided": Arm(),
    "plain": Arm(set={"guided.builder.scale": 1.0}),
    "never without class": Arm(set={"fit.student.batch.dropped_labels.share": 0.0}),
}

claim = Claim(
    bed="mog8c",
    set={"fit.steps": 400, "student.optimizer.lr": cosine(start=5e-3)},
    arms=ARMS,
    probes={"purity": class_purity(draw=DRAW), "w2": class_w2(draw=DRAW)},
    says=(more("purity", "guided", "plain", by=0.03),),
    tune=Tune("purity", {"guided": SCALES, "plain": PLAIN, "never without class": SCALES}),
    control="never without class",
)
