"""Claim: noise is not aligned, a teacher with the reference in view is, and more on wrong answers than on right ones.

Bed: answers are so short that what a token is worth can be followed through exactly.
That the control is not aligned is claimed as well.
"""

from __future__ import annotations

from limbeck.beds.hints import HINT, right_answer
from limbeck.parts.noisy import noisy
from limbeck.probes.alignment_score import alignment_error, alignment_gap, alignment_score
from limbeck.recipe import Arm, Claim, more, within
from limbeck.roles import built

ROWS = "survey.rows"

claim = Claim(
    bed="hints",
    arms={
        "reference": Arm(), "noise": Arm(set={"teacher": built(noisy())}),
        "answer": Arm(set={"teacher.context.column": "answer", "teacher.context.template": "?>{told}="}),
    },
    probes={
        "score": alignment_score(), "gap": alignment_gap(),
        "error": alignment_error(verifier=right_answer(), max_new_tokens=8, limit=64),
    },
    says=(
        more("score", "reference", "noise", by=0.2), more("gap", "reference", "noise", by=0.05),
        more("gap", "answer", "noise", by=0.05), within("score", "noise", 0.15), within("error", "reference", 0.05),
    ),
    set={
        "teacher.context.template": HINT, "survey.chunk": 512, f"{ROWS}.thinned.share": 0.2,
        f"{ROWS}.branched.copies": 4,
        f"{ROWS}.rollout.max_new_tokens": 8, f"{ROWS}.graded.verifier": right_answer(),
        f"{ROWS}.branched.verifier": right_answer(), f"{ROWS}.branched.max_new_tokens": 8,
    },
    players={"student": "base"}, control="noise", no_tune="nothing learns",
)  # fmt: skip
