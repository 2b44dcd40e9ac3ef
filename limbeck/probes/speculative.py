"""What a student is worth as the draft of its teacher in speculative decoding."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.data import Source
from limbeck.part import part
from limbeck.parts.rollout import sample
from limbeck.parts.speculative import Speculation, speculate
from limbeck.players import Player, Players
from limbeck.probes.enumerated import both
from limbeck.rng import Rng

__all__ = ["acceptance", "as_draft", "kept_share", "tokens_per_call"]


@part(higher=True)
def acceptance(players: Players, data: Mapping[str, Source]) -> float:
    """The share of the student's proposals that the teacher keeps, where texts are the teacher's: exact.

    (1/n) sum_t E_{x_<t ~ teacher} sum_v min(p(v | x_<t), q(v | x_<t))

    Args:
        players: the players "teacher", the target, and "student", the draft.
        data: the splits; of a language that can be enumerated.

    Raises:
        BadValue: there are more than 2^23 completions.
        BadData: the test rows differ in the length of prompt or completion.

    Source: Zhou et al., "DistillSpec", arXiv:2310.08461, section 3 (the sequence-level acceptance rate).
    """
    teacher, student = both(players, data)
    n = len(teacher.tokens)
    kept = [torch.minimum(teacher.tokens[t].exp(), student.tokens[t].exp()).sum(-1) for t in range(n)]
    at = [(teacher.prefixes(t).exp() * kept[t]).sum(-1) for t in range(n)]
    return float(torch.stack(at).sum(0).mean() / n)


def _speculated(players: Players, data: Mapping[str, Source], block: int, rows: int, new: int) -> Speculation:
    """Speculate on prompts of the test split."""
    index = torch.arange(min(rows, len(data["test"])))
    test = data["test"].take(index)
    return speculate(
        players["teacher"], players["student"], test["tokens"], test["prompt"], Rng(("speculation",), index),  # type: ignore[arg-type]
        block=block, max_new_tokens=new,
    )  # fmt: skip


@part(higher=True)
def kept_share(
    players: Players, data: Mapping[str, Source], *, block: int = 4, rows: int = 64, max_new_tokens: int = 64
) -> float:
    """The share of proposed tokens that the teacher keeps, counted while it decodes.

    kept / proposed

    Args:
        players: the players "teacher", the target, and "student", the draft.
        data: the splits; prompts are those of "test".
        block: tokens proposed at a time.
        rows: prompts, at most.
        max_new_tokens: of a continuation.

    Raises:
        Mismatch: the players have different vocabularies.
    """
    said = _speculated(players, data, block, rows, max_new_tokens)
    return said.kept / max(1, said.proposed)


@part(higher=True)
def tokens_per_call(
    players: Players, data: Mapping[str, Source], *, block: int = 4, rows: int = 64, max_new_tokens: int = 64
) -> float:
    """The tokens that one call of the teacher yields: 1 without a draft, block + 1 at best.

    new tokens / calls

    Args:
        players: the players "teacher", the target, and "student", the draft.
        data: the splits; prompts are those of "test".
        block: tokens proposed at a time.
        rows: prompts, at most.
        max_new_tokens: of a continuation.

    Raises:
        Mismatch: the players have different vocabularies.

    Source: Leviathan et al., arXiv:2211.17192, section 3.1.
    """
    said = _speculated(players, data, block, rows, max_new_tokens)
    prompts = data["test"].take(torch.arange(len(said.length)))["prompt"]
    return float(said.length.sum() - prompts.sum()) / said.calls  # type: ignore[union-attr]


def as_draft(
    target: Player,
    draft: Player,
    tokens_BT: Tensor,
    length_B: Tensor,
    rng: Rng,
    *,
    block: int = 4,
    max_new_tokens: int = 64,
) -> dict[str, float]:
    """What a draft is worth: its target continues prompts, all at once, alone and then with it.

    Args:
        target: who continues them.
        draft: who proposes.
        tokens_BT: right-padded prompts.
        length_B: their lengths, at least 1.
        rng: the streams of the rows.
        block: tokens proposed at a time.
        max_new_tokens: of a continuation.

    Returns:
        "kept", the share of the proposed tokens; "tokens/call" of the target; "speed-up", the ratio of tokens a second.

    Raises:
        BadValue: a net that cannot forget what it has read.
        BadData: a prompt that is empty, or leaves no room for the new tokens.
        Mismatch: two vocabularies.
    """
    start = time.perf_counter()
    _, alone_B = sample(target, tokens_BT, length_B, rng, max_new_tokens=max_new_tokens)
    between, alone = time.perf_counter(), int((alone_B - length_B).sum())
    said = speculate(target, draft, tokens_BT, length_B, rng, block=block, max_new_tokens=max_new_tokens)
    end, new = time.perf_counter(), int((said.length - length_B).sum())
    faster = (new / (end - between)) / (alone / (between - start))
    return {"kept": said.kept / max(1, said.proposed), "tokens/call": new / said.calls, "speed-up": faster}
