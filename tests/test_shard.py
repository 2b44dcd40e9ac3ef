"""Players whose weights are shared out over processes do what whole ones do."""

from __future__ import annotations

import faulthandler
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from limbeck.adapters.causal_lm import CausalLM
from limbeck.data import Table
from limbeck.errors import BadValue
from limbeck.loop import Loop, Options
from limbeck.part import terms
from limbeck.parts.optimizer import adamw, sgd
from limbeck.parts.rollout import rollout
from limbeck.parts.token import jsd
from limbeck.players import Players
from limbeck.recipe import Learn, Make, Phase, Recipe
from limbeck.roles import copy_of, ema_of, learning
from limbeck.run import Run
from limbeck.shard import blocks, rebuilt, skeleton
from tests.adapters.tiny import MODELS, config
from tests.conftest import Net
from tests.test_loop import mse, noisy, recipe
from tests.test_resume import labelled


def llama(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return MODELS["llama"](config("llama"))


def stacked(seed: int) -> Net:
    """A net with two blocks, so that more than the root is gathered."""
    net = Net(width=6, seed=seed)
    middle = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(2)]
    net.body = nn.Sequential(net.body[0], *middle, net.body[2])
    return net


def game(rows: int) -> Recipe:
    """Two learners that need each other, one that follows, data made on the way, clipping and two optimisers."""
    both = terms(kd=mse(), adversarial=0.1 * mse().on(teacher="critic"))
    phases = (
        Phase("critic", ("critic",), mse().on(student="critic"), batch=noisy(std=0.3)),
        Phase("student", ("student",), both, batch=noisy(), times=2),
    )
    stages = (
        Make("make", labelled(), into="made", chunk=5),
        Learn("fit", phases, steps=4, batch_size=rows, data="made", clip=0.5, fresh=("student",)),
    )
    critic, ema = copy_of("teacher", sgd(lr=0.05)), ema_of("student", decay=0.9)
    return recipe(*stages, student=learning(adamw(lr=1e-2, eps=1e-3)), critic=critic, ema=ema)


def play(dtype: torch.dtype, folder: Path | None = None, rows: int = 9, **options: Any) -> Loop:
    x = torch.randn(23, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)
    nets: dict[str, Any] = {"student": stacked(0).to(dtype), "teacher": stacked(1).to(dtype)}
    main = int(os.environ.get("RANK", "0")) == 0
    with Run(folder, {"key": "game"}, resume=True, main=main) as run:
        loop = Loop(game(rows), nets, {"train": Table({"x": x})}, Options(checkpoint_seconds=0, **options), run)
        loop.execute()
    return loop


def language(**options: Any) -> Loop:
    """A language model that learns from its own answers."""
    tokens = torch.randint(3, 40, (6, 7), generator=torch.Generator().manual_seed(0))
    prompts = {"tokens": tokens, "length": torch.full((6,), 7), "prompt": torch.tensor([3, 4, 5, 3, 4, 5])}
    phase = Phase("student", ("student",), jsd(beta=0.5), batch=rollout(max_new_tokens=5))
    nets = {name: CausalLM(llama(i)) for i, name in enumerate(("student", "teacher"))}
    what = recipe(Learn("fit", (phase,), steps=2, batch_size=6), student=learning(sgd(lr=0.1)))
    loop = Loop(what, nets, {"train": Table(prompts)}, Options(**options))
    loop.execute()
    return loop


def weights(players: Players) -> dict[str, Tensor]:
    named = ((n, p.module.state_dict()) for n, p in players.items() if p.module is not None)
    return {f"{n}/{k}": t.detach().clone().contiguous() for n, state in named for k, t in state.items()}


def worker(rank: int, port: int, folder: str) -> None:
    faulthandler.dump_traceback_later(120, exit=True)  # processes that wait for each other would wait for ever
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    out = Path(folder)

    def keep(name: str, loop: Loop) -> None:
        sharded = [p for q in loop.players.values() for p in q.params]
        assert sharded and all(isinstance(p, DTensor) for p in sharded)
        assert all(p.grad is None for q in loop.players.values() if q.role.optimizer is None for p in q.params)
        players = loop.gather()
        if rank == 0:
            save_file(weights(players), out / f"{name}.safetensors")

    keep("64", play(torch.float64, shard=True))
    keep("32", play(torch.float32, shard=True))
    keep("32-again", play(torch.float32, shard=True))
    keep("micro", play(torch.float64, rows=8, shard=True, micro_batch=3))
    for _ in range(5):  # stopped after every step that it takes
        with pytest.raises(KeyboardInterrupt):
            play(torch.float32, out / "run", shard=True, max_seconds=1e-9)
    keep("resumed", play(torch.float32, out / "run", shard=True))
    keep("language", language(shard=True))
    with pytest.raises(BadValue, match="do not share its batch evenly"):
        play(torch.float64, rows=9, shard=True, micro_batch=2)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes with half of every weight computed."""
    folder = tmp_path_factory.mktemp("pair")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(worker, args=(port, str(folder)), nprocs=2)
    return folder


def near(one: dict[str, Tensor], two: dict[str, Tensor], bound: float) -> None:
    assert one.keys() == two.keys()
    for name in one:
        assert (one[name] - two[name]).norm() <= bound * one[name].norm(), name


@pytest.mark.parametrize(("name", "dtype", "bound"), [("64", torch.float64, 1e-9), ("32", torch.float32, 1e-5)])
def test_half_of_every_weight_in_two_processes_equals_one(
    pair: Path, name: str, dtype: torch.dtype, bound: float
) -> None:
    near(weights(play(dtype).players), load_file(pair / f"{name}.safetensors"), bound)


def test_micro_batches_change_nothing(pair: Path) -> None:
    near(weights(play(torch.float64, rows=8).players), load_file(pair / "micro.safetensors"), 1e-9)


def test_two_runs_give_the_same_bits(pair: Path) -> None:
    first, again = load_file(pair / "32.safetensors"), load_file(pair / "32-again.safetensors")
    assert all(torch.equal(first[k], again[k]) for k in first)


def test_a_sharded_run_resumes_to_the_same_bits(pair: Path) -> None:
    whole, resumed = load_file(pair / "32.safetensors"), load_file(pair / "resumed.safetensors")
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_a_sharded_language_model_learns_from_its_own_answers(pair: Path) -> None:
    near(weights(language().players), load_file(pair / "language.safetensors"), 1e-5)


def test_one_process_cannot_shard() -> None:
    with pytest.raises(BadValue, match="several processes"):
        play(torch.float32, shard=True)


def test_blocks_are_those_of_the_model_or_the_repeated_ones() -> None:
    assert [type(m).__name__ for m in blocks(llama())] == ["LlamaDecoderLayer"] * 4
    assert len(blocks(stacked(0))) == 2
    assert blocks(Net()) == []


def test_a_skeleton_is_rebuilt_with_its_ties_and_buffers() -> None:
    net = nn.Module()
    net.a, net.b, net.norm = nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3)
    net.b.weight = net.a.weight
    net.norm.running_mean.fill_(2.0)
    bones = skeleton(net)
    assert all(p.is_meta for p in bones.parameters())
    made = rebuilt(bones, net.state_dict())
    assert made.b.weight is made.a.weight and torch.equal(made.a.weight, net.a.weight)
    assert torch.equal(made.norm.running_mean, net.norm.running_mean)
