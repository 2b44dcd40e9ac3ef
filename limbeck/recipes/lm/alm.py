"""ALM: a student of another tokenizer learns to find pieces of text as likely as its teacher does."""

from __future__ import annotations

from limbeck.parts.chunks import chunk_kl, chunk_kl_limit, in_teacher_tokens, joined, teacher_tokens
from limbeck.parts.optimizer import adamw
from limbeck.parts.schedule import cosine
from limbeck.recipe import Learn, Make, Phase, Recipe
from limbeck.recipes.baselines.sft import warm_up
from limbeck.roles import frozen, learning

recipe = Recipe(
    key="alm", title="Cross-Tokenizer Distillation via Approximate Likelihood Matching", paper="arXiv:2503.20083",
    family="lm", kind="method", learns="student weights", teacher="white-box",
    players={
        "student": learning(adamw(lr=cosine(start=1e-5, warmup=0.4), betas=(0.9, 0.95))), "teacher": frozen(),
    },
    stages=(
        warm_up,
        Make("align", rows=in_teacher_tokens() >> joined(threshold=0.1), into="aligned"),
        Learn(
            "distill", (Phase("student", ("student",), teacher_tokens() * chunk_kl(tau=100.0)),),
            steps=5_000, batch_size=16, data="aligned",
        ),
    ),
    variants={
        "limit": {"distill.student.loss": teacher_tokens() * chunk_kl_limit()},
        "chunks-alike": {"distill.student.loss": chunk_kl(tau=100.0)},
        "same-family": {"align.rows.joined.threshold": 1e-4}, "biased": {"align.rows": in_teacher_tokens()},
    },
    deviates=(
        "the loss alone: no hidden states, no balance of several losses by their gradients, no embeddings made anew",
        "a boundary stands or falls by the mass that each model puts beyond it in context, when the rows are made; "
        "the code takes frequencies of tokens from a table of pairs, and counts tokens that begin earlier too",
        "KL in place of the cross-entropy of coins: the same gradient; the mean is over the student's target tokens",
        "all weights learn, where the paper's students mostly learn by LoRA: give one as lora:rank=64:./student",
    ),
)  # fmt: skip
