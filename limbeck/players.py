"""Players: the named models of a run, alive.

A player is asked for what a part needs: `players.student(batch, "logits")`. What it can be asked for is the business
of its net, an `nn.Module` with `forward(batch, want) -> {want: answer}` (see `limbeck.adapters`). Every answer is kept
on the batch, so all parts share one forward; what a step asked for at one place is asked for at once in the next step.

A net is run inside its wrapper (DDP, FSDP) only while it learns; a player that does not learn in the current phase is
in evaluation mode, holds no gradient, and is proved unchanged by the version counters of its tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule

from limbeck.batch import Batch
from limbeck.errors import BadValue, BrokenRecipe, Mismatch, unknown
from limbeck.kernels.head import TokenHead
from limbeck.roles import Role
from limbeck.shard import cut, shard, skeleton

__all__ = ["Player", "Players", "build", "copied", "moved"]

Answer = Callable[[Batch, frozenset[str]], dict[str, Any]]


@dataclass(eq=False)
class Player:
    """One model of the game.

    Args:
        name: its name in the recipe.
        role: where it comes from and how it is kept in step.
        module: its net, unwrapped; None for players that only combine others.
        answer: how it answers, where that is not by its own net.
    """

    name: str
    role: Role
    module: nn.Module | None = None
    answer: Answer | None = None
    wrapped: nn.Module | None = None
    initial: dict[str, Tensor] | None = None
    changed: bool = False
    learns: bool | None = None
    wants: dict[str, list[str]] = field(default_factory=dict)
    phase: str = ""
    seen: int = 0
    trainable: list[bool] = field(default_factory=list)
    bones: nn.Module | None = None

    def __post_init__(self) -> None:
        # weights that come frozen (under LoRA adapters) stay frozen while the player learns
        self.trainable = self.trainable or [p.requires_grad for p in self.params]

    def __call__(self, batch: Batch, *want: str) -> Any:
        """Ask for one thing or several.

        Args:
            batch: the states.
            want: names of answers, such as "logits", "head", "velocity", "tap:layers.3".

        Returns:
            The answer, or a tuple of them in the order asked.

        Raises:
            UnknownName: the net cannot answer that.

        Example:
            `logits = players.teacher(batch, "logits")`
        """
        site, known = batch.memo.get(self.name, ("", {}))
        if not set(want) <= known.keys():
            if not site:
                site, self.seen = f"{self.phase}#{self.seen}", self.seen + 1
            asked = self.wants[site] = sorted({*self.wants.get(site, ()), *want})
            known = self._answer(batch, frozenset(asked))
            batch.memo[self.name] = site, known
        missing = set(want) - known.keys()
        if missing:
            raise unknown("answer", missing.pop(), known, where=f"player {self.name}")
        return known[want[0]] if len(want) == 1 else tuple(known[w] for w in want)

    def _answer(self, batch: Batch, want: frozenset[str]) -> dict[str, Any]:
        if self.answer is not None:
            return self.answer(batch, want)
        net = self.wrapped if self.learns and self.wrapped is not None else self.module
        return net(batch, want)  # type: ignore[misc]

    def __getattr__(self, name: str) -> Any:
        """Reach a public attribute of the net: `players.student.tokenizer`, `players.teacher.path`."""
        module = self.__dict__.get("module")
        if name.startswith("_") or module is None:
            raise AttributeError(name)
        return getattr(module, name)

    @cached_property
    def params(self) -> list[nn.Parameter]:
        """The weights of its net; none for players that only combine others."""
        return [] if self.module is None else list(self.module.parameters())

    @cached_property
    def _inner(self) -> list[nn.Module]:
        return [] if self.module is None else list(self.module.modules())

    @cached_property
    def _plain(self) -> bool:
        """Whether all of its net goes into training mode by a mere flag."""
        return all(type(m).train is nn.Module.train and "training" in vars(m) for m in self._inner)

    def _buffers(self) -> list[Tensor]:
        return [b for m in self._inner for b in m._buffers.values() if b is not None]

    @cached_property
    def _state(self) -> list[Tensor]:
        return [] if self.module is None else [*self.module.parameters(), *self.module.buffers()]

    def split(self, mesh: DeviceMesh, dtype: torch.dtype | None = None) -> None:
        """Cut its weights into shares over processes; what it answers and learns stays the same.

        Args:
            mesh: the processes.
            dtype: in which weights are computed with (see `limbeck.shard`).
        """
        if not self.params:
            return
        assert self.module is not None
        if self.role.optimizer is not None:  # a sharded weight keeps for good whether it takes gradients
            self.turn("", True)
        self.bones = skeleton(self.module)
        shard(self.module, mesh, dtype)
        self._renew()

    def mend(self, net: nn.Module) -> None:
        """Take a net with whole weights in place of the sharded one."""
        self.module, self.wrapped, self.bones, self.learns = net, None, None, None
        self._renew()
        self.turn("", False)

    def _renew(self) -> None:
        """Look the weights up again, now: while a sharded net runs, gathered ones stand in their place."""
        for name in ("params", "_inner", "_plain", "_state"):
            self.__dict__.pop(name, None)
            getattr(self, name)

    def _scatter(self) -> None:
        """Let go of gathered weights, which are about to be out of date."""
        if isinstance(self.module, FSDPModule):
            self.module.reshard()

    def turn(self, phase: str, learns: bool) -> None:
        """Begin a phase in which the player learns, or does not.

        Args:
            phase: the name under which its wants are remembered.
            learns: whether gradients are to flow to its weights.
        """
        self.phase, self.seen = phase, 0
        if self.module is None or self.learns is learns:
            return
        self.learns = learns
        if self._plain:
            for m in self._inner:
                vars(m)["training"] = learns  # as `train` does, which takes long for deep nets
        else:
            self.module.train(learns)
        if self.bones is not None:
            return
        for p, trainable in zip(self.params, self.trainable, strict=True):
            p.requires_grad_(learns and trainable)

    def version(self) -> int:
        """A number that grows with every change of the weights or buffers."""
        return sum(t._version for t in self._state)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights (and buffers) by name, in place.

        Raises:
            Mismatch: other names or shapes.
        """
        assert self.module is not None
        self._scatter()
        own = self.module.state_dict(keep_vars=True)
        if own.keys() != weights.keys() or any(own[k].shape != weights[k].shape for k in own):
            odd = sorted(own.keys() ^ weights.keys()) or [k for k in own if own[k].shape != weights[k].shape]
            raise Mismatch(f"player {self.name!r} cannot take these weights: they differ at {odd[0]!r}")
        with torch.no_grad():
            for k, tensor in own.items():
                tensor.copy_(cut(weights[k], tensor))
        self.changed = True

    @torch.no_grad()
    def follow(self, other: Player) -> None:
        """Move towards another player: w <- decay w + (1 - decay) w'; buffers are copied."""
        assert self.module is not None and other.module is not None
        self._scatter()
        mine: list[Tensor] = list(self.params)
        theirs: list[Tensor] = list(other.params)
        if self.role.decay == 0:
            torch._foreach_copy_(mine, theirs)
        else:
            torch._foreach_lerp_(mine, theirs, 1 - self.role.decay)
        for a, b in zip(self._buffers(), other._buffers(), strict=True):
            a.copy_(b)


class Players(Mapping[str, Player]):
    """The players of a run, by name or as attributes.

    Args:
        players: name to player.
        names: role to player, where an expression sees them under other names.
    """

    def __init__(self, players: Mapping[str, Player], names: Mapping[str, str] | None = None) -> None:
        self._players, self._names = dict(players), dict(names or {})

    def __getitem__(self, name: str) -> Player:
        name = self._names.get(name, name)
        if name not in self._players:
            raise unknown("player", name, self._players, where="this run")
        return self._players[name]

    def __getattr__(self, name: str) -> Player:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __contains__(self, name: object) -> bool:
        return self._names.get(name, name) in self._players  # type: ignore[call-overload]

    def __iter__(self) -> Iterator[str]:
        return iter(self._players)

    def __len__(self) -> int:
        return len(self._players)

    def renamed(self, names: Mapping[str, str]) -> Players:
        """The same players, seen under other names.

        Raises:
            UnknownName: a name that no player has.
        """
        return Players(self._players, self._names | {role: self[player].name for role, player in names.items()})

    def replaced(self, **players: Player) -> Players:
        """The same players, with others under some names."""
        names = {role: name for role, name in self._names.items() if role not in players}
        return Players(self._players | players, names)

    def turn(self, phase: str, learns: tuple[str, ...] = ()) -> None:
        """Begin a phase: those in `learns` learn, all others stand still."""
        for player in self._players.values():
            player.turn(phase, player.name in learns)


def build(roles: Mapping[str, Role], sources: Mapping[str, nn.Module], batch: Batch) -> Players:
    """Bring the players of a recipe to life.

    Args:
        roles: name to role, as the recipe has them.
        sources: the nets of the given players.
        batch: rows on which builders may ask players for shapes.

    Returns:
        The players, in the order of the recipe.

    Raises:
        BadValue: a given player without a net, or a net that no role asks for.
        BrokenRecipe: players that are made from each other in a circle.
    """
    given = {name for name, role in roles.items() if role.given}
    if missing := sorted(given - sources.keys()):
        raise BadValue(f"the player {missing[0]!r} must be given; this recipe needs {', '.join(sorted(given))}")
    live: dict[str, Player] = {}
    waiting = dict(roles)
    while waiting:
        able = [name for name, role in waiting.items() if set(role.of) <= live.keys()]
        # a builder may ask about all players that need none
        ready = [name for name in able if not waiting[name].builder] or able
        if not ready:
            raise BrokenRecipe(f"the players {', '.join(waiting)} are made from each other in a circle")
        name = ready[0]
        live[name] = _enliven(name, waiting.pop(name), sources, live, batch)
        live[name].turn("", False)
    return Players({name: live[name] for name in roles})


def _enliven(
    name: str, role: Role, sources: Mapping[str, nn.Module], live: Mapping[str, Player], batch: Batch
) -> Player:
    """Build one player whose originals are alive."""
    if role.given:
        return Player(name, role, sources[name])
    if role.builder is not None:
        return Player(name, role, role.builder(Players(live), batch), changed=True)
    if role.stored:
        return Player(name, role, answer=lambda b, want: {w: b[f"{name}.{w}"] for w in want})
    if role.context is not None:
        return Player(name, role, answer=_under_context(live[role.of[0]], role, Players(live)))
    if len(role.of) > 1:
        return Player(name, role, answer=_mean_of([live[n] for n in role.of]))
    return Player(name, role, copied(live[role.of[0]]), changed=True)


def moved(net: nn.Module, device: torch.device) -> nn.Module:
    """Bring a net to a device, unless its parts have devices of their own (`placed`)."""
    return net if getattr(net, "placed", False) else net.to(device)


def copied(player: Player) -> nn.Module:
    """A copy of a player's net, whose weights may learn where they came free; compiled where that is."""
    assert player.module is not None
    net = copy.deepcopy(player.module)
    compiled = {name for name, theirs in player.module.named_modules() if theirs._compiled_call_impl is not None}
    for name, mine in net.named_modules():  # what a net leaves out of its copies is not among these
        if name in compiled:
            mine.compile()
    for p, trainable in zip(net.parameters(), player.trainable, strict=True):
        p.requires_grad_(trainable)
    return net


def _under_context(own: Player, role: Role, players: Players) -> Answer:
    """Answer with the same weights on the batch that the context makes; nothing flows back.

    Where the context moves tokens, it says in the column `place` (B, T) where the state of each old token now stands,
    and what is answered for tokens is brought back to the old places.
    """
    context = role.context
    assert context is not None

    def answer(batch: Batch, want: frozenset[str]) -> dict[str, Any]:
        with torch.no_grad():
            seen = context(players, batch)
            found = own._answer(seen, want)
            return {w: _placed(a, seen) for w, a in found.items()} if "place" in seen else found

    return answer


def _placed(answer: Any, seen: Batch) -> Any:
    """What was answered for the tokens of a context, at the places of the tokens without it."""
    if isinstance(answer, TokenHead):
        return replace(answer, hidden=_placed(answer.hidden, seen))
    if not isinstance(answer, Tensor) or answer.shape[:2] != seen.tokens.shape:
        return answer
    return answer[torch.arange(len(answer), device=answer.device)[:, None], seen.place]


def _mean_of(members: list[Player]) -> Answer:
    """Answer with the mean of what the members answer."""

    def answer(batch: Batch, want: frozenset[str]) -> dict[str, Any]:
        given = [{w: m(batch, w) for w in want} for m in members]
        return {w: _mean(w, [g[w] for g in given]) for w in want}

    return answer


def _mean(want: str, answers: list[Any]) -> Any:
    """The mean of tensors; of heads the head whose logits are the mean of theirs, with no logits made."""
    if all(isinstance(answer, Tensor) for answer in answers):
        return torch.stack(answers).mean(0)
    if not all(isinstance(answer, TokenHead) for answer in answers):
        raise BrokenRecipe(f"an ensemble cannot average {want!r}: ask it for tensors or heads")
    if len({head.size for head in answers}) > 1 or any(head.softcap is not None for head in answers):
        raise Mismatch("an ensemble averages heads of one vocabulary and without a soft cap; ask it for logits")
    hidden = torch.cat([head.hidden for head in answers], -1)
    weight = torch.cat([head.scale / len(answers) * head.weight for head in answers], -1)
    biases = [head.scale / len(answers) * head.bias for head in answers if head.bias is not None]
    return TokenHead(hidden, weight, torch.stack(biases).sum(0) if biases else None)
