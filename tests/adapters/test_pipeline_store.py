"""Students saved as pipelines load and sample in bare diffusers, in a process that cannot import limbeck."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck.adapters.convention import grid
from limbeck.adapters.pipeline import Denoiser, encode_text
from limbeck.adapters.pipeline_store import how_to_load, save_pipeline, snapped
from limbeck.adapters.source import open_player
from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.parts.flowmap import any_step, jump
from limbeck.parts.solver import dpm_multistep, euler, heun, ode_sample, solve
from limbeck.parts.states import few_step
from limbeck.players import Player
from limbeck.roles import frozen
from tests.adapters import pipes
from tests.adapters.pipes import diffusers

# v, for what an untrained net says of noise is bounded then: pixels must not lie at the ends of their range
LINEAR = diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False)
FLOW = diffusers.FlowMatchEulerDiscreteScheduler()
BARE = """
import builtins, json, sys, torch
from pathlib import Path
known = builtins.__import__
def refuse(name, *rest, **more):
    assert not name.startswith("limbeck"), name
    return known(name, *rest, **more)
builtins.__import__ = refuse
import diffusers
diffusers.utils.logging.set_verbosity_error()
torch.set_num_threads(1)
for place, how in json.loads(sys.argv[1]).items():
    option = {"custom_pipeline": place, "trust_remote_code": True} if how.get("custom") else {}
    pipe = diffusers.DiffusionPipeline.from_pretrained(place, **option)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.load(Path(place) / "noise.pt")
    drawn = iter(noise)
    # the noise of the pipeline, in the order in which it asks: start, then every step
    for module in list(sys.modules.values()):
        if hasattr(module, "randn_tensor"):
            module.randn_tensor = lambda *shape, **more: next(drawn).clone()
    out = pipe(**how["call"])
    torch.save(torch.as_tensor(getattr(out, "images", out)), Path(place) / "drawn.pt")
"""


def run_bare(jobs: dict[Path, dict[str, Any]]) -> dict[Path, Tensor]:
    """Sample saved pipelines in one process of diffusers alone."""
    env = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
    said = json.dumps({str(p): how for p, how in jobs.items()})
    subprocess.run([sys.executable, "-W", "ignore", "-c", BARE, said], check=True, cwd="/", env=env)
    return {p: torch.load(p / "drawn.pt") for p in jobs}


def few(net: Denoiser, z: list[Tensor], times: tuple[float, ...], **given: Tensor) -> Tensor:
    """The few-step sampler, with the noise of every step given."""
    x = z[0]
    for i, (t, s) in enumerate(zip(times, (*times[1:], 0.0), strict=True)):
        level = torch.full((len(x),), t)
        x0 = net({"x": x, "t": level, **given}, frozenset({"x0"}))["x0"]
        x = (1 - s) * x0 + s * (z[i + 1] if s else 0)
    return x


def noise(net: Denoiser, place: Path, draws: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    z = [torch.randn(3, *net.shape, generator=generator) for _ in range(draws)]
    torch.save(z, place / "noise.pt")
    return z


@pytest.mark.slow
@torch.no_grad()
def test_the_same_noise_gives_the_same_sample(tmp_path: Path) -> None:
    labels = torch.tensor([1, 0, 7])
    jobs: dict[Path, dict[str, Any]] = {}
    want: dict[Path, Tensor] = {}
    pt = {"output_type": "np"}

    # a field on a table, by the teacher's scheduler; and one on a flow
    for name, scheduler in (("field", LINEAR), ("flow", FLOW)):
        net = open_player(pipes.write_unet(tmp_path / f"{name}-teacher", scheduler))
        place, notes = save_pipeline(net, tmp_path / name)
        z, times = noise(net, place, 1)[0], grid(scheduler, 4)
        # on a table diffusers begins with z at its last index: the same point is z / (a + s)
        start = z / net.convention.seen(torch.ones(1, 1), torch.tensor(times[:1]))
        ends = solve(Player("student", frozen(), net), Batch({"x": z}), euler(), start, times)
        want[place], jobs[place] = ends[-1], {"call": {"batch_size": 3, "num_inference_steps": 4, **pt}}
        assert not notes

    # a one-step student, an even one of several steps, and one with levels of its own and classes
    net = open_player(tmp_path / "field-teacher")
    place, notes = save_pipeline(net, tmp_path / "one", draw=few_step())
    z = noise(net, place, 1)
    want[place], jobs[place] = few(net, z, (1.0,)), {"call": {"batch_size": 3, "num_inference_steps": 1, **pt}}
    assert not notes and json.loads((place / "model_index.json").read_text())["scheduler"][1] == "LCMScheduler"
    flow = open_player(tmp_path / "flow-teacher")
    place, notes = save_pipeline(flow, tmp_path / "several", draw=few_step(times=(1.0, 0.75, 0.5)))
    want[place] = few(flow, noise(flow, place, 4), (1.0, 0.75, 0.5))
    jobs[place] = {"call": {"batch_size": 3, "num_inference_steps": 3, **pt}}
    assert not notes
    teacher = pipes.write_unet(tmp_path / "classes", LINEAR, pipes.unet(11), '{"classes": 10}')
    net = open_player(teacher)
    place, notes = save_pipeline(net, tmp_path / "own", draw=few_step(times=(1.0, 0.6)))
    times, index = snapped(net.convention, (1.0, 0.6))
    want[place] = few(net, noise(net, place, 2), times, y=labels)
    jobs[place] = {"call": {"batch_size": 3, "class_labels": labels.tolist(), "timesteps": index, **pt}}
    assert index is not None and "its own steps" in notes[0] and abs(times[1] - 0.6) < 2e-3

    # a transformer on latents with a VAE
    dit = open_player(pipes.write_dit(tmp_path / "dit-teacher", LINEAR))
    place, _ = save_pipeline(dit, tmp_path / "dit", draw=few_step())
    latent = few(dit, noise(dit, place, 1), (1.0,), y=labels)
    want[place] = dit.frame.vae.decode(latent / dit.frame.vae.config.scaling_factor).sample
    jobs[place] = {"call": {"class_labels": labels.tolist(), "num_inference_steps": 1, "guidance_scale": 1.0, **pt}}

    # a flow map: two times, on a fixed grid of its own
    two = open_player(f"map:{teacher}")
    torch.nn.init.normal_(two.second.outer.weight, std=0.3)
    place, notes = save_pipeline(two, tmp_path / "map", draw=any_step(times=(1.0, 0.4, 0.0)))
    x = noise(two, place, 1)[0]
    for t, s in ((1.0, 0.4), (0.4, 0.0)):
        t_B, s_B = torch.full((3,), t), torch.full((3,), s)
        u = two({"x": x, "t": t_B, "s": s_B, "y": labels}, frozenset({"velocity"}))["velocity"]
        x = jump(x, t_B, s_B, u)
    want[place] = x
    jobs[place] = {"call": {"class_labels": labels.tolist(), "output_type": "np"}, "custom": True}
    assert "opt-in" in notes[0] and "trust_remote_code" in how_to_load(place)

    # solvers of two evaluations a step, and of one with memory, on a grid of their own
    plain = open_player(pipes.write_unet(tmp_path / "classes-flow", FLOW, pipes.unet(11), '{"classes": 10}'))
    for name, solver in (("heun", heun()), ("memory", dpm_multistep(order=3))):
        grid_ = (1.0, 0.7, 0.5, 0.2, 0.0)
        place, notes = save_pipeline(plain, tmp_path / name, draw=ode_sample(solver=solver, times=grid_))
        z = noise(plain, place, 1)[0]
        want[place] = solve(Player("student", frozen(), plain), Batch({"x": z, "y": labels}), solver, z, grid_)[-1]
        jobs[place] = {"call": {"class_labels": labels.tolist(), "output_type": "np"}, "custom": True}

    found = run_bare(jobs)
    for place, sample in found.items():
        assert float((want[place].abs() < 1).float().mean()) > 0.5
        pixels = (want[place] / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        torch.testing.assert_close(
            sample.float(), pixels, atol=1e-5, rtol=1e-5, msg=lambda m, p=place: f"{p.name}: {m}"
        )


@torch.no_grad()
def test_what_was_saved_opens_again_as_it_was(tmp_path: Path) -> None:
    home = pipes.write_unet(tmp_path / "classes", LINEAR, pipes.unet(11), '{"classes": 10}')
    two = open_player(f"map:{home}")
    torch.nn.init.normal_(two.second.outer.weight, std=0.3)
    again = open_player(save_pipeline(two, tmp_path / "saved")[0])
    t = torch.tensor([0.8, 0.3])
    batch = {"x": torch.randn(2, 1, 8, 8), "t": t, "s": t / 2, "y": torch.tensor([1, 9])}
    want = frozenset({"velocity"})
    assert torch.equal(again(batch, want)["velocity"], two(batch, want)["velocity"]) and again.classes == 10


@torch.no_grad()
def test_low_rank_changes_are_merged_and_kept_beside(tmp_path: Path) -> None:
    home = pipes.write_text(tmp_path / "text", diffusers.DDIMScheduler(clip_sample=False, steps_offset=1))
    net = open_player(f"lora:rank=2:{home}")
    learning = [name for name, p in net.named_parameters() if p.requires_grad]
    assert learning and all("lora_" in name for name in learning)
    batch = {
        "x": torch.randn(2, 2, 8, 8), "t": torch.tensor([0.8, 0.3]), "y": torch.zeros(2).long(),
        "text": torch.randn(2, 6, 16),
    }  # fmt: skip
    want = frozenset({"x0"})
    plain = open_player(home)
    torch.testing.assert_close(net(batch, want)["x0"], plain(batch, want)["x0"])
    for name, p in net.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.05)
    there = net(batch, want)["x0"]
    assert not torch.allclose(there, plain(batch, want)["x0"])
    saved, _ = save_pipeline(net, tmp_path / "saved")
    torch.testing.assert_close(open_player(saved)(batch, want)["x0"], there, atol=1e-4, rtol=1e-4)
    # the changes alone, as diffusers itself loads them into the teacher
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(home)
    pipe.load_lora_weights(saved / "adapter")
    mine = Denoiser(pipe.unet, plain.convention, plain.frame, None, plain.nothing)
    torch.testing.assert_close(mine(batch, want)["x0"], there, atol=1e-4, rtol=1e-4)
    with pytest.raises(BadValue, match="already"):
        from limbeck.adapters.low_rank import with_changes

        with_changes(net)


@torch.no_grad()
def test_a_student_of_texts_samples_in_its_pipeline(tmp_path: Path) -> None:
    v = diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False, steps_offset=1)
    net = open_player(pipes.write_text(tmp_path / "teacher", v))
    place, _ = save_pipeline(net, tmp_path / "student", draw=few_step(times=(1.0, 0.6)))
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(place)
    pipe.set_progress_bar_config(disable=True)
    times, index = snapped(net.convention, (1.0, 0.6))
    z = [torch.randn(1, *net.shape, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    how = {"timesteps": index, "guidance_scale": 1.0, "output_type": "latent"}
    found = pipe("a b", latents=z[0], generator=torch.Generator().manual_seed(1), **how).images
    words = {"text": encode_text(net.frame.text, ["a b"]), "y": torch.zeros(1).long()}
    torch.testing.assert_close(found, few(net, z, times, **words), atol=1e-5, rtol=1e-5)
    assert f"timesteps={index}" in how_to_load(place)


def test_levels_that_no_table_has_are_refused(tmp_path: Path) -> None:
    net = open_player(pipes.write_unet(tmp_path / "plain", LINEAR))
    with pytest.raises(BadValue, match="steps = 0"):
        snapped(net.convention, ())
    with pytest.raises(BadValue, match="fall on one index"):
        save_pipeline(net, tmp_path / "saved", draw=few_step(times=(1.0, 0.999)))
    assert not (tmp_path / "saved").exists()
