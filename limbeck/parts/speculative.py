"""Speculative decoding: a draft proposes tokens, its target checks all of them in one call and keeps what it may.

What comes out is distributed exactly as if the target had spoken alone. A proposed token x, drawn from the draft's q,
is kept with probability min(1, p(x) / q(x)); in place of the first one refused stands a draw from the rest,
max(0, p - q) / sum max(0, p - q), and after a block kept whole one more token comes from p itself. So a proposed token
is kept with probability sum_v min(p(v), q(v)) = 1 - TV(p, q), which is what a draft is distilled for.

Shapes: B rows, T tokens, K proposed tokens, V vocabulary.

Source: Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", arXiv:2211.17192, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import BadValue, Mismatch
from limbeck.parts.draft_length import Belief
from limbeck.parts.rollout import choose
from limbeck.players import Player
from limbeck.rng import Rng

__all__ = ["Speculation", "expected_tokens", "speculate"]


@dataclass
class Speculation:
    """What was said, and what it took.

    Args:
        tokens: (B, T) right-padded, prompts and continuations.
        length: (B,).
        calls: forwards of the target.
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


@dataclass
class _Reader:
    """A net and what it has read of one row."""

    player: Player
    temperature: float
    device: torch.device
    cache: Any = None
    read: list[int] = field(default_factory=list)

    def probs(self, tokens: list[int]) -> Tensor:
        """The distributions (n, V) after each token that it had not read yet; float64."""
        shared = next((i for i, (a, b) in enumerate(zip(self.read, tokens, strict=False)) if a != b), len(self.read))
        keep = min(shared, len(tokens) - 1)
        if self.cache is not None and keep < len(self.read):
            self.cache = _cut(self.cache, len(self.read) - keep)
        new = torch.tensor([tokens[keep:]], device=self.device)
        positions = torch.arange(keep, len(tokens), device=self.device)[None]
        asked = {"tokens": new, "seen": torch.ones(1, len(tokens), dtype=torch.bool, device=self.device)}
        net: Any = self.player.module
        answer = net(asked | {"positions": positions, "cache": self.cache}, frozenset({"logits", "cache"}))
        self.cache, self.read = answer["cache"], list(tokens)
        logits = answer["logits"][0].double()
        if self.temperature == 0:
            return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()
        return (logits / self.temperature).softmax(-1)


def _cut(cache: Any, last: int) -> Any:
    """The cache without the last tokens: a key-value cache of transformers, or the tokens themselves."""
    if isinstance(cache, Tensor):
        return cache[:, :-last]
    cache.crop(-last)
    return cache


@torch.no_grad()
def speculate(
    target: Player, draft: Player, tokens_BT: Tensor, length_B: Tensor, rng: Rng, *,
    block: int | Belief = 4, temperature: float = 1.0, max_new_tokens: int = 128,
) -> Speculation:  # fmt: skip
    """Let a target continue rows with the help of a draft; row by row, each with its own caches.

    Args:
        target: whose distribution is followed exactly.
        draft: who proposes; of the same vocabulary.
        tokens_BT: right-padded prompts.
        length_B: their lengths, at least 1.
        rng: the streams of the rows; position k of a continuation uses the k-th number of each, so that what is said
            does not depend on the size of the block.
        block: tokens proposed at a time, gamma in the paper; or what they are drawn from.
        temperature: of both softmaxes; 0 is greedy.
        max_new_tokens: a row stops there if it does not end itself.

    Returns:
        The rows and the counts.

    Raises:
        BadValue: a block of no tokens, or a negative temperature.
        Mismatch: vocabularies of different size, or of different tokenizers.

    Source: Leviathan et al., arXiv:2211.17192, algorithm 1.
    """
    if (isinstance(block, int) and block < 1) or temperature < 0:
        raise BadValue(f"speculation needs block >= 1 and temperature >= 0, got {block} and {temperature:g}")
    if target.vocab != draft.vocab or getattr(target, "family", "") != getattr(draft, "family", ""):
        raise Mismatch(f"draft ({draft.vocab} tokens) and target ({target.vocab} tokens) must have one vocabulary")
    draws = {name: rng.uniform(name, max_new_tokens) for name in ("propose", "keep", "mend")}
    if isinstance(block, Belief):
        draws["stop"] = rng.uniform("stop", max_new_tokens, block.most)
    out, rows = Speculation(tokens_BT, length_B), []
    for b, prompt in enumerate(tokens_BT.tolist()):
        text = prompt[: int(length_B[b])]
        mine, theirs = (_Reader(player, temperature, tokens_BT.device) for player in (target, draft))
        rows.append(_row(text, mine, theirs, {k: u[b] for k, u in draws.items()}, block, max_new_tokens, out))
    made = [torch.tensor(row, device=tokens_BT.device) for row in rows]
    out.tokens = torch.nn.utils.rnn.pad_sequence(made, batch_first=True, padding_value=target.pad)
    out.length = torch.tensor([len(row) for row in rows], device=tokens_BT.device)
    return out


def _row(
    text: list[int], target: _Reader, draft: _Reader, u: dict[str, Tensor], block: int | Belief, most: int,
    out: Speculation,
) -> list[int]:  # fmt: skip
    """Continue one row until it ends or is long enough."""
    block = replace(block) if isinstance(block, Belief) else block
    start, ends = len(text), set(target.player.eos)
    while (said := len(text) - start) < most and not (said and text[-1] in ends):
        size = block.draw(u["stop"][said]) if isinstance(block, Belief) else block
        proposed, q_KV = _propose(text, draft, u["propose"][said:], min(size, most - said - 1), ends)
        p_KV = target.probs(text + proposed)[-len(proposed) - 1 :]
        kept = _kept(p_KV, q_KV, proposed, u["keep"][said:])
        out.calls, out.proposed, out.kept = out.calls + 1, out.proposed + len(proposed), out.kept + kept
        if isinstance(block, Belief):
            block.learn(kept, len(proposed))
        text = text + proposed[:kept]
        if kept < len(proposed) or not (proposed and proposed[-1] in ends):
            rest_V = p_KV[kept] if kept == len(proposed) else (p_KV[kept] - q_KV[kept]).clamp(min=0)
            text = [*text, int(choose(rest_V.log()[None], u["mend"][said + kept, None]))]
    return text


def _propose(
    text: list[int], draft: _Reader, u_K: Tensor, block: int, ends: set[int]
) -> tuple[list[int], list[Tensor]]:
    """Draw the next tokens from the draft, one after the other; nothing follows one that ends the text."""
    proposed: list[int] = []
    q_KV: list[Tensor] = []
    while len(proposed) < block and not (proposed and proposed[-1] in ends):
        q_KV.append(draft.probs(text + proposed)[-1])
        proposed.append(int(choose(q_KV[-1].log()[None], u_K[len(proposed), None])))
    return proposed, q_KV


def _kept(p_KV: Tensor, q_KV: list[Tensor], proposed: list[int], u_K: Tensor) -> int:
    """How many proposed tokens stand before the first that is refused."""
    for k, token in enumerate(proposed):
        if float(u_K[k]) * float(q_KV[k][token]) >= float(p_KV[k, token]):
            return k
    return len(proposed)
