"""Claim: after one reflow, levels that crowd at both ends and a loss that grows as the error make a better single step.

The baseline is plain reflow on the same pairs: even levels and the square. The control keeps the levels and takes the
square. Bed: pairs of the exact flow.
"""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.flow_matching import flow_matching
from limbeck.parts.pairs import ALL
from limbeck.parts.schedule import cosine
from limbeck.parts.states import few_step
from limbeck.probes.distribution import sliced_w2
from limbeck.probes.straightness import curvature
from limbeck.recipe import Arm, Claim, Tune, less

SQUARE = {"reflow.student.loss": terms(flow=flow_matching())}
GRID = {"student.optimizer.lr.start": (5e-3, 1e-2)}
EVEN = {"reflow.student.batch.levels": ALL}
ARMS = {"rfpp": Arm(), "plain": Arm(set=SQUARE | EVEN), "square": Arm(set=SQUARE)}

claim = Claim(
    bed="mog8",
    set={"ask.chunk": 0, "reflow.steps": 600, "reflow.batch_size": 256, "student.optimizer.lr": cosine(start=5e-3)},
    arms=ARMS,
    probes={"sw2": sliced_w2(draw=few_step()), "bend": curvature()},
    says=(less("sw2", "rfpp", "plain", by=0.02),),
    tune=Tune("sw2", dict.fromkeys(ARMS, GRID)),
    control="square",
)
