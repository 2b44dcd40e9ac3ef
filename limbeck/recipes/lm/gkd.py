"""GKD: learn on one's own answers, from the teacher's whole distribution, by a divergence of one's choice."""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.rollout import mixed, rollout
from limbeck.parts.schedule import cosine
from limbeck.parts.token import jsd, sequence_mean
from limbeck.probes.enumerated import sequence_kl_reverse
from limbeck.recipe import Arm, Claim, Learn, Phase, Recipe, Tune, less
from limbeck.recipes.baselines.sft import warm_up
from limbeck.roles import frozen, learning

RATES = {"student.optimizer.lr.start": (1e-2, 3e-2, 1e-1)}
REVERSE = {"distill.student.loss.beta": 1.0, "distill.student.batch.on_policy.max_new_tokens": 6}

claim = Claim(
    bed="oracle_lm",
    arms={
        "on-policy": Arm(set=REVERSE), "off-policy": Arm(set={**REVERSE, "distill.student.batch.share": 0.0}),
        "kd": Arm("kd"), "seqkd": Arm("seqkd", set={"ask.rows.max_new_tokens": 6}), "sft": Arm("sft"),
    },
    probes={"sequence_kl_reverse": sequence_kl_reverse()},
    says=(
        less("sequence_kl_reverse", "on-policy", "kd", by=0.2),
        less("sequence_kl_reverse", "on-policy", "seqkd", by=0.2),
        less("sequence_kl_reverse", "on-policy", "sft", by=0.2),
        less("sequence_kl_reverse", "on-policy", "off-policy", by=0.2),
    ),
    set={"warm.steps": 120, "warm.batch_size": 64, "distill.steps": 150, "distill.batch_size": 64},
    tune=Tune("sequence_kl_reverse", dict.fromkeys(("on-policy", "off-policy", "kd", "seqkd", "sft"), RATES)),
    seeds=6, control="off-policy",
)  # fmt: skip

recipe = Recipe(
    key="gkd", title="On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
    paper="arXiv:2306.13649", family="lm", kind="method", learns="student weights", teacher="white-box",
    players={"student": learning(adamw(lr=cosine(start=3e-4, warmup=0.05))), "teacher": frozen()},
    stages=(
        warm_up,
        Learn(
            "distill",
            phases=(
                Phase(
                    "student", learns=("student",), batch=mixed(on_policy=rollout(max_new_tokens=64), share=1.0),
                    loss=sequence_mean() * jsd(beta=0.9),
                ),
            ),
            steps=40_000, batch_size=32,
        ),
    ),
    variants={
        "mixed": {"distill.student.batch.share": 0.5}, "supervised": {"distill.student.batch.share": 0.0},
        "jsd-0.1": {"distill.student.loss.beta": 0.1}, "jsd-0.5": {"distill.student.loss.beta": 0.5},
        "forward-kl": {"distill.student.loss.beta": 0.0}, "reverse-kl": {"distill.student.loss.beta": 1.0},
    },
    deviates=(
        "AdamW with a cosine instead of Adafactor, whose rate is constant before it falls: the loop's usual optimiser",
        "beta = 0 and 1 give forward and reverse KL, the limits of JSD / beta and JSD / (1 - beta), where JSD is 0",
    ),
    claim=claim,
)  # fmt: skip
