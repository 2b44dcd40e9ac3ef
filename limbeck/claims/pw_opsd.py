"""Claim: the place tells which teacher tokens lead to success, so late ones should weigh more; not the other way round.

Bed: the student errs at a known rate in every step. The teacher is told the result alone, so that it knows the last
step better than the others; told the whole reference it knows all of them, and there is nothing to weigh. Terms may be
1 large: with the published 0.05, a teacher that is so certain is cut off nearly everywhere, and accuracy falls.
That the control, which weighs early tokens more, is worse is claimed as well.
"""

from __future__ import annotations

from limbeck.beds.hints import right_answer
from limbeck.probes.branch_viability import local_auroc, position_auroc, position_shortfall
from limbeck.probes.gain import answer_gain
from limbeck.recipe import Arm, Claim, Tune, more, within

RATES = {"student.optimizer.lr": (1e-4, 3e-4, 1e-3)}
WEIGHT, ROWS = "distill.student.loss.weight", "diagnose.survey.rows"

claim = Claim(
    bed="hints",
    arms={
        "later": Arm(), "uniform": Arm(set={f"{WEIGHT}.least": 1.0}),
        "earlier": Arm(set={f"{WEIGHT}.middle": 0.7, f"{WEIGHT}.width": -0.1}),
    },
    probes={
        "gain": answer_gain(verifier=right_answer(), than="base", max_new_tokens=8, limit=0),
        "position": position_auroc(), "local": local_auroc(), "shortfall": position_shortfall(least=0.1),
    },
    says=(
        more("gain", "later", "uniform", by=0.01), more("gain", "later", "earlier", by=0.01),
        within("shortfall", "later", 0.0),
    ),
    set={
        "teacher.context.column": "answer", "teacher.context.template": "?>{told}=",
        "diagnose.times": 1, "diagnose.survey.chunk": 512, f"{ROWS}.thinned.share": 0.1,
        **{f"{path}.rollout.max_new_tokens": 8 for path in (ROWS, "distill.student.batch")},
        f"{ROWS}.graded.verifier": right_answer(), f"{ROWS}.branched.verifier": right_answer(),
        f"{ROWS}.branched.max_new_tokens": 8, "distill.student.loss.most": 1.0, "distill.steps": 20,
        "distill.batch_size": 16,
    },
    tune=Tune("gain", dict.fromkeys(("later", "uniform", "earlier"), RATES)),
    players={"student": "base"}, control="earlier",
)  # fmt: skip
