"""Claim: by way of the marks the student is nearer to the data after the same steps than by plain matching.

The steps in which only the critic learns count: plain matching trains in them. In the control the critic's
steps come after the marks, which so are all the teacher itself.

Bed: a trained teacher that errs where the student, which starts as the teacher, has its first samples.
"""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.states import uniform_levels
from limbeck.probes.distribution import mode_quality, mode_recall, sliced_w2
from limbeck.recipe import Arm, Claim, Tune, less
from limbeck.recipes.distribution.disback import BASE

# small nets that must follow a moving target within a few hundred steps
EVEN, QUICK = uniform_levels(), {"betas": (0.5, 0.95)}
STAGES = {"record.degrade": 20, "last": 20, "back.approach": 60, "distill": 160}
CRITICS = {f"{stage}.critic.loss.{k}": v for stage in STAGES for k, v in (("levels", EVEN), ("sigma_data", 1.4))}
MARKS = {"record.degrade.steps": 1, "last.steps": 77}
RATES = {"student.optimizer.lr": (5e-4, 1e-3, 2e-3)}

claim = Claim(
    bed="mog8_learnt",
    set={
        **{f"{stage}.steps": steps for stage, steps in STAGES.items()}, **CRITICS,
        **{f"{stage}.batch_size": 128 for stage in STAGES},
        **{f"{stage}.student.loss.levels": EVEN for stage in ("back.approach", "distill")},
        "critic.optimizer": adamw(lr=2e-3, **QUICK), "student.optimizer": adamw(lr=1e-3, **QUICK),
    },
    arms={"disback": Arm(), "base": Arm(set={**BASE, "distill.steps": 420}), "no marks": Arm(set=MARKS)},
    probes={"sw2": sliced_w2(), "recall": mode_recall(), "quality": mode_quality()},
    says=(less("sw2", "disback", "base", by=0.05),),
    tune=Tune("sw2", dict.fromkeys(("disback", "base", "no marks"), RATES)),
    control="no marks",
)  # fmt: skip
