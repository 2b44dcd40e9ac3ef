"""Fields of one's own are examined by what they draw, from factories and files as a user has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from limbeck import distill
from limbeck.beds._mixture import ExactField, Mixture
from limbeck.data import Table
from limbeck.errors import BadData
from limbeck.evaluate import Examination
from limbeck.examine_fields import drawn_by, examine_fields
from limbeck.index import load
from limbeck.parts.solver import even, ode_sample
from limbeck.parts.states import few_step

MIX = Mixture(torch.ones(2), torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), 0.2)
FAR = Mixture(torch.ones(1), torch.tensor([[3.0, 3.0]]), 0.2)

FACTORIES = """
import torch
from limbeck.adapters.bridge import BridgeField
from limbeck.beds._nets import PointField
from limbeck.parts.bridge import brownian, displacement_head


def field():
    return PointField(2, width=16, depth=1)


def call(net, x, u, batch):
    return net(torch.cat((x, batch["source"], u[:, None]), 1))


def bridge():
    return BridgeField(torch.nn.Linear(5, 2), brownian(0.5), displacement_head, call)
"""


def rows(n: int) -> Table:
    return Table({"x": MIX.sample(n, 0)[0]})


def test_a_field_that_is_the_law_is_near_and_another_is_far() -> None:
    nets = {"teacher": ExactField(MIX), "before": ExactField(FAR), "after": ExactField(MIX)}
    exam = examine_fields(nets, rows(128), ode_sample(times=even(20)))
    energy, kernel = exam.qualities
    assert (
        energy.values["teacher"].value < 0.2 and energy.values["after"].value < 0.2 < 1 < energy.values["before"].value
    )
    assert kernel.values["after"].value < 0.2 < kernel.values["before"].value
    assert not energy.higher_is_better and set(exam.costs) == set(nets)


def test_how_a_student_is_drawn_is_what_its_recipe_says() -> None:
    assert drawn_by(load("dmd2")) == few_step(times=(1.0,)) and drawn_by(load("bespoke-solver")) is None
    assert drawn_by(load("scfm")) == ode_sample() and drawn_by(load("kd")) is None


def test_one_row_is_refused() -> None:
    with pytest.raises(BadData, match="two held-out rows"):
        examine_fields({"after": ExactField(MIX)}, rows(1), ode_sample())


@pytest.mark.parametrize("kind", ["field", "bridge"])
def test_nets_of_a_factory_learn_from_a_file_and_are_examined(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"of_mine_{kind}.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    x = rows(120).columns["x"]
    assert isinstance(x, torch.Tensor)
    np.savez(tmp_path / "rows.npz", x=x.numpy(), source=x.sign().numpy())
    run = distill(
        "flow-matching", student=f"of_mine_{kind}:{kind}", data=str(tmp_path / "rows.npz"), out=tmp_path / "run",
        steps=2, batch_size=8,
    )  # fmt: skip
    assert [q.name for q in Examination.load(run).qualities] == ["energy distance", "kernel distance"]
    assert "energy distance" in (run / "report.md").read_text()
