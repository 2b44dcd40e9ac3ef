"""Claim: particles under the variational score spread as the data do; under score distillation they fall onto points.

Bed: fields of each class and of none in closed form, so that guidance is exact; a scene is a point, seen as it is.
Every arm may choose its guidance. The control has a critic that never learns.
"""

from __future__ import annotations

from limbeck.parts.optimizer import adam
from limbeck.parts.scene import particles, rendered
from limbeck.parts.schedule import linear
from limbeck.probes.distribution import mode_recall, sliced_w2
from limbeck.probes.scenes import spread_error
from limbeck.recipe import Arm, Claim, Tune, less
from limbeck.recipes.score.prolificdreamer import SDS
from limbeck.roles import built, learning

SEEN = rendered()
STILL = {"critic.optimizer.lr": 0.0}
GRID = {"distill.scene.loss.scale": (1.0, 2.0, 4.0, 7.5)}
QUICK = {
    "scene": built(particles(count=64), adam(lr=linear(start=5e-2, end=1e-3))), "critic": learning(adam(lr=5e-3)),
    "distill.steps": 400, "distill.batch_size": 256,
}  # fmt: skip

claim = Claim(
    bed="mog8c",
    set=QUICK,
    arms={"vsd": Arm(), "sds": Arm(set=SDS), "critic stands still": Arm(set=STILL)},
    probes={"sw2": sliced_w2(draw=SEEN), "spread": spread_error(draw=SEEN), "recall": mode_recall(draw=SEEN)},
    says=(less("sw2", "vsd", "sds", by=0.05), less("spread", "vsd", "sds", by=0.25)),
    tune=Tune("sw2", {"vsd": GRID, "sds": GRID, "critic stands still": GRID}),
    control="critic stands still",
)
