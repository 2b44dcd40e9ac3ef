"""Self-data distillation: a model without its idlest layers learns from answers that the whole model wrote again."""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.rewriting import rewritten
from limbeck.parts.schedule import cosine
from limbeck.parts.truncated import closest_block, truncated
from limbeck.recipe import Learn, Make, Recipe, Solve
from limbeck.recipes.baselines.sft import imitate
from limbeck.roles import built, frozen

recipe = Recipe(
    key="self-data-distill",
    title="Self-Data Distillation for Recovering Quality in Pruned Large Language Models",
    paper="arXiv:2410.09982",
    family="lm",
    kind="method",
    learns="student weights",
    teacher="white-box",
    players={
        "student": built(truncated(share=26 / 32), adamw(lr=cosine(start=1e-4, warmup=0.05))),
        "teacher": frozen(),
    },
    stages=(
        Solve("prune", closest_block(), learns=("student",), batch_size=128),
        Make("rewrite", rewritten().on(student="teacher"), into="rewritten"),
        Learn("distill", imitate, epochs=1.0, batch_size=32, data="rewritten"),
    ),
    deviates=(
        "all weights learn; the paper trains low-rank ones, whose rank and rate were not at hand",
        "the reference is shown as an earlier answer that is to be written again, not inside a prompt",
        "models recovered on several sets of data are not merged",
    ),
)
