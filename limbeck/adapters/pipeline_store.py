"""Students saved as pipelines of diffusers, which load and sample there without limbeck.

    fields                          the teacher's pipeline and scheduler
    few-step students, table        LCMScheduler, which predicts the datum and noises it again
    few-step students, flow         FlowMatchLCMScheduler
    flow maps, learned solvers, and what no scheduler can do    `pipeline.py`, a fixed grid; loading it is opt-in

Levels of a few-step student are moved to the nearest index of its table, at most half of one away. The levels, and what
else is needed to sample, are in `limbeck.json`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import nn

from limbeck.adapters.convention import Convention
from limbeck.adapters.low_rank import merged, save_changes
from limbeck.adapters.pipeline import AHEAD, FACTS, INDEX, Denoiser
from limbeck.adapters.store import _whole
from limbeck.adapters.unrolled import unrolled
from limbeck.adapters.weights import read_json, silent
from limbeck.errors import BadValue
from limbeck.part import Expr, Part
from limbeck.parts.flowmap import any_step

__all__ = ["how_to_load", "save_pipeline", "snapped"]

TABLE = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
    "rescale_betas_zero_snr", "steps_offset",
)  # fmt: skip
FILE, CLASS = "pipeline.py", "FixedGridPipeline"


def snapped(convention: Convention, times: Sequence[float]) -> tuple[tuple[float, ...], list[int] | None]:
    """Levels as a table of diffusers knows them.

    Args:
        convention: of the net.
        times: levels of a few-step student.

    Returns:
        The nearest levels of the table and their indices; the levels as they are, and None, where there is no table.

    Raises:
        BadValue: no level at all, or two that fall on one index.

    Example:
        >>> from limbeck.adapters.convention import table
        >>> found, index = snapped(table(torch.tensor([0.9, 0.5, 0.1]), "epsilon"), (1.0, 0.45))
        >>> [round(t, 3) for t in found], index
        ([1.0, 0.5], [2, 1])
    """
    if not len(times):
        raise BadValue("a few-step student needs at least one step, got steps = 0")
    if convention.data != 1.0:
        return tuple(times), None
    index = convention.told(torch.tensor(times, dtype=torch.float64)).round()
    if len(index.unique()) < len(index):
        raise BadValue(f"two of the levels {tuple(times)} fall on one index of the scheduler's table")
    a, s = convention.path.alpha(index), convention.path.sigma(index)
    levels = (s / (a + s)).tolist()
    # noise itself stays what it is: the last index of a table is where diffusers begins with it
    found = tuple(t if t > convention.high else level for t, level in zip(times, levels, strict=True))
    return found, [int(n) for n in index.tolist()]


def save_pipeline(
    net: Denoiser, directory: Path, *, draw: Expr | None = None, asked: str = "student",
    others: Mapping[str, nn.Module] | None = None,
) -> tuple[Path, list[str]]:  # fmt: skip
    """Save a student as a pipeline: all of the directory or none of it appears.

    Args:
        net: the student, or the teacher of a learned solver.
        directory: where to; what was there is replaced.
        draw: the sampler that it was distilled for; None for a field.
        asked: the player that the sampler asks.
        others: further players that the sampler asks, such as a learned solver.

    Returns:
        The directory, and what the user should know.

    Raises:
        BadValue: levels that the scheduler cannot have, or a sampler that is no fixed grid.
    """
    model, index = merged(net), read_json(net.frame.home / INDEX)
    draw = any_step() if draw is None and net.second is not None else draw
    facts, kind, scheduler, notes = _sampling(net, index["_class_name"], draw, asked, others or {})
    with _whole(Path(directory)) as place, silent():
        _components(net, index, place)
        model.save_pretrained(place / net.frame.slot)
        _stated(place / net.frame.slot / "config.json", net)
        save_changes(net, place)
        scheduler.save_pretrained(place / "scheduler")
        index |= {"_class_name": kind, "scheduler": ["diffusers", type(scheduler).__name__]}
        (place / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        (place / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
        if net.second is not None:
            (place / AHEAD).mkdir()
            save_model(net.second, str(place / AHEAD / "model.safetensors"))
        if isinstance(kind, list):
            shutil.copyfile(Path(__file__).with_name("fixed_grid.py"), place / FILE)
    return Path(directory), notes


def _sampling(
    net: Denoiser, kind: Any, draw: Expr | None, asked: str, others: Mapping[str, nn.Module]
) -> tuple[dict[str, Any], Any, Any, list[str]]:
    """What `limbeck.json` says, the class of the pipeline, its scheduler, and notes."""
    facts: dict[str, Any] = {"classes": net.classes} if net.labels else {}
    scheduler = net.frame.scheduler
    if draw is None:
        return facts, kind, scheduler, []
    if isinstance(draw, Part) and draw.spec.name == "few_step" and net.second is None:
        levels, whole = snapped(net.convention, draw.children()["times"])
        own, fits = _few_step(net, levels, whole)
        name, standard = _standard(net, kind, fits, whole)
        if standard:
            facts |= {"times": list(levels)} | ({} if whole is None else {"timesteps": whole})
            notes = [] if fits else [f"give the scheduler its own steps: timesteps={whole}"]
            return facts, name, own, notes
    facts["steps"] = unrolled(net.convention, draw, asked, others)
    note = f"no scheduler of diffusers samples it: {FILE} does, on a fixed grid; loading it is opt-in"
    return facts, [FILE.removesuffix(".py"), CLASS], scheduler, [note]


def _components(net: Denoiser, index: dict[str, Any], place: Path) -> None:
    """Take along what stands around the net, and licences."""
    home = net.frame.home
    for name, value in index.items():
        kept = isinstance(value, list) and name not in (net.frame.slot, "scheduler") and (home / name).is_dir()
        if kept:
            shutil.copytree(home / name, place / name)
    for pattern in ("LICENSE*", "NOTICE*"):
        for file in home.glob(pattern):
            shutil.copyfile(file, place / file.name)


def _stated(path: Path, net: Denoiser) -> None:
    """Say how many channels come out, where a config leaves it open: pipelines ask for the number."""
    config = read_json(path)
    if "out_channels" in config and config["out_channels"] is None:
        path.write_text(json.dumps({**config, "out_channels": net.shape[0]}, indent=2) + "\n")


def _few_step(net: Denoiser, levels: Sequence[float], whole: list[int] | None) -> tuple[Any, bool]:
    """The scheduler of a few-step student, and whether it takes the right steps by itself."""
    import diffusers

    config, n = net.frame.scheduler.config, len(levels)
    if whole is not None:
        # the scheduler mixes in the state near time 0, where distilled nets of this library need no help
        # (its values are passed one by one: `from_config` would put its own defaults in the place of another's)
        known = {k: config[k] for k in TABLE if k in config}
        for original in (n, 50):
            lcm = diffusers.LCMScheduler(**known, timestep_scaling=1e6, original_inference_steps=original)
            lcm.set_timesteps(n)
            if lcm.timesteps.tolist() == whole:
                return lcm, True
        return lcm, False
    if net.convention.name == "flow_prediction":
        low = levels[-1] if n > 1 else None
        flow = diffusers.FlowMatchLCMScheduler(int(config.num_train_timesteps), shift_terminal=low)
        flow.set_timesteps(n)
        same = torch.allclose(flow.sigmas[:-1].double(), torch.tensor(levels).double(), atol=1e-6)
        return (flow, True) if same else (net.frame.scheduler, False)
    return net.frame.scheduler, False


def _standard(net: Denoiser, kind: Any, fits: bool, whole: list[int] | None) -> tuple[Any, bool]:
    """The class of pipeline that samples a few-step student with its scheduler, if there is one."""
    name = type(net.net).__name__
    if name == "UNet2DConditionModel":
        return kind, net.second is None and (fits or whole is not None)
    if name == "UNet2DModel":
        if fits and not net.labels:
            return "DDPMPipeline", True
        # the one class for pixels that takes classes, and steps that are not even
        return "ConsistencyModelPipeline", whole is not None and net.second is None
    return kind, fits and net.frame.vae is not None


def how_to_load(saved: Path) -> str:
    """The lines that load a saved pipeline in diffusers and draw from it, for its model card.

    Args:
        saved: the directory.
    """
    index, facts = read_json(saved / INDEX), read_json(saved / FACTS)
    custom = isinstance(index["_class_name"], list)
    option = f", custom_pipeline={str(saved)!r}, trust_remote_code=True" if custom else ""
    kind, asked = str(index["_class_name"][-1] if custom else index["_class_name"]), []
    if kind in ("DiTPipeline", "ConsistencyModelPipeline", CLASS) and facts.get("classes"):
        asked.append("class_labels=[0, 1, 2, 3]")
    if custom and (index.get("text_encoder") or [None])[0]:
        asked.append('prompt=["a prompt"]')
    if kind == "StableDiffusionPipeline":
        asked.append('"a prompt"')
    if kind in ("DiTPipeline", "StableDiffusionPipeline") and facts.get("times"):
        asked.append("guidance_scale=1.0")
    if kind == "ConsistencyModelPipeline":
        asked = ["batch_size=4", *asked]
    if kind in ("ConsistencyModelPipeline", "StableDiffusionPipeline") and facts.get("timesteps"):
        asked.append(f"timesteps={facts['timesteps']}")
    elif facts.get("times") and not custom:
        asked.append(f"num_inference_steps={len(facts['times'])}")
    said = "# runs pipeline.py, which lies beside the weights: read it first\n" if custom else ""
    return (
        f"from diffusers import DiffusionPipeline\n\n{said}"
        f"pipeline = DiffusionPipeline.from_pretrained({str(saved)!r}{option})\n"
        f"pictures = pipeline({', '.join(asked)}){'' if custom else '.images'}"
    )
