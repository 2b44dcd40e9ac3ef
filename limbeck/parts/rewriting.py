"""Answers written again by the model that is to learn them, so that they are what it would have said.

The model is shown the prompt, the reference as if it had answered so, and a request to write that answer again; what it
then says becomes the target if a verifier agrees, and else the reference stays:

    rewritten(request="...", verifier=agrees())

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from limbeck.batch import Batch
from limbeck.part import Expr, Part, part
from limbeck.parts.rollout import rollout
from limbeck.parts.transcript import answers, marks, requested
from limbeck.players import Player, Players

__all__ = ["agrees", "never", "rewritten"]

REQUEST = "Write this answer again in your own words. Keep its content and its result, and add nothing else."


@part
def agrees(completion: str, row: Mapping[str, Any], *, least: float = 0.3) -> float:
    """Mark a rewriting 1 if its last number is the reference's; without a number in that, if it is not much shorter.

    [last number of y~ = last number of y], or [words of y~ >= least * words of y]

    Args:
        completion: y~.
        row: y, the reference, in the column `reference`.
        least: the least length, as a share of the reference's.

    Raises:
        KeyError: the row has no column `reference`.

    Example:
        >>> [agrees.fn(said, {"reference": "So 3 + 4 = 7."}) for said in ("Seven, that is 7.0", "3 + 4")]
        [1.0, 0.0]
        >>> agrees.fn("It is fine.", {"reference": "All is well, thank you."}), agrees.fn("", {"reference": "Yes."})
        (1.0, 0.0)
    """
    mine, theirs = _last_number(completion), _last_number(row["reference"])
    if theirs is not None:
        return float(mine == theirs)
    words = len(completion.split())
    return float(words > 0 and words >= least * len(str(row["reference"]).split()))


def _last_number(text: str) -> float | None:
    """The last number in a text; thousands may be set apart by commas."""
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", str(text))
    return float(found[-1].replace(",", "")) if found else None


@part
def never(completion: str, row: Mapping[str, Any]) -> float:
    """Mark everything 0: the reference always stays.

    0

    Example:
        >>> never.fn("anything", {})
        0.0
    """
    return 0.0


@part
def rewritten(
    players: Players,
    batch: Batch,
    *,
    request: str = REQUEST,
    said: Expr = rollout(max_new_tokens=512),
    verifier: Part = agrees(),
) -> Batch:
    """Replace references by what the student makes of them.

    y~ ~ q(. | x, y, request); the target is y~ if r(y~) = 1 and y~ came to an end, else y

    Rows with several answers, which are no single reference, stay as they are.

    Args:
        players: the student, whose tokenizer and chat template are used; `.on(student="teacher")` lets another write.
        batch: rows of language data with references: columns `tokens`, `mask`, `length` and `prompt`.
        request: what is asked after the reference.
        said: the batch part that answers the request.
        verifier: gives r; it is told the reference in the column `reference`.

    Returns:
        The batch with new `tokens`, `length` and `mask`, and with 1 or 0 in `own` (B,): whether the target is y~.

    Raises:
        BadValue: a student without a tokenizer.
        BadData: a chat template that does not show earlier answers.

    Source: Yang et al., "Self-Distillation Bridges Distribution Gap in Language Model Fine-Tuning", arXiv:2402.13669,
        section 3.2.
    """
    student = players.student
    mask_BT, places = batch["mask"], torch.arange(batch.size, device=batch.device)
    until_B = (mask_BT * torch.arange(1, mask_BT.shape[1] + 1, device=batch.device)).amax(1)  # a template may go on
    shown = batch.with_(reference=answers(student, batch), place=places, length=until_B)
    again: Batch = said(players, requested(request=request)(players, shown))
    good_B = marks(answers(student, again), again, verifier) >= 1
    single_B = mask_BT.sum(1) == until_B - batch["prompt"]
    own = {
        place: tokens[mask]
        for place, tokens, mask, good in zip(again["place"].tolist(), again.tokens, again["mask"], good_B, strict=True)
        if good and single_B[place] and _ended(student, tokens[mask])
    }
    return _with_targets(batch, own, student.pad)


def _ended(player: Player, said_T: Tensor) -> bool:
    """Whether an answer came to an end, where the player has a token for that."""
    return not player.eos or int(said_T[-1]) in player.eos


def _with_targets(batch: Batch, own: Mapping[int, Tensor], pad: int) -> Batch:
    """The batch with other targets behind some of its prompts."""
    rows, targets = [], []
    for b, (length, prompt) in enumerate(zip(batch.length.tolist(), batch["prompt"].tolist(), strict=True)):
        tokens_T, mask_T = batch.tokens[b, :length], batch["mask"][b, :length]
        if b in own:
            tokens_T = torch.cat((tokens_T[:prompt], own[b]))
            mask_T = torch.arange(len(tokens_T), device=batch.device) >= prompt
        rows.append(tokens_T)
        targets.append(mask_T)
    return batch.with_(
        tokens=pad_sequence(rows, batch_first=True, padding_value=pad),
        mask=pad_sequence(targets, batch_first=True),
        length=torch.tensor([len(row) for row in rows], device=batch.device),
        own=torch.tensor([float(b in own) for b in range(batch.size)], device=batch.device),
    )
