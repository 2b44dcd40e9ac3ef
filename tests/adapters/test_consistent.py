"""A scheduler that contradicts its net is refused, with the cause; one that does not, or an untrained net, is not."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from limbeck.adapters.consistent import checked, checked_together, unexplained
from limbeck.adapters.convention import read_scheduler
from limbeck.adapters.data import open_data
from limbeck.adapters.pipeline import Denoiser, Frame
from limbeck.adapters.source import open_player, read_for
from limbeck.data import Table
from limbeck.errors import BadWeights, Mismatch
from tests.adapters import pipes
from tests.adapters.pipes import diffusers

KINDS: dict[str, Any] = {
    "epsilon": diffusers.DDPMScheduler(),
    "v_prediction": diffusers.DDPMScheduler(prediction_type="v_prediction"),
    "sample": diffusers.DDPMScheduler(prediction_type="sample"),
    "flow_prediction": diffusers.FlowMatchEulerDiscreteScheduler(),
}


@lru_cache
def spread() -> tuple[Tensor, Tensor, Tensor]:
    """Mean of the digits, and values and vectors of their covariance."""
    x = pipes.digits()["x"].flatten(1).double()
    values, vectors = torch.linalg.eigh(x.T.cov())
    return x.mean(0), values.clamp(min=0), vectors


class Exact(nn.Module):
    """The exact net of the normal distribution that digits have, in the words of one scheduler of diffusers."""

    class Config(dict[str, Any]):
        sample_size, in_channels = 8, 1

    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        self.config, self.scheduler = self.Config(), scheduler
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, n: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        table = getattr(self.scheduler, "alphas_cumprod", None)
        if table is None:
            s = n / 1000
            a = 1 - s
        else:
            a, s = table[n.round().long()].sqrt(), (1 - table[n.round().long()]).sqrt()
        a, s = a.double()[:, None], s.double()[:, None]
        mean, values, vectors = spread()
        flat = x.flatten(1).double()
        x0 = mean + ((flat - a * mean) @ vectors * (a * values / (a**2 * values + s**2))) @ vectors.T
        e = (flat - a * x0) / s
        kind = "flow_prediction" if table is None else self.scheduler.config.prediction_type
        said = {"epsilon": e, "sample": x0, "v_prediction": a * e - s * x0, "flow_prediction": e - x0}[kind]
        return (said.view_as(x).float(),)


def net_of(kind: str, says: str) -> Denoiser:
    """The exact net of one kind under the scheduler of another."""
    scheduler = KINDS[says]
    return Denoiser(
        Exact(KINDS[kind]), read_scheduler(scheduler), Frame(Path("exact"), "DDPMPipeline", "unet", scheduler)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_head_explains_the_answers_best(kind: str) -> None:
    net = net_of(kind, kind)
    found = unexplained(net, pipes.digits(8))
    assert min(found, key=lambda k: found[k]) == kind and found[kind] < 0.5
    assert checked(net) is net and checked(net, pipes.digits(8)) is net


@pytest.mark.parametrize(("kind", "other"), [(k, o) for k in KINDS for o in KINDS if k != o])
def test_every_other_scheduler_is_refused_when_rows_are_read(tmp_path: Path, kind: str, other: str) -> None:
    np.savez(tmp_path / "rows.npz", x=pipes.digits(50)["x"].numpy())
    with pytest.raises(BadWeights, match=rf"says {other}, but the net predicts {kind}.*likely cause"):
        read_for(net_of(kind, other), open_data(tmp_path / "rows.npz"))


def test_noise_alone_tells_nets_that_repeat_it_from_those_that_do_not() -> None:
    for other in ("v_prediction", "sample"):
        with pytest.raises(BadWeights, match=r"repeats the noise.*try 'epsilon'"):
            checked(net_of("epsilon", other))
        with pytest.raises(BadWeights, match=r"of all noise the net says the same.*try 'v_prediction'"):
            checked(net_of(other, "epsilon"))


def test_it_is_told_when_a_directory_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = pipes.write_unet(tmp_path / "odd", KINDS["v_prediction"])
    monkeypatch.setattr(diffusers.UNet2DModel, "forward", lambda self, x, n, return_dict: (x,))
    with pytest.raises(BadWeights, match=r"odd: DDPMScheduler says v_prediction, but of pure noise"):
        open_player(home)


def test_untrained_nets_pass() -> None:
    for other in KINDS.values():
        frame = Frame(Path("fresh"), "DDPMPipeline", "unet", other)
        net = Denoiser(pipes.unet(), read_scheduler(other), frame)
        assert checked(net) is net and checked(net, {"x": pipes.digits(8)["x"]}) is net


def test_all_pipelines_of_a_run_are_checked_on_its_rows() -> None:
    rows = Table({"x": pipes.digits(20)["x"]})
    right, wrong = net_of("epsilon", "epsilon"), net_of("sample", "v_prediction")
    checked_together([right, nn.Identity(), net_of("sample", "sample")], rows)
    with pytest.raises(BadWeights, match="predicts sample"):
        checked_together([right, wrong], rows)
    wide = Denoiser(pipes.unet(side=16), right.convention, right.frame)
    with pytest.raises(Mismatch, match=r"read the same rows.*\(1, 16, 16\)"):
        checked_together([right, wide], rows)
    # a few-step student is at home at its own levels only
    wrong.frame = Frame(Path("few"), "DDPMPipeline", "unet", wrong.frame.scheduler, facts={"times": [1.0]})
    checked_together([right, wrong], rows)
