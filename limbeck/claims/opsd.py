"""Claim: with the reference in view one teaches oneself more than by imitating it, or by rewards for four times as much.

Bed: the base player is right half the time, and nearly always once it has read the textbook's answer, whose style is
not its own. GRPO draws 64 answers a step, the others have 16; all take as many steps.
"""

from __future__ import annotations

from limbeck.beds.hints import HINT, right_answer
from limbeck.parts.policy import clipped_surrogate, graded, group_relative
from limbeck.parts.rollout import rollout
from limbeck.parts.transcript import repeated
from limbeck.probes.gain import answer_gain
from limbeck.recipe import Arm, Claim, Tune, more, within
from limbeck.roles import copy_of

BATCH, LOSS = "distill.student.batch", "distill.student.loss"
marked = graded(verifier=right_answer()) >> group_relative(copies=8)
RATES = {"student.optimizer.lr": (3e-4, 1e-3, 3e-3)}
sft = {"student.optimizer.lr.start": RATES["student.optimizer.lr"]}

claim = Claim(
    bed="hints",
    arms={
        "opsd": Arm(), "sft": Arm("sft"), "untold": Arm(set={"teacher": copy_of("student")}),
        "grpo": Arm(
            set={
                BATCH: repeated(copies=8) >> rollout(max_new_tokens=8) >> marked, LOSS: clipped_surrogate(),
                "distill.batch_size": 8,
            }
        ),
    },
    probes={"gain": answer_gain(verifier=right_answer(), than="base", max_new_tokens=8, limit=0)},
    says=(more("gain", "opsd", "sft", by=0.1), more("gain", "opsd", "grpo", by=0.05), within("gain", "untold", 0.02)),
    set={
        "teacher.context.template": HINT, f"{BATCH}.rollout.max_new_tokens": 8,
        "distill.steps": 30, "distill.batch_size": 16,
    },
    tune=Tune("gain", {"opsd": RATES, "sft": sft, "untold": RATES, "grpo": RATES}),
    players={"student": "base"}, control="untold",
)  # fmt: skip
