"""Fixed grids against the schedulers of diffusers, a second time that says nothing at first, and bad answers."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_model

from limbeck.adapters.field import Field
from limbeck.adapters.fixed_grid import FixedGridPipeline
from limbeck.adapters.second_time import SecondTime
from limbeck.errors import BadWeights, Mismatch
from limbeck.parts.path import EDM, RF, eps_head
from tests.adapters import pipes
from tests.adapters.pipes import diffusers

JUMP = [
    {"told": 800.0, "scale": 0.5, "ahead": 0.7, "noises": [1.0], "answers": []},
    {"noises": [0.25, 2.0], "answers": [-1.5]},
]
Z = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(5))


def pipeline(home: Path, steps: list[dict[str, Any]], unet: Any = None) -> Any:
    (home / "limbeck.json").write_text(json.dumps({"steps": steps}))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipe = FixedGridPipeline(scheduler, unet or pipes.unet(), None, None, None, None)
    pipe.register_to_config(_name_or_path=str(home))
    return pipe


@torch.no_grad()
def test_straight_steps_written_as_numbers_are_those_of_diffusers(tmp_path: Path) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
    scheduler.set_timesteps(3)
    s = scheduler.sigmas.tolist()
    gaps = [b - a for a, b in pairwise(s)]
    steps: list[dict[str, Any]] = [
        {"told": 1000 * s[i], "scale": 1.0, "ahead": 0.0, "noises": [1.0], "answers": gaps[:i]} for i in range(3)
    ]
    pipe = pipeline(tmp_path, [*steps, {"noises": [1.0], "answers": gaps}])
    x = Z
    for t in scheduler.timesteps:
        x = scheduler.step(pipe.unet(x, t).sample, t, x).prev_sample
    torch.testing.assert_close(pipe(latents=Z, output_type="latent"), x, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_noises_are_drawn_in_the_order_in_which_they_are_used(tmp_path: Path) -> None:
    pipe = pipeline(tmp_path, JUMP, pipes.unet(11))
    labels = torch.tensor([3, 10])
    h = pipe.unet(0.5 * Z, 800.0, class_labels=labels).sample
    rng = torch.Generator().manual_seed(7)
    want = 0.25 * Z - 1.5 * h + 2 * torch.randn(Z.shape, generator=rng)
    same = torch.Generator().manual_seed(7)
    found = pipe(class_labels=[3, 10], latents=Z, generator=same, output_type="latent")
    torch.testing.assert_close(found, want)
    assert pipe(class_labels=[1, 2, 3], output_type="pt").shape == (3, 1, 8, 8)


def test_pictures_come_in_the_usual_forms(tmp_path: Path) -> None:
    pipe = pipeline(tmp_path, [{"noises": [1.0], "answers": []}])
    pt, latent, array, pil = (pipe(latents=Z, output_type=kind) for kind in ("pt", "latent", "np", "pil"))
    assert torch.equal(latent, Z) and np.array_equal(array, pt.permute(0, 2, 3, 1).numpy())
    torch.testing.assert_close(pt, ((Z + 1) / 2).clamp(0, 1))
    assert np.abs(np.asarray(pil[1]) / 255 - pt[1, 0].numpy()).max() <= 0.5 / 255 + 1e-6
    assert pipe(batch_size=4, output_type="pt").shape == (4, 1, 8, 8)


@torch.no_grad()
def test_a_second_time_is_told_while_it_is_sampled_and_gone_afterwards(tmp_path: Path) -> None:
    pipe = pipeline(tmp_path, [JUMP[0], {"noises": [], "answers": [1.0]}])
    second = SecondTime.of(pipe.unet)
    (tmp_path / "second_time").mkdir()
    plain = pipe.unet(0.5 * Z, 800.0).sample
    for heard in (False, True):
        if heard:
            torch.nn.init.normal_(second.outer.weight, std=0.5)
        save_model(second, str(tmp_path / "second_time" / "model.safetensors"))
        with second.told(pipe.unet, torch.full((2,), 0.7)):
            want = pipe.unet(0.5 * Z, 800.0).sample
        found = pipe(latents=Z, output_type="latent")
        torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)
        assert torch.equal(want, plain) is not heard
        assert torch.equal(pipe.unet(0.5 * Z, 800.0).sample, plain)


# -- a second time ----------------------------------------------------------------------------------------------------


def test_it_starts_at_zero_and_can_learn() -> None:
    second = SecondTime(6)
    ahead = torch.linspace(-1, 1, 41)
    said = second(ahead)
    assert said.shape == (41, 6) and not said.any()
    said.sum().backward()
    assert second.outer.weight.grad is not None and bool(second.outer.weight.grad.abs().max() > 0.1)
    # after one step jumps of different lengths are told apart
    torch.optim.SGD(second.parameters(), lr=0.1).step()
    assert len(second(ahead)[:, 0].detach().unique()) == 41


def test_every_embedding_is_told_and_none_after_an_error() -> None:
    for model, places in ((pipes.unet(), 1), (pipes.dit(), 2)):
        second, ahead = SecondTime.of(model), torch.ones(2)
        with pytest.raises(ZeroDivisionError), second.told(model, ahead):
            assert sum(len(m._forward_hooks) for m in model.modules()) == places
            raise ZeroDivisionError
        assert not any(m._forward_hooks for m in model.modules())


def test_nets_without_a_known_time_are_refused() -> None:
    with pytest.raises(BadWeights, match="Linear embeds no time"):
        SecondTime.of(torch.nn.Linear(2, 2))


# -- fields -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 3), (2, 2), (6,)])
def test_an_answer_of_another_shape_names_the_net_and_both_shapes(shape: tuple[int, ...]) -> None:
    field = Field(torch.nn.Tanh(), RF, eps_head, lambda net, x, t, batch: net(torch.zeros(shape)))
    with pytest.raises(Mismatch) as error:
        field({"x": torch.ones(2, 3), "t": torch.full((2,), 0.5)}, frozenset({"x0"}))
    assert str(error.value) == f"Tanh answers {shape} to states (2, 3)"


def test_both_ends_are_asked_just_inside() -> None:
    # on the path of EDM pure noise is infinitely far, where no net can be asked
    told: list[float] = []

    def call(net: Any, x: torch.Tensor, t: torch.Tensor, batch: Any) -> torch.Tensor:
        told.extend(t.tolist())
        return x / (1 + t[:, None])

    found = Field(torch.nn.Identity(), EDM, eps_head, call)(
        {"x": torch.ones(2, 3, dtype=torch.float64), "t": torch.tensor([0.0, 1.0])}, frozenset({"x0", "eps", "score"})
    )
    assert 0 < told[0] < 1e-4 and 1e4 < told[1] < 1e6
    torch.testing.assert_close(found["x0"][0], torch.ones(3, dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(found["eps"][1], torch.ones(3, dtype=torch.float64), atol=1e-4, rtol=0)
    assert all(bool(a.isfinite().all()) for a in found.values())
