"""Rollouts: batches made of what a language model says itself.

Sampling uses one uniform number per row and decoding step, from the row's own stream, and inverts the distribution
function: what a row says depends neither on its neighbours nor on the padding (beyond floating point).

Shapes: B rows, T tokens, V vocabulary, K new tokens. Rows of prompts have columns `tokens`, `length` and `prompt` (B,)
int64, the number of leading tokens that are the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from limbeck.batch import Batch
from limbeck.errors import BadData, BadValue, BrokenRecipe
from limbeck.part import Expr, part
from limbeck.parts.transcript import take
from limbeck.players import Player, Players
from limbeck.rng import Rng

__all__ = ["choose", "mixed", "rollout", "sample"]


def choose(logits_BV: Tensor, u_B: Tensor, *, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """Turn uniform numbers into tokens by inverting the distribution function.

    The token is the first k with p_1 + ... + p_k >= u, where p = softmax(logits / temperature), cut to the smallest set
    of most probable tokens that holds top_p of the mass.

    Args:
        logits_BV: the logits; -inf is a token that is never taken.
        u_B: in (0, 1).
        temperature: 0 takes the most probable token.
        top_p: in (0, 1]; 1 cuts nothing.

    Returns:
        (B,) int64.

    Raises:
        BadValue: a negative temperature, or top_p outside (0, 1].

    Example:
        >>> choose(torch.tensor([[0.0, 0.0, -torch.inf]]).expand(3, 3), torch.tensor([0.1, 0.6, 0.999])).tolist()
        [0, 1, 1]

    Source: nucleus sampling, Holtzman et al., arXiv:1904.09751, section 3.1.
    """
    if temperature < 0 or not 0 < top_p <= 1:
        raise BadValue(f"sampling needs temperature >= 0 and 0 < top_p <= 1, got {temperature:g} and {top_p:g}")
    if temperature == 0:
        return logits_BV.argmax(-1)
    # in double precision, a sum over a large vocabulary does not lose its rare tokens
    p_BV = (logits_BV.double() / temperature).softmax(-1)
    if top_p < 1:
        sorted_BV, order_BV = p_BV.sort(dim=-1, descending=True, stable=True)
        beyond_BV = sorted_BV.cumsum(-1) - sorted_BV >= top_p
        p_BV = p_BV.masked_fill(beyond_BV.scatter(-1, order_BV, beyond_BV), 0.0)
    cdf_BV = p_BV.cumsum(-1)
    return torch.searchsorted(cdf_BV, u_B.double()[:, None] * cdf_BV[:, -1:])[:, 0]


@torch.no_grad()
def sample(
    player: Player,
    tokens_BT: Tensor,
    length_B: Tensor,
    rng: Rng,
    *,
    requests: Sequence[str] | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 128,
) -> tuple[Tensor, Tensor]:
    """Let a language model continue rows of tokens until it ends them.

    Its net has `eos`, `pad` and `context` and answers "next" (B, V), the logits after the last token, and "cache",
    whatever it wants to be given back with the next token (see `CausalLM`). A net of text instead has `speak`, which
    continues rows by what they ask in text (see `Remote`); its answer may be empty.

    Args:
        player: whose net speaks; dropout is off meanwhile.
        tokens_BT: right-padded prompts.
        length_B: their lengths, at least 1.
        rng: the streams of the rows; decoding step k uses the k-th number of each.
        requests: what the rows ask in text; only nets of text need it.
        temperature: of the softmax; 0 is greedy.
        top_p: the mass of the nucleus.
        max_new_tokens: a row stops there if it does not end itself.

    Returns:
        tokens (B, T') right-padded, prompt and continuation with the token that ended it, as wide as the longest row;
        and their lengths (B,).

    Raises:
        BadData: an empty prompt, or one that leaves no room for the new tokens in the model's context.
        BrokenRecipe: a player without a net of its own.
    """
    if player.module is None:
        raise BrokenRecipe(f"player {player.name!r} has no net of its own, so it cannot be sampled from")
    _check_room(player, length_B, max_new_tokens, torch.arange(len(length_B)))
    if hasattr(player, "speak"):
        how = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
        return player.speak(requests, tokens_BT, length_B, rng, **how)  # type: ignore[no-any-return]
    u_BK = rng.uniform("token", max_new_tokens)
    ends = torch.tensor(player.eos, dtype=torch.long, device=tokens_BT.device)

    def pick(logits_BV: Tensor, k: int) -> Tensor:
        return choose(logits_BV, u_BK[:, k], temperature=temperature, top_p=top_p)

    with _evaluating(player.module) as net:
        new_BK = _decode(net, *_right_aligned(tokens_BT, length_B, player.pad), pick, ends, max_new_tokens)
    return _joined(tokens_BT, length_B, new_BK, ends, player.pad)


def _decode(
    net: nn.Module, tokens_BT: Tensor, seen_BT: Tensor, pick: Callable[[Tensor, int], Tensor], ends: Tensor, steps: int
) -> Tensor:
    """Continue left-padded rows, all in step, until every one has ended."""
    said: list[Tensor] = []
    ended_B, cache = torch.zeros_like(seen_BT[:, 0]), None
    for k in range(steps):
        positions_BT = (seen_BT.cumsum(1) - 1).clamp(min=0)[:, -tokens_BT.shape[1] :]
        asked = {"tokens": tokens_BT, "seen": seen_BT, "positions": positions_BT, "cache": cache}
        answer = net(asked, frozenset({"next", "cache"}))
        said.append(pick(answer["next"], k))
        ended_B = ended_B | torch.isin(said[-1], ends)
        if _everywhere(ended_B.all(), net):
            break
        tokens_BT, cache = said[-1][:, None], answer["cache"]
        seen_BT = torch.cat((seen_BT, torch.ones_like(seen_BT[:, :1])), 1)
    return torch.stack(said, 1)


def _everywhere(true: Tensor, net: nn.Module) -> bool:
    """Whether it is true in all processes, where they must run a sharded net together; else whether it is true here."""
    if dist.is_initialized() and any(isinstance(p, DTensor) for p in net.parameters()):
        flag = true.int()
        dist.all_reduce(flag, dist.ReduceOp.MIN)
        return bool(flag)
    return bool(true)


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[nn.Module]:
    """Turn dropout off for a while."""
    training = net.training
    net.eval()
    try:
        yield net
    finally:
        net.train(training)


def _right_aligned(tokens_BT: Tensor, length_B: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Move the padding to the left, so that all rows go on in the same column; and say which tokens are true."""
    width = int(length_B.max())
    from_BT = torch.arange(width, device=tokens_BT.device) - (width - length_B)[:, None]
    seen_BT = from_BT >= 0
    return tokens_BT.gather(1, from_BT.clamp(min=0)).where(seen_BT, pad), seen_BT


def _joined(tokens_BT: Tensor, length_B: Tensor, new_BK: Tensor, ends: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Put continuations, up to the token that ends them, behind their prompts."""
    ended_BK = torch.isin(new_BK, ends).long()
    total_B = length_B + (ended_BK.cumsum(1) - ended_BK == 0).sum(1)
    at_BT = torch.arange(int(total_B.max()), device=tokens_BT.device).expand(len(total_B), -1)
    from_BT = at_BT.where(at_BT < length_B[:, None], at_BT + tokens_BT.shape[1] - length_B[:, None])
    both = torch.cat((tokens_BT, new_BK), 1)
    inside_BT = at_BT < total_B[:, None]
    return both.gather(1, from_BT.where(inside_BT, 0)).where(inside_BT, pad), total_B


def _check_room(player: Player, length_B: Tensor, new: int, rows: Tensor) -> None:
    """Refuse prompts that are empty or too long, naming the first.

    Raises:
        BadData: a prompt that the model cannot continue.
    """
    room = (player.context or torch.iinfo(torch.long).max) - new
    bad_B = (length_B < 1) | (length_B > room)
    if not bad_B.any():
        return
    first = int(bad_B.nonzero()[0])
    row, length = int(rows[first]), int(length_B[first])
    if length < 1:
        raise BadData(f"row {row}: the prompt is empty; give it at least one token, such as the one that begins a text")
    raise BadData(
        f"row {row}: a prompt of {length} tokens and {new} new ones exceed the context of {player.name}, "
        f"{player.context} tokens; the prompt may have {max(room, 0)}, or set max_new_tokens lower"
    )


@part
def rollout(
    players: Players, batch: Batch, *, temperature: float = 1.0, top_p: float = 1.0, max_new_tokens: int = 128
) -> Batch:
    """Replace every answer by one that the student gives to the same prompt.

    y ~ q(. | x) token by token, no gradient through the sampling

    Args:
        players: those in the game; `.on(student="teacher")` lets another speak, one behind a server too.
        batch: columns `tokens`, and `prompt` (B,), how many of them are the prompt; for players behind a server also
            `request`, what is asked in text.
        temperature: of the softmax; 0 is greedy.
        top_p: the mass of the nucleus.
        max_new_tokens: a row stops there if it does not end itself.

    Returns:
        The batch with new `tokens`, `length` and `mask`, which is true on the answer and on the token that ends it.
        Rows that were answered with nothing, as may happen with a server, are left out.

    Raises:
        BadData: a prompt that is empty or too long.
    """
    prompt_B = batch["prompt"]
    _check_room(players.student, prompt_B, max_new_tokens, batch.get("index", torch.arange(batch.size)))
    rng = batch.rng.fold("rollout")
    tokens_BT, length_B = sample(
        players.student,
        batch["tokens"],
        prompt_B,
        rng,
        requests=batch.get("request"),
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
    )
    at_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
    mask_BT = (at_T >= prompt_B[:, None]) & (at_T < length_B[:, None])
    said = batch.with_(tokens=tokens_BT, length=length_B, mask=mask_BT)
    answered_B = length_B > prompt_B
    return said if answered_B.all() else take(said, answered_B.nonzero()[:, 0].tolist())


@part
def mixed(players: Players, batch: Batch, *, on_policy: Expr = rollout(), share: float = 0.5) -> Batch:
    """Take the student's own answers in a share of the steps, the given ones in the others.

    on-policy if u <= share, with one u ~ U(0, 1) a step

    The coin is the uniform number of row 0 of the run's streams at this step, which every process and micro-batch can
    draw for itself, so all of them agree without speaking.

    Args:
        players: those in the game.
        batch: rows with given answers and a column `prompt`.
        on_policy: the batch part that makes the student's answers.
        share: how often; lambda in the paper.

    Source: Agarwal et al., arXiv:2306.13649, algorithm 1.
    """
    coin = Rng(batch.rng.key, torch.zeros(1, dtype=torch.long)).uniform("on-policy")
    return on_policy(players, batch) if float(coin) <= share else batch  # type: ignore[operator]
