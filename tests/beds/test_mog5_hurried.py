"""The hurried student: one for each seed, better than the exact field at its cost, and not yet right."""

from __future__ import annotations

import torch

from limbeck.beds import load_bed
from limbeck.parts.solver import euler, even, ode_sample
from limbeck.parts.states import few_step
from limbeck.players import Player, Players
from limbeck.probes.distribution import sliced_w2
from limbeck.roles import frozen


def test_the_student_is_better_than_its_teacher_at_five_evaluations_and_not_exact():
    bed = load_bed("mog5_hurried")
    players = Players({n: Player(n, frozen(), bed.players[n](3)) for n in ("student", "teacher")})
    student, again, other = (bed.players["student"](seed).out.weight for seed in (3, 3, 4))
    assert torch.equal(student, again) and not torch.equal(student, other)
    four = sliced_w2(draw=few_step(times=(1.0, 0.75, 0.5, 0.25)), rows=4_000)(players, bed.data(3))
    five = sliced_w2(draw=ode_sample(solver=euler(), times=even(5)).on(student="teacher"), rows=4_000)(
        players, bed.data(3)
    )
    assert 0.04 < four < five
