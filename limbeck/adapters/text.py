"""Text as tokens: the source that holds them, rows for classifiers and translators, windows for language models.

Shapes: B rows, T tokens, S tokens of the source sentence. Rows are tokenised once and right-padded when they are taken.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from limbeck.adapters.data import need
from limbeck.batch import Column
from limbeck.errors import BadData, Mismatch

__all__ = ["Tokens", "check_tokenizers", "context_of", "labelled", "sentences", "translated", "windows"]

TEXTS = (("text",), ("sentence",), ("premise", "hypothesis"), ("sentence1", "sentence2"), ("question", "sentence"))
LABELS = ("label", "labels", "y", "score")
SIDES = (("source", "target"), ("prompt", "completion"), ("input", "output"), ("document", "summary"))
CUT = "cut at the end; give a longer context to keep them whole"
PROBE = "The 3 quick brown foxes\n\tjumped: naïve café, 東京 & emoji 🦊! def f(x): return x**2  # 12345"


class Tokens:
    """A source of token rows of unequal length.

    Args:
        ragged: name to one sequence of numbers per row; "tokens" gets a column "length" beside it, another name `n`
            a column `n_length`; "mask" holds booleans and follows "tokens".
        fixed: name to tensor (N,), columns that need no padding.
        pad: the token that fills rows up.
        texts: name to one text per row, carried along as it is.

    Raises:
        BadData: no rows.

    Example:
        >>> Tokens({"tokens": [[5, 6, 7], [8]]}).take(torch.tensor([1, 0]))["tokens"].tolist()
        [[8, 0, 0], [5, 6, 7]]
    """

    def __init__(
        self,
        ragged: Mapping[str, Sequence[Sequence[int]]],
        fixed: Mapping[str, Tensor] | None = None,
        pad: int = 0,
        texts: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        if not ragged["tokens"]:
            raise BadData("no rows are left to train on")
        self.flat: dict[str, Tensor] = {}
        self.starts: dict[str, Tensor] = {}
        for name, rows in ragged.items():
            kind = torch.bool if name == "mask" else torch.int32
            self.flat[name] = torch.tensor(list(chain.from_iterable(rows)), dtype=kind)
            self.starts[name] = torch.tensor([0, *map(len, rows)]).cumsum(0)
        self.fixed, self.pad, self.texts = dict(fixed or {}), pad, dict(texts or {})

    def __len__(self) -> int:
        return len(self.starts["tokens"]) - 1

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        lengths = [_length_name(name) for name in self.flat if name != "mask"]
        return (*self.flat, *lengths, *self.fixed, *self.texts)

    def take(self, rows: Tensor) -> dict[str, Column]:
        """Return the columns of these rows, right-padded to the longest of them."""
        columns: dict[str, Column] = {name: column[rows] for name, column in self.fixed.items()}
        columns |= {name: [texts[i] for i in rows.tolist()] for name, texts in self.texts.items()}
        for name, flat in self.flat.items():
            starts, ends = self.starts[name][rows], self.starts[name][rows + 1]
            pieces = [flat[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
            fill = 0 if name == "mask" else self.pad
            padded = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True, padding_value=fill)
            columns[name] = padded if name == "mask" else padded.long()
            if name != "mask":
                columns[_length_name(name)] = ends - starts
        return columns

    @property
    def fingerprint(self) -> str:
        """A hash of the contents."""
        h = hashlib.blake2b(digest_size=8)
        for name, column in sorted(
            {**self.flat, **{f"{n} starts": s for n, s in self.starts.items()}, **self.fixed}.items()
        ):
            h.update(name.encode())
            h.update(column.contiguous().view(torch.uint8).numpy().data if column.numel() else b"")
        h.update(repr(sorted(self.texts.items())).encode() if self.texts else b"")
        return h.hexdigest()


def _length_name(name: str) -> str:
    return "length" if name == "tokens" else f"{name}_length"


def context_of(tokenizer: Any, context: int | None = None) -> int:
    """The longest row in tokens: as asked, or what the tokenizer's files say, or no limit.

    Example:
        >>> context_of(None, 128)
        128
    """
    return context or int(min(getattr(tokenizer, "model_max_length", None) or 1 << 30, 1 << 30))


def pad_of(tokenizer: Any) -> int:
    """The token that fills rows up: that of padding, or else that of the end.

    Example:
        >>> from types import SimpleNamespace
        >>> pad_of(SimpleNamespace(pad_token_id=None, eos_token_id=2))
        2
    """
    pads = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return int(next(p for p in pads if p is not None))


def columns_of(rows: Any, options: Sequence[tuple[str, ...]], what: str) -> tuple[str, ...]:
    """The first of several groups of columns that the rows have.

    Raises:
        BadData: none of them, with the nearest.
    """
    for group in options:
        if set(group) <= set(rows.names):
            return group
    possible = "; ".join(" + ".join(group) for group in options)
    raise BadData(f"{rows.where} has no columns for {what}: got {', '.join(rows.names)}; possible: {possible}")


def labelled(
    rows: Any, tokenizer: Any, classes: Mapping[str, int] | int | None = None, context: int | None = None
) -> Tokens:
    """Text, or pairs of texts, with classes or scores.

    Args:
        rows: records with text columns ("text", "sentence", "premise" + "hypothesis", ...) and, if any, "label".
        tokenizer: of the player.
        classes: how many there are, or their numbers by name; checked.
        context: the longest row in tokens; longer ones are cut with a warning.

    Returns:
        tokens (B, T), length (B,), y (B,) where there are labels, types (B, T) for pairs.

    Raises:
        BadData: no such columns, or a label out of range.
    """
    texts = columns_of(rows, TEXTS, "text")
    context = context_of(tokenizer, context)
    columns = [[str(value) for value in rows.rows[name]] for name in texts]
    warn_cut(_too_long(tokenizer, columns, context), len(rows), context, CUT)
    coded = tokenizer(*columns, truncation=True, max_length=context)
    ragged = {"tokens": coded["input_ids"]}
    if len(texts) == 2 and "token_type_ids" in coded:
        ragged["types"] = coded["token_type_ids"]
    label = next((name for name in LABELS if name in rows.names), None)
    fixed = {} if label is None else {"y": _labels(rows, label, classes)}
    return Tokens(ragged, fixed, pad_of(tokenizer))


def _labels(rows: Any, name: str, classes: Mapping[str, int] | int | None) -> Tensor:
    """(N,) int64 classes or float32 scores."""
    values = rows.rows[name][:]
    if isinstance(values[0], str):
        known = classes if isinstance(classes, Mapping) else {v: i for i, v in enumerate(sorted(set(values)))}
        if strange := [v for v in values if v not in known]:
            raise BadData(f"{rows.where}: {name!r} holds {strange[0]!r}; the classes are {', '.join(known)}")
        return torch.tensor([known[v] for v in values])
    y = torch.tensor(values)
    count = len(classes) if isinstance(classes, Mapping) else classes
    if count and not y.is_floating_point() and ((y < 0) | (y >= count)).any():
        row = int(((y < 0) | (y >= count)).nonzero()[0])
        raise BadData(f"{rows.where}: {name!r} is {int(y[row])} in row {row + 1}; the classes are 0 to {count - 1}")
    return y


def sentences(rows: Any, tokenizer: Any, context: int | None = None) -> Tokens:
    """Single texts for sentence embedders; the two sides of pairs become rows of their own.

    Args:
        rows: records with text columns.
        tokenizer: of the player.
        context: the longest row in tokens; longer ones are cut with a warning.

    Returns:
        tokens (B, T), length (B,).

    Raises:
        BadData: no such columns.
    """
    texts = columns_of(rows, TEXTS, "text")
    values = [str(value) for name in texts for value in rows.rows[name]]
    context = context_of(tokenizer, context)
    warn_cut(_too_long(tokenizer, [values], context), len(values), context, CUT)
    return Tokens(
        {"tokens": tokenizer(values, truncation=True, max_length=context)["input_ids"]}, pad=pad_of(tokenizer)
    )


def _too_long(tokenizer: Any, columns: Sequence[Sequence[str]], context: int) -> int:
    return sum(len(ids) > context for ids in tokenizer(*columns, verbose=False)["input_ids"])


def translated(rows: Any, tokenizer: Any, begin: Sequence[int], context: int | None = None) -> Tokens:
    """Pairs of texts for encoder-decoders.

    Args:
        rows: records with "source" + "target", "prompt" + "completion" or "input" + "output".
        tokenizer: of the player.
        begin: the tokens with which the decoder begins: its start, and what it is forced to say first.
        context: the longest side in tokens; longer ones are cut with a warning.

    Returns:
        source (B, S), source_length, tokens (B, T) that begin with `begin`, length, mask (B, T), prompt (B,), how many
        tokens the beginning has.

    Raises:
        BadData: no such columns.
    """
    sides = columns_of(rows, SIDES, "source and target")
    context = context_of(tokenizer, context)
    source, target = ([str(v) for v in rows.rows[name]] for name in sides)
    asked = tokenizer(source, verbose=False)["input_ids"]
    said = [_after(begin, ids) for ids in tokenizer(text_target=target, verbose=False)["input_ids"]]
    n = len(begin)
    long = sum(len(a) > context or len(b) + n > context for a, b in zip(asked, said, strict=True))
    warn_cut(long, len(rows), context, CUT)
    tokens = [[*begin, *ids][:context] for ids in said]
    mask = [[False] * n + [True] * (len(ids) - n) for ids in tokens]
    ragged = {"source": [ids[:context] for ids in asked], "tokens": tokens, "mask": mask}
    return Tokens(ragged, {"prompt": torch.full((len(tokens),), n)}, pad_of(tokenizer))


def _after(begin: Sequence[int], ids: Sequence[int]) -> Sequence[int]:
    """What follows the beginning: tokenizers write the token that is forced behind the start token themselves.

    Example:
        >>> _after((2, 0), [0, 7, 2]), _after((2,), [0, 7, 2])
        ([7, 2], [0, 7, 2])
    """
    return ids[1:] if len(begin) > 1 and list(ids[:1]) == [begin[1]] else ids


def windows(rows: Any, tokenizer: Any, length: int, column: str = "text") -> Tokens:
    """Running text cut into windows, the documents joined by the end token; every token but the first is a target.

    Args:
        rows: records with a text column.
        tokenizer: of the player.
        length: tokens of a window.
        column: the name of the text column.

    Returns:
        tokens (B, length), mask, length, prompt (B,) ones.

    Raises:
        BadData: no such column, or less text than one window.
    """
    need(rows, column)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    pieces = tokenizer([str(t) for t in rows.rows[column]], add_special_tokens=False, verbose=False)["input_ids"]
    stream = [token for piece in pieces for token in (*piece, *end)]
    cut = [stream[i : i + length] for i in range(0, len(stream) - length + 1, length)]
    if not cut:
        raise BadData(f"{rows.where} holds {len(stream)} tokens, less than one window of {length}")
    mask = [[False] + [True] * (length - 1)] * len(cut)
    return Tokens({"tokens": cut, "mask": mask}, {"prompt": torch.ones(len(cut), dtype=torch.int64)}, pad_of(tokenizer))


def warn_cut(n: int, of: int, context: int, what: str) -> None:
    """Say how many rows were too long, what was done and how to choose otherwise, if there are any."""
    if n:
        warnings.warn(
            f"{n} of {of} rows exceed {context} tokens: {what}",
            stacklevel=3,
        )


def check_tokenizers(teacher: Any, student: Any) -> list[str]:
    """Check that two players may be compared token by token.

    Args:
        teacher: the teacher's tokenizer.
        student: the student's tokenizer.

    Returns:
        Differences that do not forbid it (end, padding, chat template, tokens that only one has), a sentence each.

    Raises:
        Mismatch: a token has different numbers, or the same text is cut differently.
    """
    mine, theirs = student.get_vocab(), teacher.get_vocab()
    shared = mine.keys() & theirs.keys()
    way_out = "take a student with the teacher's tokenizer, or a recipe for different tokenizers"
    if odd := sorted((t for t in shared if mine[t] != theirs[t]), key=theirs.__getitem__):
        token = odd[0]
        raise Mismatch(
            f"the tokenizers differ: {token!r} is {theirs[token]} in the teacher and {mine[token]} in the student "
            f"({len(odd)} of {len(shared)} shared tokens); {way_out}"
        )
    if len(shared) < 0.9 * max(len(mine), len(theirs)):
        raise Mismatch(f"the vocabularies of {len(theirs)} and {len(mine)} tokens share only {len(shared)}; {way_out}")
    if teacher(PROBE)["input_ids"] != student(PROBE)["input_ids"]:
        raise Mismatch(f"the tokenizers have the same tokens but cut text differently; {way_out}")
    return list(_differences(teacher, student, len(theirs) - len(shared), len(mine) - len(shared)))


def _differences(teacher: Any, student: Any, only_teacher: int, only_student: int) -> Iterator[str]:
    for n, who, other in ((only_teacher, "teacher", "student"), (only_student, "student", "teacher")):
        if n:
            yield f"{n} tokens are known to the {who} only; the {other}'s distribution has no mass there"
    for name in ("bos_token", "eos_token", "pad_token"):
        a, b = getattr(teacher, name), getattr(student, name)
        if a != b:
            yield f"{name} is {a!r} in the teacher and {b!r} in the student; the student's is used"
    if teacher.chat_template != student.chat_template:
        yield "the chat templates differ; both players see the student's"
