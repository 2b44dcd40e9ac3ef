"""Numbers of steps that cannot be are refused in words; copies of pairs keep the streams of their rows."""

from __future__ import annotations

import pytest
import torch

from limbeck.batch import Batch, Moment
from limbeck.errors import BadValue
from limbeck.parts.clips import chunkwise
from limbeck.parts.dirichlet import dirichlet_flow, straight_pairs
from limbeck.parts.editing import flow_edit
from limbeck.parts.halving import ladder, landing_states
from limbeck.parts.lean import lean
from limbeck.parts.pairs import sampled_pairs
from limbeck.parts.solver import even
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen

STILL = Player("still", frozen(), answer=lambda b, want: {w: torch.zeros_like(b.x) for w in want})
BATCH = Batch({"x": torch.zeros(3, 2), "y": torch.zeros(3, dtype=torch.int64), "target": torch.ones(3).long()})


def players() -> Players:
    steps = Player("ladder", frozen(), ladder(start=4)(None, BATCH))
    return Players({"student": STILL, "teacher": STILL, "ladder": steps})


@pytest.mark.parametrize(("kept", "says"), [(0, "kept = 0"), (-1, "kept = -1")])
def test_a_clip_keeps_a_frame(kept: int, says: str) -> None:
    with pytest.raises(BadValue, match=says):
        chunkwise(kept=kept)(players(), Batch({"x": torch.zeros(2, 4, 1)}))


@pytest.mark.parametrize("numbers", [{"skip": -1}, {"plain": -1}, {"skip": 3, "plain": 2}, {"copies": 0}])
def test_an_edit_leaves_out_no_more_steps_than_there_are(numbers: dict[str, int]) -> None:
    with pytest.raises(BadValue, match="flow_edit needs"):
        flow_edit(times=even(4), **({"skip": 0} | numbers))(players(), BATCH)


def test_a_flow_a_round_and_a_solver_take_steps() -> None:
    kinds = Player("net", frozen(), answer=STILL.answer)
    kinds.kinds = 4  # type: ignore[attr-defined]
    letters = Batch({"x": torch.zeros(2, 3, 4), "tokens": torch.zeros(2, 3, dtype=torch.int64)})
    both = Players({"student": kinds, "teacher": kinds})
    for part in (dirichlet_flow(steps=0), straight_pairs(steps=0)):
        with pytest.raises(BadValue, match="steps = 0"):
            part(both, letters)
    with pytest.raises(BadValue, match="steps = 0"):
        landing_states(steps=0)(players(), BATCH)
    with pytest.raises(BadValue, match="falling times"):
        lean(times=(0.0, 1.0))(players(), BATCH)


def test_copies_of_pairs_draw_what_belongs_to_their_rows() -> None:
    rows = torch.tensor([5, 9, 2])
    batch = Batch({"x": torch.zeros(3, 2)}, rng=Rng(("seed", 1), rows), at=Moment(3, 7))
    made = sampled_pairs(copies=2)(players(), batch)
    other = sampled_pairs(copies=2)(players(), Batch(batch.columns, rng=Rng(("seed", 2), rows), at=batch.at))
    assert made.at == batch.at and len(made.rng.rows.unique()) == 6
    assert not torch.equal(made.rng.normal("next", 2), other.rng.normal("next", 2))
    alone = Batch({"x": torch.zeros(1, 2)}, rng=Rng(("seed", 1), rows[1:2]))
    again = sampled_pairs(copies=2)(players(), alone)
    torch.testing.assert_close(again.rng.normal("next", 2), made.rng.normal("next", 2)[[1, 4]])
