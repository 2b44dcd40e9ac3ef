"""What each token of a tokenizer writes, in bytes: how two tokenisations of one text are compared.

Tokenizers spell their tokens in three ways. Byte-level ones have a printable character for every byte; those that stem
from SentencePiece write a space as U+2581, put one before a text, and name single bytes "<0x0A>"; all others write
their tokens as they are. A text that a tokenizer changes (case, Unicode forms) is followed as far as the bytes agree.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import accumulate, groupby
from typing import Any

from limbeck.errors import BadValue

__all__ = ["Pieces", "Reread", "number_chunks", "pieces_of", "reread"]

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@cache
def _bytes_of_characters() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(hidden)}


@dataclass(frozen=True, eq=False)
class Pieces:
    """A tokenizer, seen as what its tokens write.

    Args:
        tokenizer: a fast tokenizer of transformers.

    Raises:
        BadValue: none, or a slow one.
    """

    tokenizer: Any

    def __post_init__(self) -> None:
        if not hasattr(self.tokenizer, "backend_tokenizer"):
            kind = type(self.tokenizer).__name__
            raise BadValue(f"chunks of text need fast tokenizers, which say what every token writes; got {kind}")

    @cached_property
    def written(self) -> tuple[bytes, ...]:
        """The bytes of every token; added tokens as they are spelled."""
        decoder = json.dumps(json.loads(self.tokenizer.backend_tokenizer.to_str()).get("decoder") or {})
        added = {i: token.content for i, token in self.tokenizer.added_tokens_decoder.items()}
        spelled = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
        return tuple(
            added[i].encode() if i in added else _written(token or "", decoder) for i, token in enumerate(spelled)
        )

    @cached_property
    def prefixed(self) -> bool:
        """Whether a text gets a space in front that it does not have."""
        return b"".join(self.written[i] for i in self._ids("a")).startswith(b" ")

    @cached_property
    def opening(self) -> list[int]:
        """The tokens that stand in front of a text, the end token never among them."""
        ids = self.tokenizer("", verbose=False)["input_ids"]
        return [int(i) for i in ids if i != self.tokenizer.eos_token_id]

    @property
    def first(self) -> int:
        """The token before a target that nothing precedes."""
        starts = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id, 0)
        return int(next(t for t in starts if t is not None))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def encode(self, text: str) -> tuple[list[int], list[bytes]]:
        """The tokens of a text, with no special ones, and what each of them writes of it."""
        ids = self._ids(text)
        return ids, self.trimmed([self.written[i] for i in ids], text.encode())

    def trimmed(self, pieces: list[bytes], text: bytes | None = None) -> list[bytes]:
        """What tokens write, without the space that the tokenizer put in front.

        Args:
            pieces: the bytes of the tokens.
            text: what they stand for, if it is known; else the tokenizer's habit decides.
        """
        whole = b"".join(pieces)
        extra = whole[:1] == b" " and (self.prefixed if text is None else whole != text and whole[1:] == text)
        at = next((i for i, piece in enumerate(pieces) if piece), 0)
        return [*pieces[:at], pieces[at][1:], *pieces[at + 1 :]] if extra else pieces

    def anchors(self, other: Pieces) -> dict[int, list[int]]:
        """The tokens that stand for no text, each with what stands for it in another tokenizer: perhaps nothing."""
        mine, theirs, known = self.tokenizer, other.tokenizer, other.tokenizer.get_vocab()
        out = {int(i): [known[t]] for t, i in mine.get_added_vocab().items() if t in known}
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            if (own := getattr(mine, name)) is not None:
                out[own] = [] if (its := getattr(theirs, name)) is None else [its]
        return out

    @cached_property
    def _sorted(self) -> tuple[list[bytes], list[int]]:
        order = sorted(range(len(self.written)), key=self.written.__getitem__)
        return [self.written[i] for i in order], order

    def longer(self, token: int) -> dict[bytes, int]:
        """The tokens that begin with what a token writes and go on: what they add, and their ids."""
        begun, (spelled, order) = self.written[token], self._sorted
        if not begun or token in self.tokenizer.added_tokens_decoder:
            return {}
        first, last = bisect_right(spelled, begun), bisect_right(spelled, begun, key=lambda s: s[: len(begun)])
        return {spelled[i][len(begun) :]: order[i] for i in range(first, last)}


def _written(token: str, decoder: str) -> bytes:
    """The bytes that one token of the vocabulary stands for."""
    if '"ByteLevel"' in decoder:
        table = _bytes_of_characters()
        return bytes(table[c] for c in token) if all(c in table for c in token) else token.encode()
    if '"ByteFallback"' in decoder and (byte := BYTE.fullmatch(token)):
        return bytes([int(byte[1], 16)])
    spaced = '"Metaspace"' in decoder or "\\u2581" in decoder
    return (token.replace("\u2581", " ") if spaced else token).encode()


@lru_cache(maxsize=8)
def _pieces(tokenizer: Any) -> Pieces:
    return Pieces(tokenizer)


def pieces_of(player: Any) -> Pieces:
    """The pieces of a player's tokenizer, worked out once.

    Args:
        player: a player, or a net, that has a tokenizer.

    Raises:
        BadValue: no tokenizer, or a slow one.
    """
    tokenizer = getattr(player, "tokenizer", None)
    if tokenizer is None:
        raise BadValue(f"{getattr(player, 'name', 'the player')} has no tokenizer, so its chunks of text are unknown")
    return _pieces(tokenizer)


def number_chunks(mine: Sequence[bytes], theirs: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """Cut two tokenisations of one text where both have a boundary at the same byte, and number the chunks from 1.

    Args:
        mine: what the tokens of one write.
        theirs: what those of the other write.

    Returns:
        The chunk of every token of each; 0 where the bytes no longer agree.

    Example:
        >>> number_chunks([b"a", b"b", b"cd"], [b"ab", b"c", b"d"])
        ([1, 1, 2], [1, 2, 2])

    Source: Minixhofer et al., arXiv:2503.20083, section 3.1 (aligned chunks).
    """
    ends = [list(accumulate(map(len, pieces))) for pieces in (mine, theirs)]
    whole = b"".join(mine), b"".join(theirs)
    agreed = next((at for at, (a, b) in enumerate(zip(*whole, strict=False)) if a != b), min(map(len, whole)))
    cuts = sorted(c for c in {*ends[0]} & {*ends[1]} if 0 < c <= agreed)
    last = cuts[-1] if cuts else -1
    first, second = ([bisect_left(cuts, e) + 1 if e <= last else 0 for e in side] for side in ends)
    return first, second


@dataclass(frozen=True)
class Reread:
    """A row of tokens in another tokenizer.

    Args:
        tokens: its tokens.
        mask: which of them are targets.
        chunk: the chunk of each, from 1; 0 for none.
        own: the chunk of each token that was read.
    """

    tokens: list[int]
    mask: list[bool]
    chunk: list[int]
    own: list[int]


def reread(mine: Pieces, theirs: Pieces, tokens: Sequence[int], mask: Sequence[bool], context: int = 0) -> Reread:
    """Write a row of tokens in another tokenizer, and number the chunks of its targets.

    Special tokens stand for their like, and the text between them is tokenised anew, piece by piece where targets begin
    and end, as a player sees it that is asked to go on.

    Args:
        mine: the tokenizer of the row.
        theirs: the other.
        tokens: the row, without padding.
        mask: which of its tokens are targets.
        context: the longest row of the other; 0 for no limit.

    Returns:
        The row in the other tokenizer. Tokens that are no targets are in no chunk, nor are those beyond the context.
    """
    anchors, said = mine.anchors(theirs), Reread([], [], [], [])
    for (target, at), run in groupby(range(len(tokens)), lambda i: (mask[i], i if tokens[i] in anchors else -1)):
        own = [tokens[i] for i in run]
        ids, chunk, numbers = _run(mine, theirs, own, anchors) if at < 0 else _special(anchors[own[0]])
        before = max((*said.own, 0))
        said.tokens.extend(ids)
        said.mask.extend([target] * len(ids))
        said.chunk.extend(before + c if c and target else 0 for c in chunk)
        said.own.extend(before + c if c and target else 0 for c in numbers)
    return _within(_opened(theirs, said), context or len(said.tokens) + 2)


def _special(ids: list[int]) -> tuple[list[int], list[int], list[int]]:
    """A special token and its like: one chunk, where it has a like."""
    return ids, [1] * len(ids), [len(ids)]


def _run(
    mine: Pieces, theirs: Pieces, own: list[int], anchors: dict[int, list[int]]
) -> tuple[list[int], list[int], list[int]]:
    """Text in both tokenizers: the other's tokens, their chunks, and the chunks of one's own."""
    written = mine.trimmed([mine.written[i] for i in own])
    ids, pieces = theirs.encode(b"".join(written).decode(errors="ignore"))
    numbers, chunk = number_chunks(written, pieces)
    return ids, chunk, numbers


def _opened(theirs: Pieces, said: Reread) -> Reread:
    """The row with what the other tokenizer puts in front of a text, and something before the first target."""
    front = theirs.opening if said.tokens[: len(theirs.opening)] != theirs.opening else []
    if not front and (not said.tokens or said.mask[0]):
        front = [theirs.first]
    none = [0] * len(front)
    return Reread([*front, *said.tokens], [*map(bool, none), *said.mask], [*none, *said.chunk], said.own)


def _within(said: Reread, context: int) -> Reread:
    """The row cut to a context; chunks that lose a token are none."""
    lost = min((c for c in said.chunk[context:] if c), default=0)
    if not lost:
        return Reread(said.tokens[:context], said.mask[:context], said.chunk[:context], said.own)
    chunk, own = ([c if c < lost else 0 for c in row] for row in (said.chunk[:context], said.own))
    return Reread(said.tokens[:context], said.mask[:context], chunk, own)
