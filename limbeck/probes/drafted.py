"""What a draft would have kept, where its target writes."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.part import part
from limbeck.parts.rollout import rollout
from limbeck.players import Players
from limbeck.rng import Rng

__all__ = ["expected_share"]


@part(higher=True)
@torch.no_grad()
def expected_share(
    players: Players, data: Mapping[str, Source], *, rows: int = 256, max_new_tokens: int = 64, temperature: float = 1.0
) -> float:
    """The share of the student's proposals that the teacher keeps, on texts that it samples: exact at every token.

    mean_t sum_v min(p(v | x_<t), q(v | x_<t)), x ~ p

    Args:
        players: the players "teacher", the target, and "student", the draft.
        data: the splits; prompts are the first of "test".
        rows: prompts, at most.
        max_new_tokens: of a text.
        temperature: of both softmaxes, and of the texts.

    Source: Leviathan et al., arXiv:2211.17192, theorem 3.5, with their beta.
    """
    index = torch.arange(min(rows, len(data["test"])))
    batch = Batch(dict(data["test"].take(index)), Rng(("drafted",), index))
    said = rollout(max_new_tokens=max_new_tokens, temperature=temperature).on(student="teacher")(players, batch)
    p_BTV, q_BTV = (
        (players[name](said, "logits")[:, :-1].double() / temperature).softmax(-1) for name in ("teacher", "student")
    )
    return float(torch.minimum(p_BTV, q_BTV).sum(-1)[said.mask[:, 1:]].mean())
