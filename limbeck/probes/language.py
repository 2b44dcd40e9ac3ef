"""Measures of language models on rows of language data.

Rows have the columns tokens (B, T), mask (B, T) of the target tokens, length (B,) and prompt (B,); those of tasks that
can be checked also the texts `question` and `answer`. A verifier is a part `(completion, row)` that marks one
completion with a number in [0, 1], given the other columns of its row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Source
from limbeck.errors import BadData, BadValue
from limbeck.part import Part, part
from limbeck.parts.divergence import forward_kl
from limbeck.parts.rollout import sample
from limbeck.players import Player, Players
from limbeck.rng import Rng

__all__ = [
    "answer_accuracy",
    "completions",
    "equations_hold",
    "last_number",
    "nll",
    "step_accuracy",
    "token_agreement",
    "token_kl",
]

ROWS = 128


@part(higher=True)
def last_number(completion: str, row: Mapping[str, Any]) -> float:
    """Mark a completion by the last number in it, which must be the number in the column `answer`.

    Thousands may be set apart by commas; a full stop after the number does no harm.

    Example:
        >>> last_number.fn("so 1,200 in all.", {"answer": "1200"}), last_number.fn("none", {"answer": "3"})
        (1.0, 0.0)
    """
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", completion)
    return float(bool(found) and float(found[-1].replace(",", "")) == float(str(row["answer"]).replace(",", "")))


@part(higher=True)
def equations_hold(completion: str, row: Mapping[str, Any]) -> float:
    """Mark a completion by the share of the equations written in it that hold: "3 + 4 * 2 = 11".

    Integers with + - * /, in their usual order; a completion without an equation gets 0.

    Example:
        >>> equations_hold.fn("5+4=9; 9*2=19", {}), equations_hold.fn("about 12 = a dozen", {})
        (0.5, 0.0)
    """
    found = re.findall(r"(-?\d+(?:\s*[-+*/]\s*\d+)+)\s*=\s*(-?\d+(?:\.\d+)?)", completion)
    return sum(_value(left) == Fraction(right) for left, right in found) / max(1, len(found))


def _value(expression: str) -> Fraction | None:
    """The exact value of integers joined by + - * /; None where something is divided by 0."""
    total, product = Fraction(0), Fraction(0)
    for sign, number in re.findall(r"([-+*/]?)\s*(\d+)", expression):
        if sign == "*":
            product *= int(number)
        elif sign == "/" and int(number) == 0:
            return None
        elif sign == "/":
            product /= int(number)
        else:
            total, product = total + product, Fraction(sign + number)
    return total + product


def _batches(source: Source, limit: int, rows: int = ROWS) -> Iterator[Batch]:
    """The first `limit` rows in batches; 0 is all."""
    n = min(limit or len(source), len(source))
    for start in range(0, n, rows):
        yield Batch(dict(source.take(torch.arange(start, min(n, start + rows)))))


def completions(
    player: Player, batch: Batch, rng: Rng, *, temperature: float = 1.0, max_new_tokens: int = 64
) -> list[str]:
    """Let a player complete the prompts of a batch.

    Args:
        player: a player whose net has a tokenizer.
        batch: rows with tokens and prompt.
        rng: the streams of the rows.
        temperature: 0 is greedy.
        max_new_tokens: where a completion is cut.

    Returns:
        The text after each prompt, special tokens left out.

    Raises:
        BadValue: a player without a tokenizer.
    """
    if getattr(player, "tokenizer", None) is None:
        raise BadValue(f"the player {player.name!r} has no tokenizer, so what it says cannot be read")
    prompt_B = batch.prompt
    # prompts end at different places: what follows them is not for the player to see
    prompts_BT = batch.tokens[:, : int(prompt_B.max())]
    said_BT, length_B = sample(
        player, prompts_BT, prompt_B, rng, temperature=temperature, max_new_tokens=max_new_tokens
    )
    pieces = [said_BT[b, p:n] for b, (p, n) in enumerate(zip(prompt_B.tolist(), length_B.tolist(), strict=True))]
    texts: list[str] = player.tokenizer.batch_decode(pieces, skip_special_tokens=True)
    return texts


def _marks(players: Players, data: Mapping[str, Source], verifier: Part, samples: int, limit: int, **how: Any) -> float:
    """The mean mark of the student's completions of the prompts of the test split."""
    marks = []
    for start, batch in enumerate(_batches(data["test"], limit)):
        rows = torch.arange(batch.size) + start * ROWS
        texts = {k: c for k, c in batch.columns.items() if isinstance(c, list)}
        for turn in range(samples):
            said = completions(players["student"], batch, Rng(("completions", turn), rows), **how)
            marks += [verifier(text, {k: c[i] for k, c in texts.items()}) for i, text in enumerate(said)]
    return sum(marks) / len(marks)


@part(higher=True)
def answer_accuracy(
    players: Players,
    data: Mapping[str, Source],
    *,
    verifier: Part = last_number(),
    temperature: float = 1.0,
    samples: int = 1,
    limit: int = 256,
    max_new_tokens: int = 64,
) -> float:
    """The share of right answers among the student's completions of the test prompts.

    (1/N) sum_i verifier(y_i), y_i ~ student(. | x_i).

    Args:
        players: the player "student".
        data: the splits.
        verifier: a part `(completion, row)` that marks one completion in [0, 1].
        temperature: of the softmax; 0 is greedy.
        samples: completions of each prompt.
        limit: prompts that are asked, the first of the split; 0 for all.
        max_new_tokens: where a completion is cut.

    Returns:
        The mean mark.

    Raises:
        BadValue: the student has no tokenizer.
    """
    how = {"temperature": temperature, "max_new_tokens": max_new_tokens}
    return _marks(players, data, verifier, samples, limit, **how)


@part(higher=True)
def step_accuracy(
    players: Players,
    data: Mapping[str, Source],
    *,
    verifier: Part = equations_hold(),
    temperature: float = 1.0,
    samples: int = 1,
    limit: int = 256,
    max_new_tokens: int = 64,
) -> float:
    """The share of right steps in the student's completions of the test prompts.

    (1/N) sum_i verifier(y_i), y_i ~ student(. | x_i), where the verifier gives the share of y_i's steps that are right.

    Args:
        players: the player "student".
        data: the splits.
        verifier: a part `(completion, row)` that marks one completion by the share of its right steps.
        temperature: of the softmax; 0 is greedy.
        samples: completions of each prompt.
        limit: prompts that are asked, the first of the split; 0 for all.
        max_new_tokens: where a completion is cut.

    Returns:
        The mean mark.

    Raises:
        BadValue: the student has no tokenizer.
    """
    return answer_accuracy.fn(
        players,
        data,
        verifier=verifier,
        temperature=temperature,
        samples=samples,
        limit=limit,
        max_new_tokens=max_new_tokens,
    )


def _per_token(players: Players, data: Mapping[str, Source], limit: int, measure: Callable[[Batch], Tensor]) -> float:
    """The mean over target tokens of what `measure` returns for each, (N,)."""
    total, count = 0.0, 0
    for batch in _batches(data["test"], limit):
        with torch.no_grad():
            values = measure(batch)
        total, count = total + float(values.double().sum()), count + len(values)
    if count == 0:
        raise BadData("the test split has no target token: its mask is false everywhere")
    return total / count


def _predictions(player: Player, batch: Batch) -> Tensor:
    """The log-probabilities (N, V) of the target tokens' places."""
    return player(batch, "head").predicting(batch.mask).logits().log_softmax(-1)


@part
def nll(players: Players, data: Mapping[str, Source], *, limit: int = 0) -> float:
    """The student's negative log-likelihood of a target token, in nats.

    -(1/N) sum_{i, t in targets} log q(x_t | x_<t).

    Args:
        players: the player "student".
        data: the splits.
        limit: rows that are read, the first of the split; 0 for all.

    Raises:
        BadData: no target token.
    """

    def measure(batch: Batch) -> Tensor:
        logp_NV = _predictions(players["student"], batch)
        return -logp_NV.gather(-1, batch.tokens[batch.mask][:, None])[:, 0]

    return _per_token(players, data, limit, measure)


@part(higher=True)
def token_agreement(players: Players, data: Mapping[str, Source], *, limit: int = 0) -> float:
    """The share of target tokens at which student and teacher hold the same token for the most probable.

    (1/N) sum_{i, t in targets} [argmax q(. | x_<t) = argmax p(. | x_<t)].

    Args:
        players: the players "student" and "teacher".
        data: the splits.
        limit: rows that are read, the first of the split; 0 for all.

    Raises:
        BadData: no target token.

    Source: Stanton et al., "Does Knowledge Distillation Really Work?", arXiv:2106.05945.
    """

    def measure(batch: Batch) -> Tensor:
        theirs, mine = (_predictions(players[name], batch).argmax(-1) for name in ("teacher", "student"))
        return theirs == mine

    return _per_token(players, data, limit, measure)


@part
def token_kl(players: Players, data: Mapping[str, Source], *, limit: int = 0) -> float:
    """The divergence of the student from the teacher at a target token, in nats.

    (1/N) sum_{i, t in targets} KL(teacher(. | x_<t) || student(. | x_<t)).

    Args:
        players: the players "student" and "teacher".
        data: the splits.
        limit: rows that are read, the first of the split; 0 for all.

    Raises:
        BadData: no target token.
    """

    def measure(batch: Batch) -> Tensor:
        return forward_kl(_predictions(players["student"], batch), _predictions(players["teacher"], batch))

    return _per_token(players, data, limit, measure)
