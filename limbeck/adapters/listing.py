"""A language model behind a server that lists the log-probabilities of given tokens: a teacher of distributions.

    http://127.0.0.1:8000/v1#name?top=20                    the 20 likeliest tokens at every place
    http://127.0.0.1:8000/v1#name?top=20&tokenizer=./tok    with its tokenizer at hand, as a cache of them needs

The server is asked for `prompt_logprobs`, as vLLM and those who follow it give them, of rows of token ids: so nothing
is tokenised twice, and what is said of a token is about that token. The tokens that it decodes are compared with those
of the student's tokenizer before anything is learned from them.

Shapes: B rows, T tokens, N target tokens, K listed tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import torch
from torch import Tensor

from limbeck.adapters.causal_lm import family_of
from limbeck.adapters.remote import Remote, open_remote
from limbeck.errors import BadData, BadValue, Mismatch, unknown

__all__ = ["Listing", "open_server"]

OPTIONS = ("top", "tokenizer")
APART = 0.1  # of a row's tokens may read differently: pieces of characters and spaces are decoded in several ways

Lists = list[tuple[list[int], list[float]]]


class Listing(Remote):
    """A teacher behind a server that tells of its distributions by lists (see `limbeck.parts.listed`).

    Arguments are those of `Remote`; `top` is the number of tokens that are listed, and a token that a row holds is
    listed besides.

    Attributes:
        lists: that its distributions are lists of some tokens.
        family: the hash of the tokenizer's base vocabulary.
        vocab: the number of tokens.
    """

    lists = True
    family, vocab = "", None

    @property
    def behind(self) -> str:
        """Where it is, and its name there."""
        return f"{self.server.url}#{self.name}"

    def listen(self, net: Any) -> None:
        """Take a student's tokenizer for the server's own, unless that is known; see `Remote.listen`.

        Raises:
            Mismatch: the student's tokenizer is another than the one that was given.
        """
        theirs = self.family
        super().listen(net)
        if self.tokenizer is not None:
            self.read_with(self.tokenizer)
        if theirs and self.family != theirs:
            raise Mismatch(f"{self.server.url} numbers tokens by another tokenizer than the student's")

    def read_with(self, tokenizer: Any) -> None:
        """Read ids by a tokenizer."""
        self.tokenizer, self.family, self.vocab = tokenizer, family_of(tokenizer), len(tokenizer)

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer "ids" (B, T, K) and "logp" (B, T, K), -inf where a place has fewer; nothing where the mask is false.

        Raises:
            TeacherUnavailable: the server has stopped answering.
            BadValue: something else is wanted, or the server refuses or lists nothing.
            BadData: numbers that are no log-probabilities.
            Mismatch: a server that numbers tokens otherwise.
        """
        if odd := sorted(want - {"ids", "logp"}):
            raise BadValue(
                f"{self.server.url} lists some log-probabilities and has no {odd[0]!r}, which needs the model itself; "
                "take a loss between distributions, as forward_kl"
            )
        mask_BT, rows = batch["mask"].cpu(), [int(row) for row in batch["mask"].any(1).nonzero()[:, 0]]
        tokens = [batch["tokens"][b, : int(mask_BT[b].nonzero().max()) + 1].tolist() for b in rows]
        how = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": self.top}
        bodies = [{"prompt": ids, **how} for ids in tokens]
        said = self._ask(bodies, self._listed, batch.get("index", torch.arange(len(mask_BT)))[rows].tolist())
        found = {b: self._checked(ids, answer["lists"]) for b, ids, answer in zip(rows, tokens, said, strict=True)}
        return {k: v.to(batch["tokens"].device) for k, v in _laid(found, mask_BT).items()}

    def _listed(self, answer: Any) -> dict[str, Any]:
        """Of every token of a prompt but the first: the ids listed, their log-probabilities, and how they read."""
        choice = answer["choices"][0]
        places = choice.get("prompt_logprobs") or answer.get("prompt_logprobs")
        if not places:
            raise BadValue(f"{self.server.url} lists no log-probabilities of prompts (prompt_logprobs), as vLLM does")
        lists = []
        for place in places[1:]:
            entries = [(int(token), float(e["logprob"]), e.get("decoded_token")) for token, e in place.items()]
            lists.append([list(column) for column in zip(*entries, strict=True)])
        return {"lists": lists}

    def _checked(self, tokens: list[int], lists: list[Any]) -> Lists:
        """What was listed for one row, once it is about these tokens and made of log-probabilities."""
        if len(lists) != len(tokens) - 1:
            raise BadData(f"{self.server.url} listed {len(lists) + 1} places of a row of {len(tokens)} tokens")
        read, apart = 0, []
        for token, (ids, logp, texts) in zip(tokens[1:], lists, strict=True):
            if token not in ids:
                raise Mismatch(f"{self.server.url} was asked about token {token} and lists {ids[:4]}: other ids")
            if any(math.isnan(p) or p > 1e-3 for p in logp):
                raise BadData(f"{self.server.url} lists log-probabilities that are none: {logp[:4]}")
            said = texts[ids.index(token)]
            if self.tokenizer is not None and said and "\ufffd" not in said:
                own = self.tokenizer.decode([token])
                read += 1
                apart += [(token, said, own)] if own.strip() != said.strip() else []
        if len(apart) > APART * read:
            token, theirs, own = apart[0]
            raise Mismatch(
                f"{self.server.url} reads token {token} as {theirs!r}, the student as {own!r}: another tokenizer"
            )
        return [(ids, logp) for ids, logp, _ in lists]


def _laid(found: dict[int, Lists], mask_BT: Tensor) -> dict[str, Tensor]:
    """The lists of the targets as tensors."""
    most = max((len(ids) for lists in found.values() for ids, _ in lists), default=1)
    ids_BTK = torch.zeros(*mask_BT.shape, most, dtype=torch.long)
    logp_BTK = torch.full(ids_BTK.shape, -torch.inf)
    for b, lists in found.items():
        for t in mask_BT[b].nonzero()[:, 0].tolist():
            ids, logp = lists[t - 1]
            ids_BTK[b, t, : len(ids)], logp_BTK[b, t, : len(ids)] = torch.tensor(ids), torch.tensor(logp)
    return {"ids": ids_BTK, "logp": logp_BTK}


def open_server(spec: str, open_tokenizer: Callable[[Path], Any]) -> Remote:
    """Open a model behind a server, one that lists if its address says how much; nothing is asked of it yet.

    Args:
        spec: `http://HOST/v1#MODEL`, or with `?top=20`, `?top=20&tokenizer=DIR` behind it.
        open_tokenizer: opens the tokenizer of a directory.

    Raises:
        BadValue: what `open_remote` raises, or a number of tokens below 1.
        UnknownName: another setting.

    Example:
        >>> listing = open_server("http://127.0.0.1:8000/v1#org/m-7b?top=5", print)
        >>> listing.name, listing.top
        ('org/m-7b', 5)
    """
    address, mark, name = spec.partition("#")
    plain, _, query = name.partition("?")
    server = open_remote(f"{address}{mark}{plain}")
    given = {key: values[-1] for key, values in parse_qs(query).items()}
    for key in given:
        if key not in OPTIONS:
            raise unknown("setting", key, OPTIONS, where=spec)
    if not given:
        return server
    if not given.get("top", "20").isdigit() or given.get("top") == "0":
        raise BadValue(f"top must be a number of tokens, got {given['top']!r}")
    listing = Listing(server.server, server.name, top=int(given.get("top", 20)))
    if "tokenizer" in given:
        listing.read_with(open_tokenizer(Path(given["tokenizer"])))
    return listing
