"""TRACE: distil a few critical tokens from oneself with a word about them in view, and leave the rest to rewards."""

from __future__ import annotations

from limbeck.part import terms
from limbeck.parts.clipped import clipped_forward_kl
from limbeck.parts.clipped_reverse import clipped_reverse_kl
from limbeck.parts.context import told
from limbeck.parts.optimizer import adamw
from limbeck.parts.policy import clipped_surrogate, graded, group_standardised, recorded
from limbeck.parts.rollout import rollout
from limbeck.parts.routing import weighed
from limbeck.parts.spans import annealed, annotated, elsewhere, held
from limbeck.parts.token import sequence_mean
from limbeck.parts.transcript import repeated
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import ema_of, learning, self_under

WORD = "\n\nBe careful with this: {told}."

answered = repeated(copies=8) >> rollout(max_new_tokens=1024) >> graded() >> group_standardised(copies=8)
key = sequence_mean() * (weighed(column="key") * clipped_forward_kl(most=0.05))
error = sequence_mean() * (weighed(column="error") * clipped_reverse_kl(most=0.05))
routed = terms(
    grpo=elsewhere(share=held(value=1.0, hold=10, fall=30)) * clipped_surrogate(high=0.28),
    kl=annealed(strength=held(value=0.5, hold=10, fall=30), loss=key),
)

recipe = Recipe(
    key="trace-opd", title="TRACE: Distilling Where It Matters via Token-Routed Self On-Policy Alignment",
    paper="arXiv:2605.10194", family="lm", kind="method", learns="student weights", teacher="self",
    players={
        "student": learning(adamw(lr=1e-6)), "past": ema_of("student", decay=0.0, every=10),
        "teacher": self_under("past", told(column="label", template=WORD)),
    },
    stages=(Learn("distill", (Phase("student", ("student",), routed, answered >> annotated() >> recorded()),)),),
    variants={"error-spans": {"distill.student.loss.kl.loss": error}},
    deviates=(
        "the paper's annotator is a strong model or the student; ours is a part, by default one that marks the end",
        "rewards are averaged over the tokens of the batch; the paper's normalisation was not at hand",
    ),
)  # fmt: skip
