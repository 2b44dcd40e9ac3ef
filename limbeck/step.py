"""One update: the gradient of a phase's loss over micro-batches and processes, and the optimisers' steps.

Gradients are summed over processes here, after the last micro-batch, rather than by hooks on a wrapped forward: parts
may call a player several times, not at all, or through its head alone, and the sum is still right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from limbeck.batch import Batch, Moment
from limbeck.errors import BadValue, BrokenRecipe, NotFinite
from limbeck.players import Player, Players
from limbeck.processes import sum_counts, sum_gradients
from limbeck.progress import Progress
from limbeck.recipe import Phase
from limbeck.shard import cut_state, whole
from limbeck.stack import Stack, clip_each

__all__ = ["Guard", "Updates"]


class Guard:
    """Proves that players were not changed while it was held.

    Args:
        players: who must stand still.

    Raises:
        BrokenRecipe: on leaving, if one of them was changed.
    """

    def __init__(self, players: Sequence[Player]) -> None:
        self.players = players

    def __enter__(self) -> None:
        self.before = [p.version() for p in self.players]

    def __exit__(self, kind: type | None, *_: object) -> None:
        changed = [p.name for p, v in zip(self.players, self.before, strict=True) if p.version() != v]
        if kind is None and changed:
            raise BrokenRecipe(f"the player {changed[0]!r} was changed by a phase that does not learn it")


@dataclass(eq=False)
class Updates:
    """The updates of a learning stage.

    Args:
        players: all players.
        accelerator: processes, device and precision.
        progress: told when memory runs out.
        micro: rows at a time in a process; 0 for all.
    """

    players: Players
    accelerator: Accelerator
    progress: Progress
    micro: int = 0
    optimizers: dict[str, Any] = field(default_factory=dict)

    def begin(self, learners: Sequence[str], state: Mapping[str, Any]) -> None:
        """Make the optimisers of a stage, and give them back their state when it is resumed.

        Args:
            learners: the players that the stage learns.
            state: what `state` returned at the checkpoint; empty at the beginning.

        Raises:
            BadValue: a learner without weights that can learn.
        """
        self.optimizers = {}
        for name in learners:
            player = self.players[name]
            player.turn("", True)
            params = [p for p in player.params if p.requires_grad]
            if not params or player.role.optimizer is None:
                raise BadValue(f"the player {name!r} is to learn but has no weights that can")
            self.optimizers[name] = player.role.optimizer(params)
            if name in state:
                self.optimizers[name].load_state_dict(cut_state(state[name], params))

    def state(self) -> dict[str, Any]:
        """The state of the optimisers, for a checkpoint."""
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def __call__(self, phase: Phase, batch: Batch, clip: float) -> dict[str, float]:
        """Update the players that a phase learns, once.

        Args:
            phase: the phase.
            batch: this process's rows of the states, with the counts of the global batch.
            clip: the largest norm of a player's gradient; 0 for no clipping.

        Returns:
            The terms of the loss over the global batch, and the norm of each learner's gradient, by name.

        Raises:
            NotFinite: a term or a gradient is NaN or infinite; nothing was stepped by it.
            BrokenRecipe: the loss does not depend on what the phase learns, or another player was changed.
        """
        with Guard([p for p in self.players.values() if p.name not in phase.learns]):
            totals = self._whatever_fits(phase, batch)
            figures = dict(zip(totals, torch.stack(list(totals.values())).tolist(), strict=True))
            figures = {f"{phase.name}/{k}": v for k, v in sum_counts(figures, self.accelerator).items()}
            for name in phase.learns:
                figures[f"{phase.name}/grad_norm.{name}"] = self._descend(name, clip, batch.at)
            self._forget(phase)
        for name, value in figures.items():
            if not math.isfinite(value):
                advice = "lower the learning rate, clip, or check the data"
                raise NotFinite(f"{name} is {value} at step {batch.at.step}; {advice}")
        return figures

    def _forget(self, phase: Phase) -> None:
        """Drop the gradients that reached sharded players which this phase does not learn."""
        for player in self.players.values():
            if player.bones is not None and player.name not in phase.learns:
                for p in player.params:
                    p.grad = None

    def _whatever_fits(self, phase: Phase, batch: Batch) -> dict[str, Tensor]:
        """Gradients with a micro-batch that fits: half as large each time that memory runs out."""
        while True:
            try:
                return self._gradients(phase, batch)
            except torch.OutOfMemoryError:
                micro = self.micro or batch.size
                if micro <= 1 or self.accelerator.num_processes > 1:
                    raise
            self.micro = micro // 2
            torch.cuda.empty_cache()
            self.progress.note(f"out of memory: micro-batch halved to {self.micro} at the same global batch")

    def _gradients(self, phase: Phase, batch: Batch) -> dict[str, Tensor]:
        """Accumulate the gradients of the phase's loss over micro-batches and processes."""
        learning = [self.players[name] for name in phase.learns]
        for player in learning:
            for p in player.params:
                p.grad = None
        totals: dict[str, Tensor] = {}
        for micro in _micros(batch, self.micro):
            self.players.turn(phase.name, phase.learns)
            named = phase.loss.total(self.players, micro)
            loss = sum(named.values())
            if not isinstance(loss, Tensor) or not loss.requires_grad:
                raise BrokenRecipe(f"the loss of phase {phase.name!r} does not depend on {', '.join(phase.learns)}")
            self.accelerator.backward(loss)
            for k, v in named.items():
                totals[k] = totals.get(k, 0) + v.detach()
        for player in learning:
            if player.bones is None:  # those of a sharded net were added as they were made
                sum_gradients(player.params, self.accelerator)
        return totals

    def _descend(self, name: str, clip: float, at: Moment) -> float:
        """Clip and step one player; returns the norm of its gradient before clipping."""
        optimizer, recipe = self.optimizers[name], self.players[name].role.optimizer
        params = [p for p in self.players[name].params if p.grad is not None]
        norm = whole(nn.utils.get_total_norm([p.grad for p in params if p.grad is not None], foreach=True))
        value = float(norm)
        if math.isfinite(value) and recipe is not None:
            if clip and isinstance(self.players[name].module, Stack):
                clip_each(params, clip)
            elif 0 < clip < value:
                nn.utils.clip_grads_with_norm_(params, clip, norm, foreach=True)
            settings = recipe.resolved(at)
            for group in optimizer.param_groups:
                group.update({k: v for k, v in settings.items() if k in group})
            optimizer.step()
            self.players[name].changed = True
        return value


def _micros(batch: Batch, rows: int) -> Iterator[Batch]:
    """A batch in pieces of so many rows; the counts stay those of the global batch."""
    if not rows or rows >= batch.size:
        yield batch
        return
    for start in range(0, batch.size, rows):
        yield batch.rows(slice(start, start + rows))
