"""Edits by inversion: a datum is carried to its noise and back, and keeps inner features of the way there.

What the named modules of the net (the values of its attention layers) answered on the way to the noise takes the place
of their answers on the way back, in the first steps of it, so that structure stays while the class changes.

Shapes: B rows; a datum has any shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.errors import BadValue, unknown
from limbeck.part import Expr, part
from limbeck.parts.editing import conditioned
from limbeck.parts.solver import even, midpoint
from limbeck.players import Player, Players
from limbeck.roles import frozen

__all__ = ["feature_edit", "hooked"]

MIDPOINT, TWENTY_FIVE = midpoint(), even(25)


@contextmanager
def hooked(net: nn.Module, modules: tuple[str, ...], hook: Callable[[str, Any], Any]) -> Iterator[None]:
    """See, and if wanted replace, what modules of a net answer.

    Args:
        net: the net.
        modules: their paths in it, such as "blocks.3.attn.to_v".
        hook: `(path, answer)`, which returns None or what takes the place of the answer.

    Raises:
        UnknownName: the net has no module of that path.

    Example:
        >>> net = nn.Sequential(nn.Identity())
        >>> with hooked(net, ("0",), lambda path, answer: answer + 1):
        ...     net(torch.zeros(2))
        tensor([1., 1.])
    """
    there = dict(net.named_modules())
    with ExitStack() as held:
        for path in modules:
            if path not in there:
                raise unknown("module", path, [p for p in there if p], where=type(net).__name__)
            handle = there[path].register_forward_hook(lambda _module, _given, out, path=path: hook(path, out))
            held.callback(handle.remove)
        yield


class _Kept:
    """Features of the evaluations of one run, by the level at which they were made."""

    def __init__(self, above: float) -> None:
        self.above, self.levels, self.features = above, list[float](), list[dict[str, Any]]()
        self.now: dict[str, Any] = {}

    def watch(self, player: Player, nearest: bool) -> Players:
        """The player, with the level of each evaluation noted, or looked up, before it."""

        def answer(batch: Batch, want: frozenset[str]) -> dict[str, Any]:
            level, self.now = float(batch.t[0]), {}
            if nearest and level > self.above and self.levels:
                at = min(range(len(self.levels)), key=lambda i: abs(self.levels[i] - level))
                self.now = self.features[at]
            found = {w: player(batch, w) for w in want}
            if not nearest and level >= self.above:
                self.levels.append(level)
                self.features.append(self.now)
            return found

        return Players({"student": Player("watched", frozen(), player.module, answer)})

    def note(self, path: str, out: Any) -> None:
        """Keep an answer."""
        self.now[path] = out

    def give(self, path: str, out: Any) -> Any:
        """The answer that was kept at the nearest level; the module's own where there is none."""
        return self.now.get(path, out)


@part
def feature_edit(
    players: Players,
    batch: Batch,
    *,
    solver: Expr = MIDPOINT,
    times: tuple[float, ...] = TWENTY_FIVE,
    modules: tuple[str, ...] = (),
    kept: int = 4,
    target: float = 2.0,
) -> Batch:
    """Carry data to their noise in their own class and back in the class wanted, with features of the way there.

    x -> noise along v(., ., y), times rising;  noise -> x' along v(., ., target), times falling, where the modules
    answer in the first `kept` steps what they answered at the nearest level on the way there

    Args:
        players: the student answers "velocity" on columns x, t (and y, where rows have a class).
        batch: data in x; a class in y and the class wanted in `target`, without which it is the same.
        solver: a solver part that asks for "velocity".
        times: falling times from 1 to 0.
        modules: paths of the modules in the student's net whose answers are kept.
        kept: the steps back in which they are.
        target: the scale of guidance on the way back; on the way there it is 1.

    Returns:
        The batch with the edited data in x, those given in `real` and their noise in `noise`.

    Raises:
        UnknownName: the net has no module of a path.
        BadValue: more steps than there are, or guidance for a net without classes.

    Source: Wang et al., arXiv:2411.04746, the sharing of features, and its code.
    """
    if not 0 <= kept < len(times):
        raise BadValue(f"features are kept in 0 to {len(times) - 1} steps, got kept = {kept}")
    x, y, net = batch.x, batch.get("y"), players.student.module
    down = torch.tensor(times, dtype=x.dtype, device=x.device).expand(batch.size, -1)
    memory = _Kept(times[kept])
    there = conditioned(memory.watch(players.student, nearest=False).student, y, 1.0)
    with hooked(net, modules, memory.note) if modules else ExitStack():  # type: ignore[arg-type]
        noise = solver(there, batch.with_(x=x, grid=down.flip(1)))[-1]  # type: ignore[operator]
    watched = memory.watch(players.student, nearest=True).student
    with hooked(net, modules, memory.give) if modules else ExitStack():  # type: ignore[arg-type]
        back = solver(conditioned(watched, batch.get("target", y), target), batch.with_(x=noise, grid=down))[-1]  # type: ignore[operator]
    return batch.with_(x=back, real=x, noise=noise)
