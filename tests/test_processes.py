"""Two processes compute what one does."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Table
from limbeck.loop import Loop, Options
from limbeck.part import part, terms
from limbeck.players import Players
from tests.conftest import Net
from tests.test_loop import fit, mse, noisy, recipe


@part
def sparse(players: Players, batch: Batch, *, k: float = 1.0) -> Tensor:
    """A token loss that needs one layer only, and that on few rows: some processes get no gradient for the others."""
    logits_BV = (
        players.student(batch, "logits") if bool((batch.x[:, 0] > 2.0).any()) else players.student(batch, "features")
    )
    return logits_BV.square().mean(1)[:, None].expand_as(batch.mask)


def steps(seed: int, dtype: torch.dtype, micro: int) -> dict[str, Tensor]:
    x = torch.randn(41, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)
    mask = torch.rand(41, 4, generator=torch.Generator().manual_seed(1)) > 0.4
    mask[:, 0], mask[:, 1] = False, True
    what = recipe(replace(fit(terms(kd=mse(), few=sparse()), batch=noisy(), steps=5, batch_size=13)))
    nets: dict[str, Any] = {"student": Net(seed=0).to(dtype), "teacher": Net(seed=1).to(dtype)}
    loop = Loop(what, nets, {"train": Table({"x": x, "mask": mask})}, Options(seed=seed, micro_batch=micro))
    loop.execute()
    return {k: v.detach().clone() for k, v in loop.players.student.module.state_dict().items()}


def worker(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    for name, dtype in (("64", torch.float64), ("32", torch.float32)):
        for again in ("a", "b"):
            weights = steps(7, dtype, micro=3)
            save_file(weights, f"{folder}/{name}-{again}-{rank}.safetensors")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes computed, in both precisions and twice."""
    folder = tmp_path_factory.mktemp("pair")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(worker, args=(port, str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize(("name", "dtype", "bound"), [("64", torch.float64, 1e-9), ("32", torch.float32, 1e-5)])
def test_two_processes_equal_one(pair: Path, name: str, dtype: torch.dtype, bound: float) -> None:
    one, two = steps(7, dtype, micro=0), load_file(pair / f"{name}-a-0.safetensors")
    for key in one:
        assert (one[key] - two[key]).norm() <= bound * one[key].norm()


def test_both_processes_hold_the_same_bits_and_do_so_again(pair: Path) -> None:
    first = load_file(pair / "32-a-0.safetensors")
    for other in ("32-a-1", "32-b-0"):
        assert all(torch.equal(first[k], v) for k, v in load_file(pair / f"{other}.safetensors").items())
