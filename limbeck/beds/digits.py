"""The 1797 handwritten digits of scikit-learn, 8 x 8 pixels, with a teacher that has seen 1000 of them.

The held-out rows are the same for every seed and never trained on: 297 to choose on, 500 for the verdict. A seed draws
the training rows from the teacher's 1000. `world` makes the variants with fewer or wrong labels.

Legend of shapes: B rows, N rows of a split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

import limbeck.assets
from limbeck.adapters.modules import Plain
from limbeck.beds import Bed
from limbeck.data import Table
from limbeck.probes.classification import accuracy, brier, ece, nll
from limbeck.rng import Rng, derive

__all__ = ["CLASSES", "TEACHER", "bed", "convolutional", "perceptron", "splits", "world"]

CLASSES = 10
POOL, VALID = 1000, 297
TEACHER = Path(limbeck.assets.__file__).parent / "digits-teacher" / "model.safetensors"


@lru_cache(maxsize=1)
def splits() -> Mapping[str, Table]:
    """Cut the data into the teacher's rows and two held-out parts.

    Returns:
        "pool" (1000 rows), "valid" (297) and "test" (500); x (N, 1, 8, 8) in [0, 1], y (N,) int64.

    Source: scikit-learn `load_digits`, a copy of the test set of UCI "Optical Recognition of Handwritten Digits".
    """
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
    y = torch.tensor(digits.target, dtype=torch.int64)[order]
    ends = {"pool": (0, POOL), "valid": (POOL, POOL + VALID), "test": (POOL + VALID, len(y))}
    return {name: Table({"x": x[a:b], "y": y[a:b]}) for name, (a, b) in ends.items()}


def convolutional(width: int) -> nn.Sequential:
    """A convolutional net with three layers of `width` / 4, `width` / 2 and `width` channels.

    Example:
        >>> convolutional(8)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    return nn.Sequential(
        nn.Conv2d(1, width // 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width // 4, width // 2, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width // 2, width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, CLASSES),
    )


def perceptron(width: int) -> nn.Sequential:
    """A perceptron on the 64 pixels with two hidden layers.

    Example:
        >>> perceptron(16)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    hidden = [nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, CLASSES))


def _teacher(_seed: int) -> nn.Module:
    net = convolutional(64)
    net.load_state_dict(load_file(TEACHER))
    return Plain(net)


def _student(width: int) -> Callable[[int], nn.Module]:
    def build(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive("digits", "student", seed))
            return Plain(perceptron(width))

    return build


def _relabel(y: Tensor, share: float, rng: Rng) -> Tensor:
    """Give a share of the rows another class, all nine equally likely."""
    shift = 1 + rng.integers("shift", CLASSES - 1)
    return torch.where(rng.uniform("wrong") < share, (y + shift) % CLASSES, y)


def world(key: str, about: str, *, rows: int = POOL, wrong: float = 0.0, width: int = 32) -> Bed:
    """Make a bed of digits.

    Args:
        key: its name and that of its file.
        about: one sentence.
        rows: training rows that a seed draws from the teacher's.
        wrong: the share of wrong labels among the training and the validation rows; those of the test are right.
        width: hidden units of the student; the teacher has 64 features.

    Returns:
        The bed, with players "teacher" (convolutional, the same for every seed) and "student" (a perceptron).

    Example:
        >>> few = world("few", "A tenth of the digits.", rows=100, wrong=0.2)
        >>> {name: len(split) for name, split in few.data(0).items()}
        {'train': 100, 'valid': 297, 'test': 500}
    """

    def data(seed: int) -> dict[str, Table]:
        order = torch.randperm(POOL, generator=torch.Generator().manual_seed(derive("digits", "rows", seed)))
        whole = splits()
        taken = {"train": whole["pool"].take(order[:rows]), "valid": whole["valid"].take(torch.arange(VALID))}
        for name, columns in taken.items():
            y = columns["y"]
            assert isinstance(y, Tensor)
            columns["y"] = _relabel(y, wrong, Rng(("digits", name, seed), torch.arange(len(y))))
        return {**{name: Table(columns) for name, columns in taken.items()}, "test": whole["test"]}

    probes = {"accuracy": accuracy(), "nll": nll(), "ece": ece(), "brier": brier()}
    return Bed(key, about, {"teacher": _teacher, "student": _student(width)}, data, probes)


bed = world("digits", "Digits of 8 x 8 pixels: a convolutional teacher that errs on 1% of the held-out rows.")
