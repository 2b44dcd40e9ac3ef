"""Beds of scenes: what they say is known, by a second way."""

from __future__ import annotations

import torch

from limbeck.beds import load_bed
from limbeck.beds._mixture import Mixture
from limbeck.beds._scenes import Round
from limbeck.players import Player, Players
from limbeck.probes.scenes import psnr
from limbeck.roles import frozen


def test_a_round_mixture_is_the_mixture_of_round_gaussians() -> None:
    rng = torch.Generator().manual_seed(0)
    weights, means, x = (torch.rand(4, generator=rng), *torch.randn(2, 4, 5, generator=rng).double())
    ours, theirs = Round(weights, means, 0.3), Mixture(weights, means, 0.3)
    for a, s in ((1.0, 0.1), (0.4, 0.6), (0.0, 1.0)):
        for mine, wanted in zip(ours.posterior(x, a, s), theirs.posterior(x, a, s), strict=True):
            torch.testing.assert_close(mine, wanted)
    some = torch.tensor([[True, False, True, False]]).expand(4, 4)
    torch.testing.assert_close(ours.among(some).posterior(x, 0.5, 0.5), theirs.among(some).posterior(x, 0.5, 0.5))


def test_the_closed_form_teacher_shows_what_is_there_and_a_student_does_not() -> None:
    bed = load_bed("vox")
    players = Players({n: Player(n, frozen(), bed.players[n](0)) for n in ("teacher", "student")})
    data = bed.data(0)
    assert psnr(player="teacher")(players, data) > 50
    assert psnr()(players, data) < 20
    rays = [data[split].columns["ray"] for split in ("train", "valid", "test")]
    assert all(torch.cdist(a, b).min() > 0.1 for a, b in ((rays[0], rays[2]), (rays[1], rays[2])))
