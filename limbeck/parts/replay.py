"""Answers of the student's own, told again: how often it speaks grows with its need, and what it said is kept.

A state player `replay` holds the memory of a run: rows that the student said, how large a share of the steps its own
answers have, and the held-out rows by whose loss that share is set. A stage `Solve("hold", hold_out(), ("replay",),
data="valid")` fills in the last before learning begins.

Shapes: B rows, T tokens, C places of the memory, W tokens of a place.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import BadData, BadValue, BrokenRecipe
from limbeck.part import Expr, part
from limbeck.parts.policy import logp_of_tokens
from limbeck.parts.rollout import rollout
from limbeck.players import Player, Players
from limbeck.rng import Rng

__all__ = ["Replay", "Rows", "adaptive", "hold_out", "replay"]

ROWS = 64  # held-out rows whose loss is taken at a time


class Rows(nn.Module):
    """Rows of tokens in places of one width; where all are taken, the oldest rows give way.

    Args:
        capacity: the number of places.
        width: the longest row, in tokens.

    Attributes:
        tokens: (C, W) int64.
        length: (C,) int64, tokens before the padding.
        prompt: (C,) int64, tokens before the answer.
        seen: () int64, all rows that were ever pushed.

    Example:
        >>> rows = Rows(2, 4)
        >>> for token in (5, 6, 7):
        ...     rows.push(torch.tensor([[1, token]]), torch.tensor([2]), torch.tensor([1]))
        >>> rows.take(torch.tensor([0, 1]))["tokens"].tolist(), rows.filled
        ([[1, 7], [1, 6]], 2)
    """

    tokens: Tensor
    length: Tensor
    prompt: Tensor
    seen: Tensor

    def __init__(self, capacity: int, width: int) -> None:
        super().__init__()
        self.register_buffer("tokens", torch.zeros(capacity, width, dtype=torch.long))
        self.register_buffer("length", torch.zeros(capacity, dtype=torch.long))
        self.register_buffer("prompt", torch.zeros(capacity, dtype=torch.long))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    @property
    def filled(self) -> int:
        """How many places hold a row."""
        return min(int(self.seen), len(self.tokens))

    def push(self, tokens_BT: Tensor, length_B: Tensor, prompt_B: Tensor) -> None:
        """Keep rows, the last ones if there are more than places.

        Raises:
            BadData: a row longer than a place.
        """
        capacity, width = self.tokens.shape
        if len(length_B) and int(length_B.max()) > width:
            raise BadData(f"a row of {int(length_B.max())} tokens does not fit into a memory {width} wide")
        at_B = (int(self.seen) + torch.arange(len(length_B), device=self.tokens.device)) % capacity
        kept = slice(max(0, len(length_B) - capacity), None)
        cut_BT = tokens_BT[kept, :width]
        self.tokens[at_B[kept]] = nn.functional.pad(cut_BT, (0, width - cut_BT.shape[1]))
        self.length[at_B[kept]], self.prompt[at_B[kept]] = length_B[kept], prompt_B[kept]
        self.seen += len(length_B)

    def take(self, places: Tensor) -> dict[str, Tensor]:
        """The rows at some places, as columns of language data, as wide as the longest."""
        length_B, prompt_B = self.length[places], self.prompt[places]
        at_T = torch.arange(int(length_B.max()), device=length_B.device)
        mask_BT = (at_T >= prompt_B[:, None]) & (at_T < length_B[:, None])
        tokens_BT = self.tokens[places][:, : len(at_T)]
        return {"tokens": tokens_BT, "mask": mask_BT, "length": length_B, "prompt": prompt_B, "index": places}


class Replay(nn.Module):
    """The memory of a run that learns on answers of its own.

    Args:
        capacity: rows of the memory.
        width: the longest row, in tokens.
        held: held-out rows.
        share: of the steps on the student's own answers, at first.

    Attributes:
        said: the memory.
        held: the held-out rows.
        share: () float64; phi in the paper.
        loss: () float64, the held-out loss at the last rise of the share.
        spoken: () int64, tokens that the student generated so far.
    """

    share: Tensor
    loss: Tensor
    spoken: Tensor

    def __init__(self, capacity: int, width: int, held: int, share: float) -> None:
        super().__init__()
        self.said, self.held = Rows(capacity, width), Rows(held, width)
        self.register_buffer("share", torch.tensor(share, dtype=torch.float64))
        self.register_buffer("loss", torch.tensor(torch.inf, dtype=torch.float64))
        self.register_buffer("spoken", torch.zeros((), dtype=torch.long))

    def push(self, batch: Batch) -> None:
        """Keep what was said, the rows of all processes in their order, so that every process has the same memory."""
        mine = [batch[name].cpu() for name in ("tokens", "length", "prompt")]
        pieces = [mine]
        if dist.is_initialized():
            pieces = [mine] * dist.get_world_size()
            dist.all_gather_object(pieces, mine)
        for tokens_BT, length_B, prompt_B in pieces:
            self.said.push(*(column.to(self.share.device) for column in (tokens_BT, length_B, prompt_B)))
            self.spoken += int((length_B - prompt_B).sum())


@part
def replay(
    players: Players, batch: Batch, *, capacity: int = 1000, width: int = 512, held: int = 1000, share: float = 0.0
) -> nn.Module:
    """A state player that remembers what the student said.

    Args:
        players: not asked.
        batch: not read.
        capacity: rows of the memory.
        width: the longest row, prompt and answer, in tokens.
        held: held-out rows, at most.
        share: of the steps on the student's own answers, at first.

    Raises:
        BadValue: a memory without places, or a share outside [0, 1].

    Example:
        >>> replay(capacity=2, width=3)(None, Batch({"x": torch.zeros(1)})).said.tokens.shape
        torch.Size([2, 3])
    """
    if min(capacity, width, held) < 1 or not 0 <= share <= 1:
        raise BadValue(f"a memory needs places and a share in [0, 1], got {capacity} x {width}, {held} and {share:g}")
    return Replay(capacity, width, held, share)


@torch.no_grad()
def _held_loss(student: Player, held: Rows) -> Tensor:
    """The mean of -log q over the targets of the held-out rows, in float64."""
    if not held.filled:
        raise BrokenRecipe("the memory holds no held-out rows: put a stage with the step hold_out() before learning")
    total, targets = torch.zeros((), dtype=torch.float64, device=held.seen.device), 0.0
    for places in torch.arange(held.filled, device=held.seen.device).split(ROWS):
        rows = Batch(held.take(places))
        total -= logp_of_tokens(student, rows).double().sum()
        targets += rows.counts["tokens"]
    return total / targets


@part
def hold_out(players: Players, batch: Batch, state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """Put held-out rows into `replay`, and the student's loss on them: the step of a stage on data="valid".

    Args:
        players: `student` and `replay`.
        batch: the held-out rows, with columns `tokens`, `length` and `prompt`; what exceeds the memory is left out.
        state: not used.

    Returns:
        The state, and the loss.

    Raises:
        BadData: a row longer than the memory is wide.
    """
    memory: Replay = players.replay.module  # type: ignore[assignment]
    first = slice(len(memory.held.tokens))
    memory.held.push(*(batch[name][first] for name in ("tokens", "length", "prompt")))
    memory.loss.copy_(_held_loss(players.student, memory.held))
    return state, {"held_loss": float(memory.loss)}


def _adapt(players: Players, memory: Replay, eps: float, rise: float) -> None:
    """Raise the share of own answers where the held-out loss has grown."""
    loss = _held_loss(players.student, memory.held)
    if loss >= memory.loss + eps:
        memory.share.copy_((memory.share + rise).clamp(max=1))
        memory.loss.copy_(loss)


@part
def adaptive(
    players: Players, batch: Batch, *,
    on_policy: Expr = rollout(), checks: int = 20, eps: float = 0.1, rise: float = 0.1,
) -> Batch:  # fmt: skip
    """Take given answers, answers that the student says now, or answers that it said before, as it has need of them.

    With one u ~ U(0, 1) a step, phi the share of own answers and s = phi (1 - step / steps):

        u < s, or u < phi while the memory is not full:  answers said now, which are kept
        s <= u < phi:                                    rows of the memory
        phi <= u:                                        the rows as given

    phi <- min(1, phi + rise) at every check at which the held-out loss has grown by eps since it last rose

    Own answers help where the student strays from what it was given, and cost time: a student that does well without
    asks for none, and one that needs them is told old ones again, the more the less it changes.

    Args:
        players: `student`, and the state player `replay`, to which held-out rows were given by `hold_out`.
        batch: rows with given answers and a column `prompt`.
        on_policy: the batch part that makes the student's answers.
        checks: how often the held-out loss is taken, in equal parts of the stage.
        eps: the growth of the loss that counts.
        rise: of the share.

    Returns:
        The batch; rows of the memory have the columns of language data alone.

    Raises:
        BadData: the student's answer is longer than the memory is wide.
        BrokenRecipe: no held-out rows were given to the memory.

    Source: Ko et al., "DistiLLM", arXiv:2402.03898, section 4.2 and algorithm 1.
    """
    memory: Replay = players.replay.module  # type: ignore[assignment]
    step, steps = batch.at.step, batch.at.steps
    if step and step * checks // steps > (step - 1) * checks // steps:
        _adapt(players, memory, eps, rise)
    # one coin a step, which every process can throw for itself: row 0 of the run's streams
    coin = Rng(batch.rng.key, torch.zeros(1, dtype=torch.long, device=batch.rng.rows.device))
    u, share = float(coin.uniform("own")), float(memory.share)
    if u < share * (1 - step / steps) or (u < share and memory.said.filled < len(memory.said.tokens)):
        said: Batch = on_policy(players, batch)
        memory.push(said)
        return said
    if u < share:
        order = coin.uniform("replay", memory.said.filled)[0].argsort()
        return Batch(memory.said.take(order[batch.rng.rows % len(order)]), batch.rng, batch.at)
    return batch
