"""Claim: distilling the few tokens that matter, and them alone, beats rewards at equal updates.

Bed: the base player has learnt wrong products, and does better when the operation is named; the annotator knows the
first wrong step. A weak base, so error spans; its certainty makes terms large, which are held below 5 instead of 0.05:
where a term is cut, nothing is learned. The likeliest answers are marked. The control marks the step before.
"""

from __future__ import annotations

from limbeck.beds.hints import HINT, right_answer
from limbeck.parts.policy import clipped_surrogate
from limbeck.probes.hint_spans import another_step, step_that_matters
from limbeck.probes.language import answer_accuracy
from limbeck.recipe import Arm, Claim, Tune, more

RATES = {"student.optimizer.lr": (5e-4, 1e-3, 2e-3)}
WEAK, LOSS, BATCH = {"variant": "error-spans"}, "distill.student.loss", "distill.student.batch"
HELD = {f"{LOSS}.kl.loss.most": 5.0}

claim = Claim(
    bed="hints_misled",
    arms={
        "trace": Arm(set=WEAK | HELD), "grpo": Arm(set={LOSS: clipped_surrogate(high=0.28)}),
        "beside": Arm(set=WEAK | HELD | {f"{BATCH}.annotated.annotator": another_step()}),
    },
    probes={"accuracy": answer_accuracy(verifier=right_answer(), temperature=0.0, max_new_tokens=8, limit=0)},
    says=(more("accuracy", "trace", "grpo", by=0.03),),
    set={
        "distill.steps": 16, "distill.batch_size": 8, "past.every": 5, "teacher.context.template": HINT,
        f"{BATCH}.rollout.max_new_tokens": 8, f"{BATCH}.graded.verifier": right_answer(),
        f"{BATCH}.annotated.annotator": step_that_matters(),
        f"{LOSS}.grpo.weight.share.hold": 8, f"{LOSS}.grpo.weight.share.fall": 8,
        f"{LOSS}.kl.strength.hold": 8, f"{LOSS}.kl.strength.fall": 8,
    },
    tune=Tune("accuracy", dict.fromkeys(("trace", "grpo", "beside"), RATES)),
    players={"student": "base"}, control="beside",
)  # fmt: skip
