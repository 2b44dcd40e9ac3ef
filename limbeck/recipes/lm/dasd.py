"""DASD: imitate cool answers, then warm ones, of which each is chosen for the sentences that the student lacks."""

from __future__ import annotations

from limbeck.parts.mended import completed, from_start, unfinished, well_formed
from limbeck.parts.optimizer import adamw
from limbeck.parts.rollout import rollout
from limbeck.parts.schedule import cosine
from limbeck.parts.sentences import chosen
from limbeck.parts.token import cross_entropy
from limbeck.parts.transcript import repeated
from limbeck.recipe import Learn, Make, Phase, Recipe, Repeat
from limbeck.roles import frozen, learning

LENGTH = 2048
imitate = (Phase("student", ("student",), cross_entropy()),)
cool, warm = (
    repeated(copies=4) >> rollout(temperature=t, max_new_tokens=LENGTH).on(student="teacher") >> well_formed()
    for t in (0.6, 1.0)
)
asked = rollout(temperature=1.0, max_new_tokens=LENGTH).on(student="teacher")
mended = rollout(max_new_tokens=LENGTH * 3 // 2) >> unfinished() >> completed(finish=asked)

recipe = Recipe(
    key="dasd", title="Distribution-Aligned Sequence Distillation for Superior Long-CoT Reasoning",
    paper="arXiv:2601.09088", family="lm", kind="data-pipeline", learns="student weights", teacher="white-box",
    players={
        "student": learning(adamw(lr=cosine(start=5e-5, end=1e-5, warmup=0.1), betas=(0.9, 0.95), weight_decay=0.1)),
        "teacher": frozen(),
    },
    stages=(
        Make("cool", cool >> chosen(), into="cool answers"),
        Learn("first", imitate, epochs=6.0, batch_size=64, data="cool answers", clip=1.0),
        Make("warm", warm >> chosen(), into="warm answers"),
        Learn("second", imitate, epochs=6.0, batch_size=64, data="warm answers", clip=1.0),
        Repeat("mixed", (
            Make("mend", mended >> from_start() >> well_formed(), into="mended"),
            Learn("third", imitate, batch_size=64, data="mended", clip=1.0),
        )),
    ),
    variants={
        "teacher-half": {"mixed.mend.rows": mended >> well_formed()},
        "unmixed": {"mixed.times": 0}, "any-answer": {"cool.rows.repeated.copies": 1, "warm.rows.repeated.copies": 1},
    },
    deviates=(
        "the report gives no rule by which divergence chooses: of four answers ours keeps the one whose sentences have "
        "most over, mean_s max(0, P_T(s) - P_S(s))",
        "the teacher must be a model that is at hand: one behind a server tells no probabilities, and finishes nothing",
        "every prompt is asked at both temperatures, and a batch holds 64 rows: neither is in the report or its code",
        "answers are not checked against a known truth, only for their end and for repetition",
    ),
)  # fmt: skip
