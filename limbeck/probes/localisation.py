"""Where a teacher that was told about an answer disagrees with its author: at the mistake, or everywhere.

Shapes: B rows, T tokens, N target tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.kernels.fused import rows_of_chunk
from limbeck.part import Expr, Part, part
from limbeck.parts.divergence import reverse_kl
from limbeck.parts.policy import graded
from limbeck.parts.rollout import rollout
from limbeck.parts.spans import annotated, last_line
from limbeck.parts.token import shared_heads
from limbeck.players import Players
from limbeck.rng import Rng

__all__ = ["before_the_error", "divergence_of_tokens"]

ROWS = 256
ANSWERED = rollout() >> graded()


def divergence_of_tokens(players: Players, batch: Batch) -> Tensor:
    """KL(student || teacher) at every target, (B, T); 0 elsewhere."""
    mask_BT = batch["mask"]
    heads = shared_heads(players.student, players.teacher, batch)
    rows = rows_of_chunk(heads[0])
    pieces = [reverse_kl(q, p) for q, p in zip(*(head.chunks(rows) for head in heads), strict=True)]
    found_N = torch.cat(pieces)
    return found_N.new_zeros(mask_BT.shape).masked_scatter(mask_BT, found_N)


@part
def before_the_error(
    players: Players,
    data: Mapping[str, Source],
    *,
    answered: Expr = ANSWERED,
    annotator: Part = last_line(),
    limit: int = 256,
) -> float:
    """How far the teacher is from the student before the first wrong token, as a share of how far it is there.

    mean_{t < e} KL(q_t || p_t) / mean_{t = e} KL(q_t || p_t), e the first wrong token of each wrong answer

    Args:
        players: `student`, and `teacher`, who reads what it is told of the answers.
        data: the splits.
        answered: a batch part that answers the test prompts and marks the answers, column `reward`.
        annotator: a part `(completion, row)` whose first span in a wrong answer is the first wrong token.
        limit: prompts that are asked, the first of the split; 0 for all.

    Returns:
        The ratio; not a number where no wrong answer has a token before its first wrong one.
    """
    source, sums = data["test"], torch.zeros(4, dtype=torch.float64)
    n = min(limit or len(source), len(source))
    for start in range(0, n, ROWS):
        rows = torch.arange(start, min(n, start + ROWS))
        batch = Batch({**source.take(rows), "index": rows}, Rng(("before the error",), rows))
        batch = annotated(annotator=annotator, most=1.0)(players, answered(players, batch))
        first_BT = batch["error"] & (batch["error"].cumsum(1) == 1)
        before_BT = batch["mask"] & first_BT.any(1, keepdim=True) & (batch["error"].cumsum(1) == 0)
        far_BT = divergence_of_tokens(players, batch).double()
        sums += torch.stack([x for at in (before_BT, first_BT) for x in (far_BT[at].sum(), at.sum().double())]).cpu()
    return float(sums[0] / sums[1] / (sums[2] / sums[3]))
