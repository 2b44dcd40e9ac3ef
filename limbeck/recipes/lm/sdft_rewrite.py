"""SDFT: fine-tuning on references that the model itself has written again, in its own manner."""

from __future__ import annotations

from limbeck.parts.optimizer import adamw
from limbeck.parts.rewriting import rewritten
from limbeck.parts.schedule import cosine
from limbeck.recipe import Learn, Make, Recipe
from limbeck.recipes.baselines.sft import imitate
from limbeck.roles import learning

recipe = Recipe(
    key="sdft-rewrite",
    title="Self-Distillation Bridges Distribution Gap in Language Model Fine-Tuning",
    paper="arXiv:2402.13669",
    family="lm",
    kind="data-pipeline",
    learns="student weights",
    teacher="self",
    players={"student": learning(adamw(lr=cosine(start=1e-4, warmup=0.05)))},
    stages=(
        Make("rewrite", rewritten(), into="rewritten"),
        Learn("distill", imitate, epochs=2.0, batch_size=8, data="rewritten"),
    ),
    deviates=(
        "all weights of the student learn, as it is given; for low-rank ones, as the paper has, give lora:DIR",
        "the reference is shown as an earlier answer that is to be written again, in words of our own",
        "references without a number are checked for their length only, and the writing must come to an end",
    ),
)
