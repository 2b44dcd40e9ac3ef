"""Pipelines of diffusers as fields: every convention is diffusers' own, and what cannot be is refused in a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck.adapters.convention import grid, read_scheduler
from limbeck.adapters.pipeline import Denoiser
from limbeck.adapters.source import open_player
from limbeck.batch import Batch
from limbeck.errors import BadData, BadValue, BadWeights, Mismatch, UnknownName
from limbeck.parts.jvp import jvp
from limbeck.parts.solver import euler, solve
from limbeck.parts.states import few_step_states
from limbeck.players import Player
from limbeck.roles import frozen
from tests.adapters import pipes
from tests.adapters.pipes import diffusers

DDIM = {"clip_sample": False}
TABLES = {
    "epsilon": diffusers.DDIMScheduler(**DDIM),
    "v": diffusers.DDIMScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2", **DDIM),
    "sample": diffusers.DDIMScheduler(prediction_type="sample", beta_schedule="scaled_linear", **DDIM),
}
FLOW = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
ALL = frozenset({"x0", "eps", "velocity", "score"})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pipelines")
    pipes.write_unet(place / "plain", TABLES["epsilon"])
    pipes.write_unet(place / "classes", TABLES["epsilon"], pipes.unet(11), '{"classes": 10}')
    pipes.write_unet(place / "last", TABLES["epsilon"], pipes.unet(10))
    pipes.write_unet(place / "flow", FLOW)
    pipes.write_dit(place / "dit", TABLES["v"])
    pipes.write_text(place / "text", diffusers.DDIMScheduler(clip_sample=False, steps_offset=1))
    return place


@pytest.fixture
def mine(home: Path, tmp_path: Path) -> Path:
    """A pipeline that a test may damage."""
    return Path(shutil.copytree(home / "classes", tmp_path / "mine"))


def player(net: Denoiser) -> Player:
    return Player("student", frozen(), net)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("kind", TABLES)
def test_straight_steps_are_the_ddim_of_diffusers(kind: str, home: Path, tmp_path: Path) -> None:
    net = open_player(pipes.write_unet(tmp_path / kind, TABLES[kind]))
    z, scheduler = noise(3, 1, 8, 8), TABLES[kind]
    scheduler.set_timesteps(5)
    want = z
    for n in scheduler.timesteps:
        want = scheduler.step(net.net(want, n).sample, n, want).prev_sample
    times = grid(scheduler, 5)
    # diffusers begins at the last index with z itself; the same point on our path is z / (a + s)
    a, s = (
        scheduler.alphas_cumprod[scheduler.timesteps[0]].sqrt(),
        (1 - scheduler.alphas_cumprod[scheduler.timesteps[0]]).sqrt(),
    )
    ends = solve(player(net), Batch({"x": z}), euler(), z / (a + s), times)
    torch.testing.assert_close(ends[-1], want, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_straight_steps_are_the_euler_of_flow_matching(home: Path) -> None:
    net, z = open_player(home / "flow"), noise(3, 1, 8, 8)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(FLOW.config)
    scheduler.set_timesteps(4)
    want = z
    for n in scheduler.timesteps:
        want = scheduler.step(net.net(want, n).sample, n, want).prev_sample
    ends = solve(player(net), Batch({"x": z}), euler(), z, grid(FLOW, 4))
    torch.testing.assert_close(ends[-1], want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_edm_is_the_denoiser_of_edm(tmp_path: Path) -> None:
    scheduler = diffusers.EDMEulerScheduler(sigma_data=0.7)
    net = open_player(pipes.write_unet(tmp_path / "edm", scheduler))
    x0, e, sigma = noise(2, 1, 8, 8), noise(2, 1, 8, 8).flip(0), torch.tensor([0.3, 5.0])
    noised = x0 + sigma.view(-1, 1, 1, 1) * e
    told = scheduler.precondition_noise(sigma)
    h = net.net(noised / (sigma**2 + 0.7**2).sqrt().view(-1, 1, 1, 1), told).sample
    want = scheduler.precondition_outputs(noised, h, sigma.view(-1, 1, 1, 1))
    t = sigma / (1 + sigma)
    answers = net({"x": noised / (1 + sigma).view(-1, 1, 1, 1), "t": t}, ALL)
    torch.testing.assert_close(answers["x0"], want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_is_said_of_pure_noise_is_what_diffusers_says(home: Path) -> None:
    net, z = open_player(home / "plain"), noise(2, 1, 8, 8)
    lcm = diffusers.LCMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", original_inference_steps=1)
    lcm.set_timesteps(1)
    want = lcm.step(net.net(z, 999).sample, 999, z).denoised
    found = net({"x": z, "t": torch.ones(2)}, ALL)
    torch.testing.assert_close(found["x0"], want, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found["eps"], z)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["plain", "classes", "flow", "dit", "text"])
def test_all_answers_are_of_one_field(home: Path, kind: str) -> None:
    net = open_player(home / kind)
    batch = {"x": noise(4, *net.shape), "t": torch.tensor([0.0, 0.3, 0.97, 1.0]), "y": torch.zeros(4).long()}
    if kind == "text":
        batch["text"] = net.nothing.expand(4, 6, 16)
    found = net(batch, ALL)
    t = batch["t"].view(-1, 1, 1, 1)
    torch.testing.assert_close((1 - t) * found["x0"] + t * found["eps"], batch["x"], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(found["velocity"], found["eps"] - found["x0"])
    assert net.path == home / kind and not net.net.training


@torch.no_grad()
def test_taps_and_features(home: Path) -> None:
    net, batch = open_player(home / "plain"), {"x": noise(2, 1, 8, 8), "t": torch.full((2,), 0.5)}
    found = net(batch, frozenset({"features", "tap:mid_block", "tap:conv_in", "x0"}))
    assert found["features"].shape == (2, 16, 4, 4) and found["tap:conv_in"].shape == (2, 8, 8, 8)
    assert torch.equal(found["features"], found["tap:mid_block"])
    latent = open_player(home / "dit")
    batch = {"x": noise(2, 2, 8, 8), "t": torch.full((2,), 0.5), "y": torch.zeros(2).long()}
    assert latent(batch, frozenset({"features"}))["features"].shape == (2, 16, 16)
    with pytest.raises(UnknownName, match="mid_blok"):
        latent(batch, frozenset({"tap:mid_blok"}))


def test_nothing_is_random_while_it_learns(home: Path) -> None:
    net = open_player(home / "dit").train()
    batch = {"x": noise(8, 2, 8, 8), "t": torch.full((8,), 0.5), "y": torch.arange(8)}
    first, again = (net(batch, frozenset({"velocity"}))["velocity"] for _ in range(2))
    assert torch.equal(first, again) and net.training


@torch.no_grad()
def test_guidance_is_linear_between_class_and_none(home: Path) -> None:
    for kind in ("classes", "dit", "text"):
        net, strong = open_player(home / kind), open_player(f"guided:scale=5:{home / kind}")
        y = torch.zeros(2).long()
        batch: dict[str, Any] = {"x": noise(2, *net.shape), "t": torch.full((2,), 0.5), "y": y}
        if kind == "text":
            from limbeck.adapters.pipeline import encode_text

            batch["text"] = encode_text(net.frame.text, ["a b", "c"])
        want = frozenset({"velocity"})
        with_class = net(batch, want)["velocity"]
        without = net({**batch, "y": y + net.classes}, want)["velocity"]
        assert not torch.equal(with_class, without)
        torch.testing.assert_close(strong(batch, want)["velocity"], without + 5 * (with_class - without))


def test_a_map_begins_as_its_field_and_learns_where_a_jump_ends(home: Path) -> None:
    want = frozenset({"velocity"})
    for kind in ("plain", "dit"):
        field, two = open_player(home / kind), open_player(f"map:{home / kind}")
        x, t = noise(2, *field.shape), torch.tensor([0.9, 0.5])
        batch = {"x": x, "t": t, "y": torch.zeros(2).long()}
        torch.testing.assert_close(two({**batch, "s": t / 2}, want)["velocity"], field(batch, want)["velocity"])
        with pytest.raises(Mismatch, match="give map:"):
            field({**batch, "s": t / 2}, want)
        torch.nn.init.normal_(two.second.outer.weight, std=0.3)

        def ask(s: Tensor, two: Denoiser = two, batch: dict[str, Tensor] = batch) -> Tensor:
            return two({**batch, "s": s}, want)["velocity"]

        # forward-mode derivatives run through attention and group norms; against central differences
        s = t / 2
        _, slope = jvp(ask, (s,), (torch.ones(2),))
        with torch.no_grad():
            near = (ask(s + 1e-3) - ask(s - 1e-3)) / 2e-3
        torch.testing.assert_close(slope, near, atol=2e-2 * float(near.abs().max()), rtol=0)


def test_a_copy_of_the_teacher(home: Path) -> None:
    teacher = open_player(f"guided:scale=2:{home / 'classes'}")
    student = open_player("from-teacher", teacher=teacher)
    assert isinstance(student, Denoiser) and student.net is not teacher.net.net
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), teacher.parameters(), strict=True))
    with pytest.raises(BadValue, match="layers"):
        open_player("from-teacher:layers=2", teacher=teacher)


@torch.no_grad()
def test_a_scale_of_guidance_is_told_as_latent_consistency_models_are(tmp_path: Path) -> None:
    home = pipes.write_text(tmp_path / "lcm", diffusers.DDIMScheduler(clip_sample=False, steps_offset=1), told=8)
    net = open_player(home)
    x, w = noise(2, 2, 8, 8), torch.tensor([1.0, 5.0])
    batch = {"x": x, "t": torch.ones(2), "y": torch.zeros(2).long(), "text": net.nothing.expand(2, 6, 16)}
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(home)
    told = pipe.get_guidance_scale_embedding(w - 1, embedding_dim=8)
    want = net.net(x, 999, encoder_hidden_states=batch["text"], timestep_cond=told).sample
    torch.testing.assert_close(net.say(net.convention, {**batch, "w": w}), want, atol=1e-5, rtol=1e-4)
    # without w a row is told that there is no guidance
    torch.testing.assert_close(net.say(net.convention, batch)[0], want[0], atol=1e-5, rtol=1e-4)


def test_only_the_dtype_of_a_pipeline_can_be_chosen(home: Path) -> None:
    assert next(open_player(f"load:dtype=bfloat16:{home / 'plain'}").parameters()).dtype is torch.bfloat16
    with pytest.raises(BadValue, match="only dtype"):
        open_player(f"load:device_map=auto:{home / 'plain'}")


# -- bad input --------------------------------------------------------------------------------------------------------


def test_pipelines_without_safetensors_are_refused(mine: Path) -> None:
    weights = mine / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(BadWeights, match="is a pickle"):
        open_player(mine)


def test_what_a_directory_lacks_is_named(mine: Path) -> None:
    index = json.loads((mine / "model_index.json").read_text())
    changes = (
        ({"unet": ["diffusers", "FluxTransformer2DModel"]}, "names a Flux"),
        ({"unet": [None, None]}, "neither"),
        ({"scheduler": ["diffusers", "Nope"]}, "no scheduler Nope"),
    )
    for change, said in changes:
        (mine / "model_index.json").write_text(json.dumps({**index, **change}))
        with pytest.raises(BadWeights, match=said):
            open_player(mine)
    (mine / "model_index.json").write_text(json.dumps(index))
    config = json.loads((mine / "unet" / "config.json").read_text())
    # of what the weights do not depend on
    (mine / "unet" / "config.json").write_text(json.dumps({**config, "sample_size": None}))
    with pytest.raises(BadWeights, match="does not say its sample_size"):
        open_player(mine)
    (mine / "unet" / "config.json").write_text(json.dumps(config))
    (mine / "limbeck.json").write_text('{"classes": 99}')
    with pytest.raises(BadWeights, match="99 classes"):
        open_player(mine)


def test_tables_that_end_in_pure_noise_need_v(tmp_path: Path) -> None:
    for kind in ("v_prediction", "epsilon"):
        scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type=kind)
        if kind == "epsilon":
            with pytest.raises(BadWeights, match="pure noise"):
                read_scheduler(scheduler)
        else:
            assert read_scheduler(scheduler).high > 0.999


def test_classes_states_and_steps_out_of_range(home: Path) -> None:
    net = open_player(home / "classes")
    batch = {"x": noise(2, 1, 8, 8), "t": torch.ones(2), "y": torch.tensor([3, 11])}
    with pytest.raises(BadData, match=r"class 11 is out of range.* 0 to 9"):
        net(batch, ALL)
    with pytest.raises(BadData, match="NaN"):
        net({**batch, "y": batch["y"].clamp(max=9), "x": batch["x"] * float("nan")}, ALL)
    with pytest.raises(Mismatch, match="1x8x8, got 1x4x4"):
        net({**batch, "x": noise(2, 1, 4, 4)}, ALL)
    with pytest.raises(BadValue, match="steps = 0"):
        grid(TABLES["epsilon"], 0)


def test_guidance_needs_a_condition(home: Path) -> None:
    with pytest.raises(BadValue, match="unconditional"):
        open_player(f"guided:scale=5:{home / 'plain'}")
    with pytest.raises(BadValue, match=r'no embedding for no class.*"classes": 9'):
        open_player(f"guided:scale=5:{home / 'last'}")
    with pytest.raises(BadValue, match="must be a number"):
        open_player(f"guided:scale=5-e:{home / 'classes'}")
    with pytest.raises(BadValue, match="form guided"):
        open_player(f"guided:{home / 'classes'}")


def test_few_step_states_of_a_net_are_finite(home: Path) -> None:
    states = few_step_states(player(open_player(home / "flow")), Batch({"x": noise(2, 1, 8, 8)}), (1.0, 0.5, 0.0))
    assert all(bool(s.isfinite().all()) for s in states)
