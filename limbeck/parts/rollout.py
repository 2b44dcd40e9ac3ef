"""Rollouts: batches made of what a language model says itself.

Sampling uses one uniform number per row and decoding step, from the row's own stream, and inverts the distribution
function: what a row says depends neither on its neighbours nor on the padding (beyond floating point).

Shapes: B rows, T tokens, V vocabulary, K new tokens. Rows of prompts have columns `tokens`, `length` and `prompt` (B,)
int64, the number of leading tokens that are the prompt.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from limbeck.batch import Batch
from limbeck.errors import BadData, BadValue, BrokenRecipe, unknown
from limbeck.part import Expr, part
from limbeck.parts.transcript import take
from limbeck.players import Player, Players
from limbeck.rng import Rng, derive

__all__ = ["choose", "mixed", "recalled_logp", "rollout", "sample", "spoken"]

AT_ONCE = 2**22  # logits whose mass is summed at a time
SAID, MOMENT = "said", "moment"  # the columns `<player>.said` and `<player>.moment` of what a player said
BLOCK = 512  # tokens of a large vocabulary that are summed at once
STAY = 0.8  # the share of rows that go on, at which those that ended leave the batch
SPREAD, NEAR = 1.25, 8  # prompts are read together if the longest is so many times the shortest, or tokens longer


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
    if top_p == 1 and logits_BV.shape[-1] > BLOCK:
        return _inverted(logits_BV, u_B, temperature)
    # in double precision, a sum over a large vocabulary does not lose its rare tokens
    p_BV = (logits_BV.double() / temperature).softmax(-1)
    if top_p < 1:
        sorted_BV, order_BV = p_BV.sort(dim=-1, descending=True, stable=True)
        beyond_BV = sorted_BV.cumsum(-1) - sorted_BV >= top_p
        p_BV = p_BV.masked_fill(beyond_BV.scatter(-1, order_BV, beyond_BV), 0.0)
    cdf_BV = p_BV.cumsum(-1)
    return torch.searchsorted(cdf_BV, u_B.double()[:, None] * cdf_BV[:, -1:])[:, 0]


def _inverted(logits_BV: Tensor, u_B: Tensor, temperature: float) -> Tensor:
    """Invert the distribution function of a large vocabulary: first the block of tokens, then the token in it."""
    blocks = -(-logits_BV.shape[-1] // BLOCK)
    p_BT = F.pad(logits_BV, (0, blocks * BLOCK - logits_BV.shape[-1]), value=-torch.inf)
    p_BT = p_BT.sub_(logits_BV.amax(-1, keepdim=True)).div_(temperature).exp_()
    p_BNK = p_BT.unflatten(-1, (blocks, BLOCK))
    mass_BN = p_BNK.sum(-1).double()
    below_BN = mass_BN.cumsum(-1)
    at_B1 = u_B.double()[:, None] * below_BN[:, -1:]
    block_B1 = torch.searchsorted(below_BN, at_B1)
    share_B1 = (at_B1 - below_BN.gather(-1, block_B1)) / mass_BN.gather(-1, block_B1) + 1
    # in double precision and as a share of the block, no rare token of it is lost
    inside_BK = p_BNK[torch.arange(len(u_B), device=u_B.device), block_B1[:, 0]].double().cumsum(-1)
    first_B1 = torch.searchsorted(inside_BK, share_B1.clamp(min=2.0**-53) * inside_BK[:, -1:])
    return (block_B1 * BLOCK + first_B1)[:, 0]


def sample(player: Player, tokens_BT: Tensor, length_B: Tensor, rng: Rng, **how: Any) -> tuple[Tensor, Tensor]:
    """Let a language model continue rows of tokens until it ends them: `spoken`, without the log-probabilities.

    Args:
        player: whose net speaks.
        tokens_BT: right-padded prompts.
        length_B: their lengths.
        rng: the streams of the rows.
        how: what `spoken` takes besides.

    Returns:
        tokens (B, T') and their lengths (B,).
    """
    return spoken(player, tokens_BT, length_B, rng, **how)[:2]


@torch.no_grad()
def spoken(
    player: Player,
    tokens_BT: Tensor,
    length_B: Tensor,
    rng: Rng,
    *,
    requests: Sequence[str] | None = None,
    given: Mapping[str, Any] | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 128,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Let a language model continue rows of tokens until it ends them.

    Its net has `eos`, `pad` and `context` and answers "next" (B, V), the logits after the last token, and "cache",
    whatever it wants to be given back with the next token (see `CausalLM`). If it reads more than tokens, `reads` names
    the columns (see `Seq2Seq`); they are given to it once, with the prompts. A net of text instead has `speak`, which
    continues rows by what they ask in text (see `Remote`); its answer may be empty.

    Args:
        player: whose net speaks; dropout is off meanwhile.
        tokens_BT: right-padded prompts.
        length_B: their lengths, at least 1.
        rng: the streams of the rows; decoding step k uses the k-th number of each.
        requests: what the rows ask in text; only nets of text need it.
        given: the columns that the net reads beside tokens, and perhaps others.
        temperature: of the softmax; 0 is greedy.
        top_p: the mass of the nucleus.
        max_new_tokens: a row stops there if it does not end itself.

    Returns:
        tokens (B, T') right-padded, prompt and continuation with the token that ended it, as wide as the longest row;
        their lengths (B,); and how likely the net itself finds each token that it said (B, T'), whatever the
        temperature and the nucleus, with 1 where it said none. A net of text does not tell that: None.

    Raises:
        BadData: an empty prompt, or one that leaves no room for the new tokens in the model's context.
        BrokenRecipe: a player without a net of its own.
        UnknownName: a column that the net reads is not given.
    """
    if player.module is None:
        raise BrokenRecipe(f"player {player.name!r} has no net of its own, so it cannot be sampled from")
    _check_room(player, length_B, max_new_tokens, torch.arange(len(length_B)))
    if hasattr(player, "speak"):
        how = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
        return (*player.speak(requests, tokens_BT, length_B, rng, **how), None)
    u_BK = rng.uniform("token", max_new_tokens)
    ends = torch.tensor(player.eos, dtype=torch.long, device=tokens_BT.device)

    def pick(logits_AV: Tensor, at_A: Tensor, k: int) -> Tensor:
        return choose(logits_AV, u_BK[at_A, k], temperature=temperature, top_p=top_p)

    with _evaluating(player.module) as net:
        read = _read(net, tokens_BT, length_B, player.pad, _beside(player, given))
        new = _decode(net, read, player.pad, pick, ends, max_new_tokens)
    return _joined(tokens_BT, length_B, new, ends, player.pad)


def _beside(player: Player, given: Mapping[str, Any] | None) -> dict[str, Tensor]:
    """The columns that a player's net reads beside tokens."""
    columns, names = given or {}, getattr(player, "reads", ())
    if missing := [name for name in names if name not in columns]:
        raise unknown("column", missing[0], columns, where=f"what {player.name} is given to read")
    return {name: columns[name] for name in names}


def _decode(
    net: nn.Module, read: tuple[Tensor, Any, Tensor], pad: int, pick: Callable[[Tensor, Tensor, int], Tensor],
    ends: Tensor, steps: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Continue rows that were read, all in step, until every one has ended; A of them are still in the batch.

    Rows that ended go on until it pays to leave them out, if the net's cache can; what they say then is not read.

    Returns:
        What each says (B, K), and how likely the net found it (B, K).
    """
    together, (next_AV, cache, seen_AT) = _sharded(net), read
    at_A = torch.arange(len(next_AV), device=next_AV.device)
    said_BK, alive_A = at_A.new_full((len(at_A), steps), pad), torch.ones_like(at_A, dtype=torch.bool)
    logp_BK = next_AV.new_zeros(said_BK.shape)
    for k in range(steps):
        said_A = pick(next_AV, at_A, k)
        said_BK[at_A, k], logp_BK[at_A, k] = said_A, _logp(next_AV, said_A)
        alive_A = alive_A & ~torch.isin(said_A, ends)
        left = int(alive_A.sum())
        if k + 1 == steps or _everywhere(left == 0, together, ends.device):
            break
        if left <= STAY * len(at_A) and len(at_A) > 1 and _selects(cache):
            stay = alive_A.nonzero()[:, 0] if left else at_A.new_zeros(1)
            cache = _selected(cache, stay)
            at_A, said_A, alive_A, seen_AT = at_A[stay], said_A[stay], alive_A[stay], seen_AT[stay]
        seen_AT = torch.cat((seen_AT, torch.ones_like(seen_AT[:, :1])), 1)
        next_AV, cache = _ask(net, said_A[:, None], seen_AT, cache)
    return said_BK[:, : k + 1], logp_BK[:, : k + 1]


def _logp(logits_AV: Tensor, token_A: Tensor) -> Tensor:
    """The log-probability (A,) of each row's token, a few rows at a time, so that it takes little memory.

    Example:
        >>> _logp(torch.zeros(2, 4), torch.tensor([0, 3])).exp()
        tensor([0.2500, 0.2500])
    """
    rows = max(1, AT_ONCE // logits_AV.shape[1])
    log_z_A = torch.cat([z.logsumexp(-1) for z in logits_AV.split(rows)])
    return (logits_AV.gather(1, token_A[:, None])[:, 0] - log_z_A).clamp(max=0)


def _ask(
    net: nn.Module, tokens_AT: Tensor, seen_AS: Tensor, cache: Any, beside: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Any]:
    """The logits after the last token, and the cache with all of them; the tokens end where `seen` does."""
    positions_AT = (seen_AS.cumsum(1) - 1).clamp(min=0)[:, -tokens_AT.shape[1] :]
    asked = {"tokens": tokens_AT, "seen": seen_AS, "positions": positions_AT, "cache": cache, **(beside or {})}
    answer = net(asked, frozenset({"next", "cache"}))
    return answer["next"], answer["cache"]


def _read(
    net: nn.Module, tokens_BT: Tensor, length_B: Tensor, pad: int, beside: Mapping[str, Tensor]
) -> tuple[Tensor, Any, Tensor]:
    """Let the net read prompts: equal ones once, and short ones apart from long ones, as far as its cache allows.

    Prompts are equal if what is read beside them is so too.

    Processes that run a sharded net together all ask it equally often, whatever their prompts.

    Returns:
        The logits after each prompt (B, V), the cache of all rows, and which of its tokens are true (B, T).
    """
    together = _sharded(net)
    seen_BT = _right_aligned(tokens_BT, length_B, pad)[1]
    at_T = torch.arange(int(length_B.max()), device=tokens_BT.device)
    marked_BT = tokens_BT[:, : len(at_T)].where(at_T < length_B[:, None], -1)
    first_P, of_B = _distinct(marked_BT, beside)
    prompts_PT, length_P = marked_BT[first_P], length_B[first_P]
    groups = [length_P.argsort(stable=True)] if together else _alike(length_P)
    answers: list[tuple[Tensor, Any]] = []
    for rows in groups:
        theirs = {name: column[first_P[rows]] for name, column in beside.items()}
        answers.append(_ask(net, *_right_aligned(prompts_PT[rows], length_P[rows], pad), None, theirs))
        if not _joins(answers[0][1]):
            break
    cache = answers[0][1]
    if _joins(cache):
        from limbeck.adapters.key_values import joined

        cache = joined([c for _, c in answers])
    elif not _selects(cache) or len(groups) > 1:
        return (*_ask(net, *_right_aligned(tokens_BT, length_B, pad), None, beside), seen_BT)
    from_B = torch.cat(groups).argsort()[of_B]
    return torch.cat([n for n, _ in answers])[from_B], _selected(cache, from_B), seen_BT


def _distinct(marked_BT: Tensor, beside: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The first row (P,) of each different prompt, and which prompt each row (B,) has.

    Example:
        >>> _distinct(torch.tensor([[7], [5], [7], [7]]), {"source": torch.tensor([[1, 2], [1, 2], [1, 2], [3, 2]])})
        (tensor([1, 0, 3]), tensor([1, 0, 1, 2]))
    """
    read = [column for column in beside.values() if column[:1].numel()]
    keys = [torch.unique(column, dim=0, return_inverse=True)[1][:, None] for column in read]
    of_B = torch.unique(torch.cat((marked_BT, *keys), 1), dim=0, return_inverse=True)[1]
    at_B = torch.arange(len(of_B), device=of_B.device)
    first_P = at_B.new_full((int(of_B.max()) + 1,), len(of_B)).scatter_reduce(0, of_B, at_B, "amin")
    return first_P, of_B


def _alike(length_P: Tensor) -> list[Tensor]:
    """Places of prompts in groups of similar length, the shortest first."""
    lengths, order = length_P.sort(stable=True)
    starts = [0]
    for i, n in enumerate(lengths.tolist()):
        if n > max(SPREAD * int(lengths[starts[-1]]), int(lengths[starts[-1]]) + NEAR):
            starts.append(i)
    return [order[a:b] for a, b in itertools.pairwise([*starts, len(order)])]


def _joins(cache: Any) -> bool:
    """Whether caches of different prompts can be put together."""
    if not hasattr(cache, "layers"):
        return False
    from limbeck.adapters.key_values import joins

    return joins(cache)


def _selects(cache: Any) -> bool:
    """Whether rows of the cache can be left out, or repeated: a tensor's, and those of transformers' caches."""
    return isinstance(cache, Tensor) or hasattr(cache, "reorder_cache")


def _selected(cache: Any, rows: Tensor) -> Any:
    """The cache of these rows."""
    if isinstance(cache, Tensor):
        return cache[rows]
    cache.reorder_cache(rows)
    return cache


def _sharded(net: nn.Module) -> bool:
    """Whether all processes must run the net together."""
    return dist.is_initialized() and any(isinstance(p, DTensor) for p in net.parameters())


def _everywhere(true: bool, together: bool, device: torch.device) -> bool:
    """Whether it is true in all processes, where they run a net together; else whether it is true here."""
    if not together:
        return true
    flag = torch.tensor(int(true), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag)


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


def _joined(
    tokens_BT: Tensor, length_B: Tensor, new: tuple[Tensor, Tensor], ends: Tensor, pad: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Put continuations, up to the token that ends them, behind their prompts, and 1 where no token was said."""
    new_BK, logp_BK = new
    ended_BK = torch.isin(new_BK, ends).long()
    total_B = length_B + (ended_BK.cumsum(1) - ended_BK == 0).sum(1)
    at_BT = torch.arange(int(total_B.max()), device=tokens_BT.device).expand(len(total_B), -1)
    from_BT = at_BT.where(at_BT < length_B[:, None], at_BT + tokens_BT.shape[1] - length_B[:, None])
    inside_BT = at_BT < total_B[:, None]
    from_BT = from_BT.where(inside_BT, 0)
    both, scores = torch.cat((tokens_BT, new_BK), 1), torch.cat((torch.ones_like(tokens_BT), logp_BK), 1)
    return both.gather(1, from_BT).where(inside_BT, pad), total_B, scores.gather(1, from_BT).where(inside_BT, 1.0)


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
            `request`, what is asked in text; and whatever else the student reads (see `sample`).
        temperature: of the softmax; 0 is greedy.
        top_p: the mass of the nucleus.
        max_new_tokens: a row stops there if it does not end itself.

    Returns:
        The batch with new `tokens`, `length` and `mask`, which is true on the answer and on the token that ends it;
        and with what `recalled_logp` reads. Rows that were answered with nothing, as may happen with a server, are left
        out.

    Raises:
        BadData: a prompt that is empty or too long.
    """
    prompt_B = batch["prompt"]
    _check_room(players.student, prompt_B, max_new_tokens, batch.get("index", torch.arange(batch.size)))
    rng = batch.rng.fold("rollout")
    tokens_BT, length_B, logp_BT = spoken(
        players.student,
        batch["tokens"],
        prompt_B,
        rng,
        requests=batch.get("request"),
        given=batch,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
    )
    at_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
    mask_BT = (at_T >= prompt_B[:, None]) & (at_T < length_B[:, None])
    said = batch.with_(tokens=tokens_BT, length=length_B, mask=mask_BT, **_kept(players.student, batch, logp_BT))
    answered_B = length_B > prompt_B
    return said if answered_B.all() else take(said, answered_B.nonzero()[:, 0].tolist())


def _kept(player: Player, batch: Batch, logp_BT: Tensor | None) -> dict[str, Tensor]:
    """The columns from which `recalled_logp` knows what a player said, and when; none of a net in low precision."""
    if logp_BT is None or not _precise(player.module):
        return {}
    moment_B = torch.full((batch.size,), _moment(player, batch), device=batch.device)
    return {f"{player.name}.{SAID}": logp_BT, f"{player.name}.{MOMENT}": moment_B}


def _precise(net: nn.Module | None) -> bool:
    """Whether what is said token by token and what is found of the whole text agree to rounding in float32."""
    weights = () if net is None else net.parameters()
    low = any(p.is_floating_point() and p.dtype not in (torch.float32, torch.float64) for p in weights)
    return not low and not hasattr(net, "_original_forward")  # which accelerate keeps beside one in mixed precision


def _moment(player: Player, batch: Batch) -> int:
    """A number for a player's weights at a place in the run: of no other run, step or update."""
    return derive(batch.rng.key, "moment", player.version())


def recalled_logp(player: Player, batch: Batch) -> Tensor | None:
    """The log-probability that a player gave every target when it said it, if it did so now, with the same weights.

    log q(y_t | y_<t), of the softmax at temperature 1, whatever the sampling was

    Args:
        player: a language model.
        batch: columns `tokens` and `mask`.

    Returns:
        (B, T), 0 where the mask is false; None if the targets are not what the player said in this step, or if it
        has changed since, or computes in lower precision than float32.
    """
    said_BT, moment_B = (batch.get(f"{player.name}.{what}") for what in (SAID, MOMENT))
    if said_BT is None or bool((moment_B != _moment(player, batch)).any()):
        return None
    logp_BT: Tensor = said_BT.where(batch["mask"], 0.0)
    return None if bool((logp_BT > 0).any()) else logp_BT


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
