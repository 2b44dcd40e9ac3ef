"""Speculative decoding: a draft proposes tokens, its target checks all of them in one call and keeps what it may.

What comes out is distributed exactly as if the target had spoken alone. A proposed token x, drawn from the draft's q,
is kept with probability min(1, p(x) / q(x)); in place of the first one refused stands a draw from the rest,
max(0, p - q) / sum max(0, p - q), and after a block kept whole one more token comes from p itself. So a proposed token
is kept with probability sum_v min(p(v), q(v)) = 1 - TV(p, q), which is what a draft is distilled for.

All rows go on together, each as far as its own proposals are kept. Both nets forget the refused tokens: their slots in
the caches are cut off at the end, left out by the mask, or closed up when too many are left out.

Shapes: B rows, A of them that still speak, T tokens, S slots of a cache, K proposed tokens, V vocabulary.

Source: Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", arXiv:2211.17192, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import BadValue, Mismatch
from limbeck.parts.draft_length import Belief
from limbeck.parts.rollout import _check_room, _evaluating, choose
from limbeck.players import Player
from limbeck.rng import Rng

__all__ = ["Speculation", "expected_speedup", "expected_tokens", "speculate"]

# slots are closed up when a cache is so many times as wide as its longest row, and so much wider
WASTE, NEAR = 1.25, 16


@dataclass
class Speculation:
    """What was said, and what it took.

    Args:
        tokens: (B, T) right-padded, prompts and continuations.
        length: (B,).
        calls: checks by the target, those of every row counted.
        proposed: tokens that the draft proposed.
        kept: proposed tokens that the target kept.
    """

    tokens: Tensor
    length: Tensor
    calls: int = 0
    proposed: int = 0
    kept: int = 0


def expected_tokens(acceptance: float, block: int) -> float:
    """The tokens that one call of the target yields on average, if each proposal is kept independently.

    (1 - a^(K+1)) / (1 - a)

    Args:
        acceptance: a, in [0, 1].
        block: K, tokens proposed at a time.

    Example:
        >>> expected_tokens(0.5, 2), expected_tokens(1.0, 4)
        (1.75, 5.0)

    Source: Leviathan et al., arXiv:2211.17192, equation 1.
    """
    return sum(acceptance**k for k in range(block + 1))


def expected_speedup(acceptance: float, block: int, cost: float) -> float:
    """How many times as fast the target speaks with a draft, if it checks a block in the time of one token.

    (1 - a^(K+1)) / ((1 - a) (c K + 1))

    Args:
        acceptance: a, in [0, 1].
        block: K, tokens proposed at a time.
        cost: c, the time of a call of the draft over that of the target.

    Example:
        >>> expected_speedup(1.0, 4, 0.25), expected_speedup(0.0, 4, 0.0)
        (2.5, 1.0)

    Source: Leviathan et al., arXiv:2211.17192, theorem 3.8.
    """
    return expected_tokens(acceptance, block) / (cost * block + 1)


@dataclass
class _Reader:
    """A net and what it has read of the rows that still speak, without their last token.

    Args:
        player: the net's.
        cache: what it remembers.
        holes: whether slots may be left out between others.
        seen: (A, S) bool, which slots of the cache are text.
    """

    player: Player
    cache: Any
    holes: bool
    seen: Tensor

    @classmethod
    def of(cls, player: Player, tokens_BT: Tensor, length_B: Tensor) -> _Reader:
        """Let a net read prompts."""
        from limbeck.adapters.forgetting import empty, roomy  # recipes name parts: they need no model library

        none = cls(player, None, False, torch.ones_like(tokens_BT[:1, :0], dtype=torch.bool))
        none.take(tokens_BT[:1, :1], torch.ones_like(tokens_BT[:1, :1], dtype=torch.bool), "cache")
        reader = cls(player, *empty(none.cache, player.name), torch.ones_like(tokens_BT[:, :0], dtype=torch.bool))
        reader.take(*_last(tokens_BT, length_B, int(length_B.max())), "cache")
        reader.cache = roomy(reader.cache)
        reader.forget(length_B - 1)
        return reader

    def take(self, tokens_AT: Tensor, true_AT: Tensor, want: str) -> Any:
        """Read tokens, those that are true, and answer what is wanted."""
        self.seen = torch.cat((self.seen, true_AT), 1)
        positions_AT = (self.seen.cumsum(1) - 1).clamp(min=0)[:, -tokens_AT.shape[1] :]
        asked = {"tokens": tokens_AT, "seen": self.seen, "positions": positions_AT, "cache": self.cache}
        answer = self.player.module(asked, frozenset({want, "cache"}))  # type: ignore[misc]
        self.cache = answer["cache"]
        return answer[want]

    def unread(self, text_AT: Tensor, length_A: Tensor) -> tuple[Tensor, Tensor]:
        """The last tokens of each row that the net has to read, and which of them are true.

        Rows that lack less than others read some tokens again, so that no slot is left out between two that count.
        """
        width = int((length_A - self.seen.sum(1)).max())
        self.forget((length_A - width).clamp(min=0))
        self._tidy()
        return _last(text_AT, length_A, width)

    def forget(self, keep_A: Tensor) -> None:
        """Forget all tokens of each row but the first."""
        self.seen = self.seen & (self.seen.cumsum(1) <= keep_A[:, None])

    def select(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        from limbeck.adapters.forgetting import selected

        self.cache, self.seen = selected(self.cache, rows), self.seen[rows]

    def _tidy(self) -> None:
        """Cut off the slots at the end that no row needs, and close up the others if they are many or in the way."""
        from limbeck.adapters.forgetting import cropped, gathered

        longest = int(self.seen.sum(1).max())
        used = int(self.seen.any(0).nonzero().max()) + 1 if longest else 0
        if used < self.seen.shape[1]:
            self.cache, self.seen = cropped(self.cache, self.seen.shape[1] - used), self.seen[:, :used]
        if used > WASTE * longest + NEAR if self.holes else bool((self.seen[:, :-1] & ~self.seen[:, 1:]).any()):
            # sorted stably, the slots that count come last and keep their order
            at_AT = self.seen.int().argsort(dim=1, stable=True)[:, used - longest :]
            self.cache, self.seen = gathered(self.cache, at_AT), self.seen.gather(1, at_AT)


def _last(tokens_AT: Tensor, length_A: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The last tokens of rows (A, width), and which of them are true: shorter rows are padded on the left."""
    at_AT = length_A[:, None] - width + torch.arange(width, device=length_A.device)
    return tokens_AT.gather(1, at_AT.clamp(min=0)), at_AT >= 0


@torch.no_grad()
def speculate(
    target: Player, draft: Player, tokens_BT: Tensor, length_B: Tensor, rng: Rng, *,
    block: int | Belief = 4, temperature: float = 1.0, max_new_tokens: int = 128,
) -> Speculation:  # fmt: skip
    """Let a target continue rows with the help of a draft.

    Both nets answer "logits", "next" and "cache" (see `sample`), and their caches can forget: those that hold keys and
    values of every token, or the tokens themselves. What a row says depends neither on its neighbours nor on the
    padding (beyond floating point).

    Args:
        target: whose distribution is followed exactly.
        draft: who proposes; of the same vocabulary.
        tokens_BT: right-padded prompts.
        length_B: their lengths, at least 1.
        rng: the streams of the rows; position k of a continuation uses the k-th number of each.
        block: tokens proposed at a time, gamma in the paper; or what they are drawn from, by each row for itself.
        temperature: of both softmaxes; 0 is greedy.
        max_new_tokens: a row stops there if it does not end itself.

    Returns:
        The rows and the counts.

    Raises:
        BadValue: a block of no tokens, a negative temperature, or a net that cannot forget or reads more than tokens.
        BadData: a prompt that is empty, or leaves no room for the new tokens in the context of one of the two.
        Mismatch: vocabularies of different size, or of different tokenizers.

    Source: Leviathan et al., arXiv:2211.17192, algorithm 1.
    """
    _check(target, draft, length_B, block, temperature, max_new_tokens)
    out = Speculation(_with_room(tokens_BT, length_B, max_new_tokens, target.pad), length_B.clone())
    at_A = torch.arange(len(length_B) if max_new_tokens else 0, device=tokens_BT.device)
    ends = torch.tensor(target.eos, dtype=torch.long, device=tokens_BT.device)
    draws = {name: rng.uniform(name, max_new_tokens).to(ends.device) for name in ("propose", "keep", "mend")}
    sizes = _Sizes(block, rng, max_new_tokens)
    with _evaluating(target.module), _evaluating(draft.module):  # type: ignore[arg-type]
        mine, theirs = (_Reader.of(player, out.tokens, length_B) for player in (target, draft))
        while len(at_A):
            said_A = out.length[at_A] - length_B[at_A]
            size_A = sizes.of(at_A, said_A)
            u = {name: _from(u_BK[at_A], said_A, int(size_A.max()) + 1) for name, u_BK in draws.items()}
            kept_A, count_A = _round(out, at_A, mine, theirs, size_A, u, temperature, ends)
            sizes.learn(at_A, kept_A, count_A)
            length_A = out.length[at_A]
            for reader in (mine, theirs):
                reader.forget(length_A - 1)
            over_A = torch.isin(out.tokens[at_A, length_A - 1], ends) | (length_A - length_B[at_A] >= max_new_tokens)
            if over_A.any():
                stay = (~over_A).nonzero()[:, 0]
                at_A = at_A[stay]
                for reader in (mine, theirs) if len(stay) else ():
                    reader.select(stay)
    out.tokens = out.tokens[:, : int(out.length.max())]
    return out


def _check(target: Player, draft: Player, length_B: Tensor, block: int | Belief, temperature: float, new: int) -> None:
    """Refuse what cannot be decoded.

    Raises:
        BadValue: a block of no tokens, a negative temperature, or a net that reads more than tokens.
        BadData: a prompt that one of the two cannot continue.
        Mismatch: two vocabularies.
    """
    if (isinstance(block, int) and block < 1) or temperature < 0:
        raise BadValue(f"speculation needs block >= 1 and temperature >= 0, got {block} and {temperature:g}")
    if target.vocab != draft.vocab or getattr(target, "family", "") != getattr(draft, "family", ""):
        raise Mismatch(f"draft ({draft.vocab} tokens) and target ({target.vocab} tokens) must have one vocabulary")
    for player in (target, draft):
        if more := getattr(player, "reads", ()):
            raise BadValue(f"speculation goes by tokens alone, and {player.name} reads {' and '.join(more)} as well")
        _check_room(player, length_B, new, torch.arange(len(length_B)))


def _with_room(tokens_BT: Tensor, length_B: Tensor, new: int, pad: int) -> Tensor:
    """The prompts, padded anew, with room for continuations."""
    tokens_BT = tokens_BT[:, : int(length_B.max())]
    inside_BT = torch.arange(tokens_BT.shape[1], device=length_B.device) < length_B[:, None]
    return F.pad(tokens_BT.where(inside_BT, pad), (0, new), value=pad)


def _from(u_AK: Tensor, start_A: Tensor, count: int) -> Tensor:
    """The numbers of each row from its own place on; behind the last one they mean nothing."""
    at_AK = start_A[:, None] + torch.arange(count, device=start_A.device)
    return u_AK.gather(1, at_AK.clamp(max=u_AK.shape[1] - 1))


class _Sizes:
    """How many tokens are proposed for each row: as many as were asked for, or as its own belief draws."""

    def __init__(self, block: int | Belief, rng: Rng, most: int) -> None:
        self.block, self.most = block, most
        if isinstance(block, Belief):
            self.beliefs = [replace(block) for _ in rng.rows]
            self.stop_BKM = rng.uniform("stop", most, block.most).cpu()

    def of(self, at_A: Tensor, said_A: Tensor) -> Tensor:
        """How many for rows that have said so much: one token less than they may say, which is the target's own."""
        if isinstance(self.block, int):
            return (self.most - said_A - 1).clamp(max=self.block)
        places = zip(at_A.tolist(), said_A.tolist(), strict=True)
        drawn = [self.beliefs[b].draw(self.stop_BKM[b, k]) for b, k in places]
        return torch.minimum(torch.tensor(drawn, device=at_A.device), self.most - said_A - 1)

    def learn(self, at_A: Tensor, kept_A: Tensor, count_A: Tensor) -> None:
        """Take in what became of the blocks."""
        if isinstance(self.block, Belief):
            for b, kept, count in zip(at_A.tolist(), kept_A.tolist(), count_A.tolist(), strict=True):
                self.beliefs[b].learn(kept, count)


def _round(
    out: Speculation, at_A: Tensor, target: _Reader, draft: _Reader, size_A: Tensor, u: dict[str, Tensor],
    temperature: float, ends: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Let each row say what is kept of a block and one token of the target's; how many were kept, and proposed."""
    text_AT, length_A = out.tokens[at_A], out.length[at_A]
    block = _propose(draft, text_AT, length_A, size_A, u["propose"], temperature, ends)
    read_AT, true_AT = target.unread(text_AT, length_A)
    given_AK = torch.arange(block.tokens.shape[1], device=at_A.device) < block.count[:, None]
    read_AT, true_AT = torch.cat((read_AT, block.tokens), 1), torch.cat((true_AT, given_AK), 1)
    p_AKV = target.take(read_AT, true_AT, "logits")[:, -1 - given_AK.shape[1] :]
    kept_A = _kept(p_AKV, block, u["keep"], temperature)
    next_A = _next(p_AKV[torch.arange(len(at_A), device=at_A.device), kept_A], block, kept_A, u["mend"], temperature)
    said_AK = F.pad(block.tokens, (0, 1))
    ended_A = (kept_A > 0) & torch.isin(said_AK.gather(1, (kept_A[:, None] - 1).clamp(min=0)), ends)[:, 0]
    said_AK = said_AK.scatter(1, kept_A[:, None], next_A[:, None])
    number_A = kept_A + (~ended_A).long()
    k_K = torch.arange(said_AK.shape[1], device=at_A.device)
    row_N, k_N = (k_K < number_A[:, None]).nonzero(as_tuple=True)
    out.tokens[at_A[row_N], length_A[row_N] + k_N] = said_AK[row_N, k_N]
    out.length[at_A] = length_A + number_A
    out.calls, out.kept = out.calls + len(at_A), out.kept + int(kept_A.sum())
    out.proposed += int(block.count.sum())
    return kept_A, block.count


@dataclass
class _Block:
    """Proposed tokens (A, K), how many of each row count (A,), and the draft's logits (A, V) at each place."""

    tokens: Tensor
    count: Tensor
    logits: list[Tensor]


def _propose(
    draft: _Reader, text_AT: Tensor, length_A: Tensor, size_A: Tensor, u_AK: Tensor, temperature: float, ends: Tensor
) -> _Block:
    """Draw the next tokens from the draft, one after the other; nothing follows one that ends the text."""
    block, going_A = _Block(text_AT[:, :0], torch.zeros_like(size_A), []), size_A > 0
    given = draft.unread(text_AT, length_A) if going_A.any() else None
    while given is not None:
        q_AV, k = draft.take(*given, "next"), len(block.logits)
        token_A = choose(q_AV, u_AK[:, k], temperature=temperature)
        block.logits.append(q_AV)
        block.tokens, block.count = torch.cat((block.tokens, token_A[:, None]), 1), block.count + going_A
        going_A = going_A & ~torch.isin(token_A, ends) & (block.count < size_A)
        given = (token_A[:, None], going_A[:, None]) if going_A.any() else None
    return block


def _kept(p_AKV: Tensor, block: _Block, u_AK: Tensor, temperature: float) -> Tensor:
    """How many proposed tokens stand before the first that is refused: u q(x) < p(x)."""
    stands_AK = torch.arange(block.tokens.shape[1], device=u_AK.device) < block.count[:, None]
    for k, q_AV in enumerate(block.logits):
        x_A = block.tokens[:, k]
        if temperature == 0:
            stands_AK[:, k] &= p_AKV[:, k].argmax(-1) == x_A
        else:
            p_A, q_A = (_probability(z_AV, x_A, temperature) for z_AV in (p_AKV[:, k], q_AV))
            stands_AK[:, k] &= u_AK[:, k] * q_A < p_A
    return stands_AK.long().cumprod(1).sum(1)


def _probability(logits_AV: Tensor, x_A: Tensor, temperature: float) -> Tensor:
    """The probability of one token in each row."""
    logits_AV = logits_AV if temperature == 1 else logits_AV / temperature
    return (logits_AV.gather(1, x_A[:, None])[:, 0] - logits_AV.logsumexp(-1)).exp()


def _next(p_AV: Tensor, block: _Block, kept_A: Tensor, u_AK: Tensor, temperature: float) -> Tensor:
    """The target's own token behind those that are kept: of what the draft left over, where it was refused."""
    if temperature == 0:
        return p_AV.argmax(-1)
    rest_AV, rows = (p_AV / temperature).softmax(-1), (kept_A < block.count).nonzero()[:, 0]
    if len(rows):
        q_RV = torch.stack([block.logits[k][a] for a, k in zip(rows.tolist(), kept_A[rows].tolist(), strict=True)])
        left_RV = (rest_AV[rows] - (q_RV / temperature).softmax(-1)).clamp_(min=0)
        # two distributions that differ by less than rounding leave nothing over: then either will do
        rest_AV[rows] = left_RV.where(left_RV.any(-1, keepdim=True), rest_AV[rows])
    return choose(rest_AV.log_(), u_AK.gather(1, kept_A[:, None])[:, 0])
