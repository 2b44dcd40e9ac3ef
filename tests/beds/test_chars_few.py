"""Few characters: windows of a text that is as short as is said, and two teachers that are not the same."""

from __future__ import annotations

import torch

from limbeck.beds import chars, chars_few
from limbeck.players import Player, Players
from limbeck.probes.language import nll
from limbeck.roles import frozen


def test_windows_come_from_the_first_characters_only_and_cover_them() -> None:
    text = chars.text()[: chars_few.SIZE]
    data = chars_few.splits(5)
    read = [chars.alphabet().decode(row) for row in data["train"].columns["tokens"].tolist()]
    assert len(read) == 1250 and all(len(r) == 64 and r in text for r in read[::50])
    held = chars.splits(5)
    assert all(torch.equal(data[s].columns["tokens"], held[s].columns["tokens"]) for s in ("valid", "test"))


def test_the_teachers_know_something_and_differ() -> None:
    rows = chars.splits(0)
    found = {}
    for name in ("teacher", "second", "student"):
        net = chars_few.bed.players[name](0)
        found[name] = nll(limit=64)(Players({"student": Player("student", frozen(), net)}), rows)
    assert max(found["teacher"], found["second"]) < 2.2 < found["student"]
    assert abs(found["teacher"] - found["second"]) > 1e-3
    sizes = {sum(p.numel() for p in chars_few.bed.players[n](0).parameters()) for n in found}
    assert len(sizes) == 1
