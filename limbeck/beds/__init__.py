"""Beds: small worlds whose truth is known.

A bed is a module `limbeck/beds/<key>.py` with `bed = Bed(...)`. Recipes and claims name it by key and build no private
bed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from limbeck.data import Source
from limbeck.errors import unknown
from limbeck.part import Part

__all__ = ["Bed", "beds", "load_bed"]


@dataclass(frozen=True)
class Bed:
    """A small world.

    Args:
        key: its name and that of its file.
        about: one sentence: what is known exactly here.
        players: role ("student", "teacher", "critic", "oracle" ...) to a function of a seed that builds the net. A net
            is an `nn.Module` with `forward(batch, want) -> {want: answer}`. Nets that are the same for every seed
            (exact teachers, shipped teachers) ignore it.
        data: a function of a seed that returns the splits "train", "valid" and "test", disjoint.
        probes: the measures that make sense here, by name: parts `(players, data)` that read data["test"].
        samplers: player to how samples are drawn from it when it sits where the student does: parts `(players, batch)`;
            the student's is that of the probes. Empty where nothing is sampled.
    """

    key: str
    about: str
    players: Mapping[str, Callable[[int], nn.Module]]
    data: Callable[[int], Mapping[str, Source]]
    probes: Mapping[str, Part] = field(default_factory=dict)
    samplers: Mapping[str, Part] = field(default_factory=dict)

    def probes_of(self, player: str) -> dict[str, Part]:
        """The probes as they measure a player that sits where the student does: with its own sampler, if it has one.

        Example:
            >>> len(load_bed("mog8").probes_of("teacher")["sw2"].children()["draw"].children()["times"])
            65
        """
        draw = self.samplers.get(player)
        return {n: p.child("draw", draw) if draw and "draw" in p.children() else p for n, p in self.probes.items()}


def beds() -> list[str]:
    """The keys of all beds.

    Example:
        >>> "mog8" in beds()
        True
    """
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_"))


def load_bed(key: str) -> Bed:
    """Load a bed by its key.

    Raises:
        UnknownName: no bed of that name.

    Example:
        >>> load_bed("mog8").key
        'mog8'
    """
    if key not in beds():
        raise unknown("bed", key, beds())
    bed: Bed = importlib.import_module(f"limbeck.beds.{key}").bed
    return bed
