"""Claim: asking a teacher for embeddings beats learning from labels alone where labels are wrong, for it needs none.

Bed: a fifth of the labels are wrong; where they are right nothing is claimed. The control learns what the
teacher said of other rows.
"""

from __future__ import annotations

from limbeck.parts.embedding import remember
from limbeck.parts.shuffled import shuffled
from limbeck.probes.classification import accuracy
from limbeck.recipe import Arm, Claim, Tune, more

LOGITS = {"ask.rows.want": "logits", "distill.student.loss.want": "logits"}
SHUFFLED = {
    "ask.rows": remember(want="logits") >> shuffled(columns=("cache.logits",)), "distill.student.loss.want": "logits",
}  # fmt: skip
RATES = {"student.optimizer.lr.start": (1e-3, 3e-3, 1e-2)}

claim = Claim(
    bed="digits_noisy",
    arms={"embedding-mse": Arm(set=LOGITS), "alone": Arm("alone"), "shuffled": Arm(set=SHUFFLED)},
    probes={"accuracy": accuracy()},
    says=(more("accuracy", "embedding-mse", "alone", by=0.01),),
    set={"distill.steps": 400, "distill.batch_size": 32},
    tune=Tune("accuracy", {arm: RATES for arm in ("embedding-mse", "alone", "shuffled")}, seeds=2),
    seeds=5,
    control="shuffled",
)
