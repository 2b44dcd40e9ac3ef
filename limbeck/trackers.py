"""Trackers: where else metrics go, besides `metrics.jsonl`, through accelerate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from limbeck.errors import BadValue, unknown

__all__ = ["TRACKERS", "check_trackers", "track", "tracked"]

TRACKERS = ("mlflow", "tensorboard", "trackio", "wandb")  # each is the name of its package too
MONOTONE = ("wandb",)  # throw away what is logged at a lower step than before


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that cannot log, which accelerate would leave out in silence.

    Args:
        names: as `--tracker` gives them.

    Raises:
        UnknownName: no such tracker.
        BadValue: its package is not installed.

    Example:
        >>> check_trackers(["tensorbord"])
        Traceback (most recent call last):
        limbeck.errors.UnknownName: unknown tracker 'tensorbord'; did you mean 'tensorboard'? possible: mlflow, \
tensorboard, trackio, wandb
    """
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        if name not in {str(there) for there in get_available_trackers()}:
            raise BadValue(f"the tracker {name!r} needs the package {name}: pip install limbeck[trackers]")


@contextmanager
def tracked(accelerator: Accelerator, names: Sequence[str]) -> Iterator[None]:
    """Hold the trackers of a run open, and close them however it ends.

    Args:
        accelerator: made with `log_with` these trackers.
        names: the trackers; without any, nothing is opened.
    """
    if not names:
        yield
        return
    accelerator.init_trackers("limbeck")
    try:
        yield
    finally:
        accelerator.end_training()


def track(accelerator: Accelerator, stage: str, step: int, figures: Mapping[str, float]) -> None:
    """Log the figures of a step to every tracker.

    Args:
        accelerator: holds the trackers.
        stage: the path of the stage, which goes before the names.
        step: the step of that stage.
        figures: name to value.
    """
    values = {f"{stage}/{name}": value for name, value in figures.items()}
    for tracker in accelerator.trackers:
        if tracker.name in MONOTONE:  # steps begin anew with every stage
            tracker.log({**values, f"{stage}/step": step})
        else:
            tracker.log(values, step=step)
