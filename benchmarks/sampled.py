"""How many pictures a second an exported student gives in diffusers, against its teacher at 50 steps.

The teacher is a pipeline of diffusers with its DDIM scheduler and the UNet of *Few-step distillation* (32 x 32, without
training, which costs the same); students of 1, 2 and 4 steps are exported from it as a distilled student is, with the
scheduler of consistency models. All are loaded and sampled by diffusers alone, 8 pictures at a time. *Net alone* is
what the evaluations of the net leave possible: the rest is the scheduler, fresh noise and the making of pictures.
Seconds are those of the processor.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.fields import clocked
from benchmarks.nets import made
from limbeck.adapters.pipeline_store import save_pipeline
from limbeck.adapters.source import open_player
from limbeck.adapters.weights import silent
from limbeck.parts.solver import even
from limbeck.parts.states import few_step

REPEATS = 5
THREADS = 1
ROWS, TEACHER, STUDENTS = 8, 50, (1, 2, 4)


def pipelines(place: Path) -> list[tuple[str, int, Any]]:
    """What is sampled: name, steps and pipeline."""
    import diffusers

    with silent():
        scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False)
        diffusers.DDIMPipeline(made("UNet", 0).net, scheduler).save_pretrained(place / "teacher")
        places = [("teacher", TEACHER, place / "teacher")]
        for steps in STUDENTS:
            net: Any = open_player(place / "teacher")
            home, _ = save_pipeline(net, place / f"student-{steps}", draw=few_step(times=even(steps)[:-1]))
            places.append(("student", steps, home))
        found = [(name, n, diffusers.DiffusionPipeline.from_pretrained(str(home))) for name, n, home in places]
    for _, _, pipe in found:
        pipe.set_progress_bar_config(disable=True)
    return found


def table() -> list[str]:
    """The rows of the table: who, steps, pictures a second, and how many times the teacher's."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    heading = ["pipeline", "steps", "pictures / CPU s", "net alone", "times the teacher", "net alone"]
    out = [f"| {' | '.join(heading)} |", "|---" * len(heading) + "|"]
    with tempfile.TemporaryDirectory() as folder:
        known, net = pipelines(Path(folder)), made("UNet", 0).eval()
        x, t = torch.randn(ROWS, 3, 32, 32), torch.rand(ROWS)
        forward = torch.no_grad()(lambda: net(x, t, 0 * t))
        draws = [partial(pipe, batch_size=ROWS, num_inference_steps=steps) for _, steps, pipe in known]
        for work in (forward, *draws[1:]):
            work()
        runs = [[clocked(forward), *map(clocked, draws)] for _ in range(REPEATS)]
    one, *took = (statistics.median(run[i] for run in runs) for i in range(len(runs[0])))
    for (name, steps, _), seconds in zip(known, took, strict=True):
        cells = [name, str(steps), f"{ROWS / seconds:.1f}", f"{ROWS / steps / one:.1f}", f"{took[0] / seconds:.1f}"]
        out.append(f"| {' | '.join([*cells, f'{TEACHER / steps:.1f}'])} |")
    return out
