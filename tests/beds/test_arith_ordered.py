"""The bed of one style: every solution is right and in order, and no problem is in two splits."""

from __future__ import annotations

import torch

from limbeck.beds import arith, load_bed


def test_its_solutions_are_right_and_of_one_style() -> None:
    data = load_bed("arith_ordered").data(3)
    for table in data.values():
        columns = table.take(torch.arange(len(table)))
        asked, tokens, mask = columns["question"], columns["tokens"], columns["mask"]
        said = [arith.ALPHABET.decode(t[m].tolist()) for t, m in zip(tokens, mask, strict=True)]
        problems = [tuple(map(int, q.rstrip("=").split("+"))) for q in asked]
        assert said == [arith.solution(p) for p in problems]
        assert all(all(arith.steps_right(q, s)) for q, s in zip(asked, said, strict=True))
    seen = [frozenset(table.take(torch.arange(len(table)))["question"]) for table in data.values()]
    assert len(seen) == 3 and not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
