"""Claim: prompts weighed by p (1 - p) teach more than prompts weighed alike, and forward before reverse KL no less.

Bed: every answer can be checked, so pass rates are true ones. The control gives each prompt the weight of another.
"""

from __future__ import annotations

from limbeck.beds.arith import right_answer
from limbeck.parts.pacing import pace, paced, rated
from limbeck.parts.rollout import rollout
from limbeck.parts.shuffled import shuffled
from limbeck.parts.token import forward_kl, reverse_kl, sequence_mean
from limbeck.parts.trace import first
from limbeck.probes.gradient import gradient_snr
from limbeck.probes.language import answer_accuracy
from limbeck.recipe import Arm, Claim, Tune, more

said = rollout(max_new_tokens=24)
RATES = {"student.optimizer.lr.start": (1e-3, 3e-3)}
ROUNDS, ARMS = ("cover", "consolidate"), ("paced", "shuffled", "uniform", "reverse first")
UNIFORM = {f"{r}.weigh.rows.{name}": 0.0 for r in ROUNDS for name in ("alpha", "beta")}
SHUFFLED = {f"{r}.weigh.rows": paced() >> shuffled(columns=("weight",)) for r in ROUNDS}
LOSS, BATCH = "learn.student.loss", "learn.student.batch"

claim = Claim(
    bed="arith",
    arms={
        "paced": Arm(), "uniform": Arm(set=UNIFORM), "shuffled": Arm(set=SHUFFLED),
        "reverse first": Arm(set={
            f"cover.{LOSS}": pace() * (sequence_mean() * reverse_kl()), f"cover.{BATCH}": said,
            f"consolidate.{LOSS}": pace() * (sequence_mean() * forward_kl()), f"consolidate.{BATCH}": None,
        }),
    },
    probes={
        "accuracy": answer_accuracy(verifier=right_answer(), limit=0, max_new_tokens=24),
        "snr_low": gradient_snr(low=0.0, high=0.1), "snr_middle": gradient_snr(low=0.3, high=0.7),
        "snr_high": gradient_snr(low=0.9, high=1.0),
    },
    says=(more("accuracy", "paced", "uniform", by=0.02), more("accuracy", "paced", "reverse first", by=0.0)),
    set={
        "ask.rows": first(rows=96) >> said.on(student="teacher"), "ask.chunk": 0,
        **{f"{r}.rate.rows": rated(said=said, verifier=right_answer()) for r in ROUNDS},
        **{f"{r}.rate.chunk": 0 for r in ROUNDS}, **{f"{r}.learn.batch_size": 24 for r in ROUNDS},
        f"consolidate.{BATCH}.max_new_tokens": 24, "cover.learn.steps": 40, "consolidate.learn.steps": 20,
    },
    tune=Tune("accuracy", dict.fromkeys(ARMS, RATES)),
    players={"student": "warm_student"}, control="shuffled",
)  # fmt: skip
