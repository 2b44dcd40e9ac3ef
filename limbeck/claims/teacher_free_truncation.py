"""Claim: layers of a deep model that go on learning beat a fresh model, and, at equal cost, lessons from the deep one.

Bed: a deep teacher of characters. Cost is counted in operations: for each token a pass takes 2 x 10 d^2 for a layer's
matrices, 4 T d for its attention and 2 V d for the head; a step is three passes of the student, and with lessons one
more of the teacher. So lessons have fewer steps. The control begins with the same weights, in a random order within
each matrix.
"""

from __future__ import annotations

from limbeck.beds.chars import WINDOW, alphabet
from limbeck.beds.chars_deep import LAYERS, WIDTH
from limbeck.part import terms
from limbeck.parts.scrambled import scrambled
from limbeck.parts.token import cross_entropy, forward_kl
from limbeck.probes.language import nll
from limbeck.recipe import Arm, Claim, Tune, less

STEPS = 200
LAYER, HEAD = 20 * WIDTH**2 + 4 * WINDOW * WIDTH, 2 * alphabet().size * WIDTH
SHALLOW, DEEP = LAYERS // 2 * LAYER + HEAD, LAYERS * LAYER + HEAD
LESSONS = round(STEPS * 3 * SHALLOW / (3 * SHALLOW + DEEP))
RATES = {"student.optimizer.lr.start": (1e-3, 3e-3, 1e-2)}
kd = terms(labels=0.5 * cross_entropy(), teacher=0.5 * forward_kl())

claim = Claim(
    bed="chars_deep",
    arms={
        "truncated": Arm(), "lessons": Arm(set={"distill.student.loss": kd, "distill.steps": LESSONS}),
        "fresh": Arm("sft"), "scrambled": Arm(set={"student.builder": scrambled()}),
    },
    probes={"nll": nll()},
    says=(less("nll", "truncated", "fresh", by=0.1), less("nll", "truncated", "lessons", by=0.0)),
    set={"distill.steps": STEPS, "distill.batch_size": 16},
    tune=Tune("nll", dict.fromkeys(("truncated", "lessons", "fresh", "scrambled"), RATES)),
    control="scrambled",
)  # fmt: skip
