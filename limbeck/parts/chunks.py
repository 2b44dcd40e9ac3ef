"""One text in two tokenizers: what student and teacher think of the same pieces of it, whatever their tokens are.

A text is cut where both tokenisations have a boundary at the same byte. The pieces between, the chunks, have a
likelihood under each model: the product of those of its tokens, given the true text before.

    Make("align", in_teacher_tokens() >> joined(), into="aligned")    each row once
    teacher_tokens() * chunk_kl()                                      the loss

Shapes: B rows, T tokens of the student, S of the teacher, C chunks, N tokens or chunks of all rows. Chunks are numbered
from 1 in each row; 0 is no chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from limbeck.adapters.pieces import Pieces, pieces_of, reread
from limbeck.batch import Batch
from limbeck.errors import BadData, BadValue
from limbeck.kernels.binary import binary_kl, binary_kl_limit
from limbeck.kernels.divergence import cross_entropy_pair
from limbeck.kernels.fused import fused_sum, rows_of_chunk
from limbeck.kernels.head import TokenHead
from limbeck.kernels.ordered import ordered_distance_pair
from limbeck.part import part
from limbeck.parts.token import exact_weight
from limbeck.players import Player, Players

__all__ = [
    "chunk_kl",
    "chunk_kl_limit",
    "displaced",
    "in_teacher_tokens",
    "joined",
    "likelihoods",
    "ordered_distance",
    "teacher_rows",
    "teacher_tokens",
]

LOGITS = 2**25  # logits that are held at a time


@part
def in_teacher_tokens(players: Players, batch: Batch) -> Batch:
    """Write every row in the teacher's tokens too, and number the chunks of its targets.

    c = 1, 2, ... between the bytes at which both tokenisations have a boundary

    Args:
        players: the tokenizers of `student` and `teacher`.
        batch: columns `tokens`, `mask` and `length`.

    Returns:
        The rows with the columns `teacher_tokens`, `teacher_mask` and `teacher_chunk` (B, S), and `chunk` (B, T).

    Raises:
        BadValue: a player without a fast tokenizer.
        BadData: no text in common.

    Source: Minixhofer et al., arXiv:2503.20083, section 3.1.
    """
    mine, theirs = pieces_of(players.student), pieces_of(players.teacher)
    context = getattr(players.teacher, "context", None) or 0
    rows = [
        reread(mine, theirs, tokens[:n], mask[:n], context)
        for tokens, mask, n in zip(batch.tokens.tolist(), batch.mask.tolist(), batch.length.tolist(), strict=True)
    ]
    if batch.mask.any() and not any(map(any, (row.chunk for row in rows))):
        raise BadData("the tokenizers of student and teacher have no piece of the targets in common: is it one text?")
    columns = {
        "teacher_tokens": _padded([row.tokens for row in rows], batch.device),
        "teacher_mask": _padded([[*map(int, row.mask)] for row in rows], batch.device).bool(),
        "teacher_chunk": _padded([row.chunk for row in rows], batch.device),
        "chunk": _padded([row.own for row in rows], batch.device, batch.tokens.shape[1]),
    }
    return batch.with_(**columns)


def _padded(rows: list[list[int]], device: torch.device, width: int = 0) -> Tensor:
    """Rows of numbers (B, width of the longest, or `width`), filled up with 0."""
    width = max(width, *map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.long, device=device)


def teacher_rows(batch: Batch) -> Batch:
    """The rows as the teacher reads them.

    Args:
        batch: what `in_teacher_tokens` made.
    """
    names = ("tokens", "mask", "chunk")
    return batch.with_(**{name: batch[f"teacher_{name}"] for name in names})


# -- boundaries that only one tokenizer would see ---------------------------------------------------------------------


@part
def joined(players: Players, batch: Batch, *, threshold: float = 0.1) -> Batch:
    """Join each chunk to the next where one model would often not have ended it, since a longer token goes on from it.

    a boundary after tokens v of the teacher and w of the student stands if
    sum_u p(u | before v) <= threshold over u = v + s, s such that no token is w + s; and the other way round

    The likelihood of a chunk leaves out the texts that go on within a longer token. Where the other tokenizer has the
    same longer token, both leave them out.

    Args:
        players: `student` and `teacher`, asked as they are.
        batch: what `in_teacher_tokens` made.
        threshold: the mass that may be lost at a boundary.

    Returns:
        The rows with `chunk` and `teacher_chunk` numbered anew; what is left behind the last boundary is no chunk.

    Source: Minixhofer et al., arXiv:2503.20083, section 3.3 (outcome chunk debiasing), with each model's own mass in
        its context in place of a table of pairs.
    """
    mine, theirs = pieces_of(players.student), pieces_of(players.teacher)
    there = teacher_rows(batch)
    own_N, its_N = batch.tokens[_ends(batch.chunk)].tolist(), there.tokens[_ends(there.chunk)].tolist()
    beyond = [_beyond(theirs, mine, v, w) for v, w in zip(its_N, own_N, strict=True)]
    behind = [_beyond(mine, theirs, w, v) for v, w in zip(its_N, own_N, strict=True)]
    lost_N = torch.maximum(_mass(players.teacher, there, beyond), _mass(players.student, batch, behind))
    ends_BT = _ends(batch.chunk)
    stands_BT = torch.zeros_like(ends_BT).masked_scatter_(ends_BT, lost_N <= threshold)
    stands_BC = _by_chunk(batch.chunk, stands_BT.long()).bool()
    number_BC = 1 + stands_BC.cumsum(1) - stands_BC.long()
    number_BC *= (number_BC <= stands_BC.sum(1, keepdim=True)).long()
    number_BC = torch.nn.functional.pad(number_BC, (1, 0))
    chunk = {name: number_BC.gather(1, batch[name]) for name in ("chunk", "teacher_chunk")}
    return batch.with_(**chunk)


def _ends(chunk_BT: Tensor) -> Tensor:
    """Where a chunk ends: its last token, also of one that was joined over tokens of no chunk."""
    none = chunk_BT.shape[1] + 1
    later_BT = chunk_BT.where(chunk_BT > 0, none).flip(1).cummin(1).values.flip(1)
    return (chunk_BT > 0) & (torch.nn.functional.pad(later_BT[:, 1:], (0, 1), value=none) != chunk_BT)


@lru_cache(maxsize=1 << 20)
def _beyond(mine: Pieces, theirs: Pieces, token: int, other: int) -> tuple[int, ...]:
    """The tokens that go on from one token as no token of the other tokenizer goes on from its own."""
    longer, known = mine.longer(token), theirs.longer(other)
    return tuple(i for more, i in longer.items() if more not in known)


@torch.no_grad()
def _mass(player: Player, batch: Batch, ids: list[tuple[int, ...]]) -> Tensor:
    """The probability (N,) of some tokens at the ends of the chunks."""
    head: TokenHead = player(batch, "head").predicting(_ends(batch.chunk))
    out, rows = [], max(1, LOGITS // head.size)
    for start, logits in enumerate(head.chunks(rows)):
        some = ids[start * rows : start * rows + len(logits)]
        row = torch.tensor([n for n, members in enumerate(some) for _ in members], dtype=torch.long)
        column = torch.tensor([i for members in some for i in members], dtype=torch.long)
        row, column = row.to(logits.device), column.to(logits.device)
        inside = column < head.size
        p_NV = logits.softmax(-1)
        out.append(p_NV.new_zeros(len(logits)).index_add_(0, row[inside], p_NV[row[inside], column[inside]]))
    return torch.cat(out)


@part
def displaced(players: Players, batch: Batch) -> Batch:
    """Give each chunk the teacher's tokens of the next one, and the last those of the first: a control.

    Args:
        players: not asked.
        batch: what `in_teacher_tokens` made.
    """
    its_BS = batch.teacher_chunk
    turned_BS = torch.where(its_BS == 1, its_BS.amax(1, keepdim=True), its_BS - 1)
    return batch.with_(teacher_chunk=turned_BS.where(its_BS > 0, 0))


# -- likelihoods ------------------------------------------------------------------------------------------------------


def _by_chunk(chunk_BT: Tensor, values_BT: Tensor, chunks: int = 0) -> Tensor:
    """Sums of values over the tokens of each chunk, (B, C)."""
    count = chunks or int(chunk_BT.max())
    sums = values_BT.new_zeros(len(chunk_BT), count + 1)
    return sums.scatter_add(1, chunk_BT, values_BT)[:, 1:]


def likelihoods(player: Player, batch: Batch) -> Tensor:
    """The log-probabilities of the tokens in chunks, 0 at all others; logits are made a few tokens at a time.

    Args:
        player: a language model.
        batch: columns `tokens` and `chunk` in its own tokens.

    Returns:
        (B, T), float64, without a graph.
    """
    here_BT = batch.chunk > 0
    head: TokenHead = player(batch, "head").predicting(here_BT).detach()
    rows, token_N = rows_of_chunk(head), batch.tokens[here_BT]
    with torch.no_grad():
        pieces = [
            logits.log_softmax(-1).gather(-1, token[:, None])[:, 0].double()
            for logits, token in zip(head.chunks(rows), token_N.split(rows), strict=False)
        ]
    logp_BT = torch.zeros(here_BT.shape, dtype=torch.float64, device=here_BT.device)
    return logp_BT.masked_scatter(here_BT, torch.cat(pieces)) if pieces else logp_BT


def _compared(players: Players, batch: Batch, weight: Tensor, f: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Sum f(log p, log q) over chunks, each with the weight of its last token; the gradient goes by the fused sum.

    f needs the likelihoods of whole chunks before any derivative is known. So they are made first, without a graph; the
    derivative by the log-probability of each token is then the weight of a cross-entropy, which carries it on.
    """
    here_BT = (batch.chunk > 0) & batch.mask
    log_q_BT, there = likelihoods(players.student, batch), teacher_rows(batch)
    chunks = int(max(batch.chunk.max(), there.chunk.max(), 1))
    log_p_BC = _by_chunk(there.chunk, likelihoods(players.teacher, there), chunks)
    weight_BC = _by_chunk(batch.chunk, exact_weight(weight).double() * _ends(batch.chunk), chunks)
    with torch.enable_grad():
        log_q_BT.requires_grad_()
        # places without a chunk have log-probabilities of 0, where f is 0 or its weight is
        total = (weight_BC * f(log_p_BC, _by_chunk(batch.chunk, log_q_BT, chunks))).sum()
        (slope_BT,) = torch.autograd.grad(total, log_q_BT)
    student = players.student(batch, "head").predicting(here_BT)
    exact = torch.promote_types(student.hidden.dtype, torch.float32)
    carrier = fused_sum(student, -slope_BT[here_BT].to(exact), cross_entropy_pair, batch.tokens[here_BT])
    return total.detach().to(exact) + (carrier - carrier.detach())


@part
def chunk_kl(players: Players, batch: Batch, weight: Tensor, *, tau: float = 100.0) -> Tensor:
    """Make every chunk as likely under the student as under the teacher.

    sum_c w_c [a log(a / b) + (1 - a) log((1 - a) / (1 - b))], a = p(c)^(1/tau), b = q(c)^(1/tau), p(c) = prod_t p_t

    Args:
        players: `student` and `teacher`, language models of any tokenizers.
        batch: what `in_teacher_tokens` made.
        weight: (B, T); a chunk has that of its last token.
        tau: the temperature; a larger one minds the likely chunks less, and in the limit is `chunk_kl_limit`.

    Raises:
        BadValue: tau is not positive.

    Source: Minixhofer et al., arXiv:2503.20083, equation 3.
    """
    if tau <= 0:
        raise BadValue(f"chunk_kl needs tau > 0, got {tau:g}")
    return _compared(players, batch, weight, lambda log_p, log_q: binary_kl(log_p, log_q, tau))


@part
def chunk_kl_limit(players: Players, batch: Batch, weight: Tensor) -> Tensor:
    """Make every chunk as likely under the student as under the teacher, at an infinite temperature.

    sum_c w_c [log p(c) - log q(c) + log p(c) (log(-log q(c)) - log(-log p(c)))], the limit of tau `chunk_kl`

    Args:
        players: `student` and `teacher`, language models of any tokenizers.
        batch: what `in_teacher_tokens` made.
        weight: (B, T); a chunk has that of its last token.

    Source: Minixhofer et al., arXiv:2503.20083, appendix.
    """
    return _compared(players, batch, weight, binary_kl_limit)


@part
def teacher_tokens(players: Players, batch: Batch) -> Tensor:
    """Weigh a chunk by how many tokens the teacher has for it: a weight for the losses of chunks.

    w_c = #{teacher's tokens in c}

    Args:
        players: not asked.
        batch: what `in_teacher_tokens` made.

    Returns:
        (B, T), the number of the chunk that each token is in; 0 outside chunks.

    Example:
        >>> batch = Batch({"chunk": torch.tensor([[0, 1, 1, 2]]), "teacher_chunk": torch.tensor([[0, 1, 2, 2]])})
        >>> teacher_tokens()(None, batch)
        tensor([[0., 1., 1., 2.]])
    """
    chunks = int(max(batch.chunk.max(), batch.teacher_chunk.max(), 1))
    count_BC = _by_chunk(batch.teacher_chunk, (batch.teacher_chunk > 0).float(), chunks)
    return torch.nn.functional.pad(count_BC, (1, 0)).gather(1, batch.chunk)


@part
def ordered_distance(players: Players, batch: Batch, weight: Tensor) -> Tensor:
    """Give the student's next-token probabilities the sizes of the teacher's, whatever tokens they belong to.

    sum_t w_t sum_i |q_t(i) - p_t(i)|, the i-th largest of each; the t-th target of one against that of the other

    Args:
        players: `student` and `teacher`, language models of any tokenizers.
        batch: what `in_teacher_tokens` made.
        weight: (B, T); targets that the other tokenisation has no counterpart of count nothing.

    Source: Boizard et al., "Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs",
        arXiv:2402.12030, equation 6.
    """
    there = teacher_rows(batch)
    both_B1 = torch.minimum(batch.mask.sum(1), there.mask.sum(1))[:, None]
    own_BT, its_BS = (mask & (mask.cumsum(1) <= both_B1) for mask in (batch.mask, there.mask))
    student, teacher = (
        player(rows, "head").predicting(mask)
        for player, rows, mask in ((players.student, batch, own_BT), (players.teacher, there, its_BS))
    )
    return fused_sum(student, exact_weight(weight[own_BT]), ordered_distance_pair, teacher)
