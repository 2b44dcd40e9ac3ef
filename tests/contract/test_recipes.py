"""The contracts of every recipe, present and future: a new recipe adds no line here."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from torch import Tensor

import limbeck
from limbeck.beds import load_bed
from limbeck.cite import bibtex
from limbeck.claim import tried_on
from limbeck.data import Table
from limbeck.describe import describe, specs
from limbeck.errors import BadValue, UnknownName
from limbeck.index import _files, evidence, find, keys, load
from limbeck.loop import Loop, Options
from limbeck.override import flatten, override
from limbeck.part import DTYPES
from limbeck.parts.optimizer import sgd
from limbeck.recipe import Claim, Learn, Recipe, walk
from limbeck.run import Run

KEYS = keys()
STEPS, ROWS = 2, 128
PACKAGE = Path(limbeck.__file__).parent


@cache
def tried(key: str) -> tuple[Claim, Recipe]:
    """The claim that tries a recipe, and the recipe at its size."""
    return tried_on(load(key))[:2]


@cache
def world(bed: str) -> dict[str, Any]:
    """The data of a bed, cut to what two steps need."""
    data = load_bed(bed).data(0)
    return {name: Table(source.take(torch.arange(min(ROWS, len(source))))) for name, source in data.items()}


def loop_of(
    key: str, seed: int = 0, out: Path | None = None, recipe: Recipe | None = None,
    accelerator: Accelerator | None = None, **options: Any,
) -> Loop:  # fmt: skip
    claim, own = tried(key)
    bed, recipe = load_bed(claim.bed), recipe or own
    nets = {n: bed.players[claim.players.get(n, n)](seed) for n, role in recipe.players.items() if role.given}
    run = Run(out, {"key": key}, resume=True)
    more = {"accelerator": accelerator} if accelerator else {}
    return Loop(recipe, nets, dict(world(bed.key)), Options(seed=seed, max_steps=STEPS, **options), run, **more)


def state_of(loop: Loop) -> dict[str, Tensor]:
    named = ((n, p.module.state_dict()) for n, p in loop.players.items() if p.module is not None)
    return {f"{n}/{k}": t.detach().clone() for n, state in named for k, t in state.items()}


@cache
def played(key: str) -> tuple[Recipe, dict[str, Tensor], dict[str, Tensor]]:
    """A recipe, and the state of its players before and after."""
    loop = loop_of(key)
    before = state_of(loop)
    loop.execute()
    return loop.recipe, before, state_of(loop)


def learners(recipe: Recipe) -> set[str]:
    """The players that may change: learners, those that follow or are carried, those that a Solve stage changes."""
    out = {name for name, role in recipe.players.items() if role.every}
    for stage in walk(recipe.stages):
        out |= {name for phase in getattr(stage, "phases", ()) for name in phase.learns}
        out |= set(getattr(stage, "learns", ())) | set(getattr(stage, "carry", ()))
    return out


def stem(key: str) -> str:
    return key.replace("-", "_")


def file_of(key: str) -> Path:
    return PACKAGE / "recipes" / find(key)["family"] / f"{stem(key)}.py"


def test_the_index_needs_no_torch() -> None:
    code = "import sys, limbeck.index as i; i.records(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("key", KEYS)
def test_key_is_file_is_family(key: str) -> None:
    record, recipe = find(key), load(key)
    assert recipe.key == key and file_of(key).exists()
    assert recipe.title and recipe.paper and describe(recipe)["key"] == key
    assert key in bibtex(record)


@pytest.mark.parametrize("key", KEYS)
def test_its_file_holds_the_method_and_nothing_of_the_experiment(key: str) -> None:
    file = file_of(key)
    assert load(str(file)).claim is None, f"the claim belongs in limbeck/claims/{file.name}"
    # beds and probes are imported only for parts that a stage runs
    imported = set(re.findall(r"^from (limbeck\.(?:beds|probes)\S*) import", file.read_text(), re.M))
    assert imported <= {spec.fn.__module__ for spec in specs(load(key))}


def test_every_claim_is_of_a_recipe() -> None:
    claims = {path.stem.replace("_", "-") for path in PACKAGE.glob("claims/[!_]*.py")}
    assert claims == {key for key in KEYS if find(key)["claim"]}


@pytest.mark.parametrize("key", [k for k in KEYS if find(k)["claim"]])
def test_its_fingerprint_covers_what_its_claim_runs(key: str) -> None:
    claim = load(key).claim
    assert claim is not None
    run = {key, *(arm.recipe for arm in claim.arms.values() if arm.recipe)}
    probes = [leaf.spec for probe in claim.probes.values() for leaf in probe.leaves()]
    modules = {spec.fn.__module__ for spec in [*probes, *(spec for k in run for spec in specs(load(k)))]}
    files = {Path(str(sys.modules[module].__file__)) for module in modules}
    files |= {PACKAGE / "beds" / f"{claim.bed}.py", *map(file_of, run)}
    covered = set(_files(key))
    assert files <= covered
    assert {p.stem for p in covered if p.parent.name == "claims" and p.stem[0] != "_"} == {stem(key)}


@pytest.mark.parametrize("key", [k for k in KEYS if find(k)["family"] != "baselines"])
def test_it_makes_a_claim_with_a_control(key: str) -> None:
    claim = load(key).claim
    assert claim is not None and claim.says and claim.seeds >= 3
    assert claim.control or len(claim.no_control) > 10
    assert claim.tune is not None or claim.no_tune or all(said.sign == 0 for said in claim.says)


@pytest.mark.parametrize("key", [k for k in KEYS if evidence(k) is not None])
def test_its_evidence_is_of_this_code(key: str) -> None:
    assert find(key)["status"] in ("holds", "fails"), "the code changed since the claim was run: limbeck verify --write"


@pytest.mark.parametrize("key", KEYS)
def test_unknown_settings_are_refused(key: str) -> None:
    recipe = load(key)
    with pytest.raises(UnknownName):
        override(recipe, {f"{recipe.stages[0].name}.no_such_setting": 1})
    for path, value in flatten(recipe).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            assert flatten(override(recipe, {path: value}))[path] == value


@pytest.mark.parametrize("key", KEYS)
def test_two_steps_change_exactly_the_learners(key: str) -> None:
    recipe, before, after = played(key)
    changed = {name.split("/")[0] for name in after if not torch.equal(before[name], after[name])}
    assert changed <= learners(recipe)
    assert all(torch.isfinite(t).all() for t in after.values() if t.is_floating_point())
    must = {n for s in walk(recipe.stages) if isinstance(s, Learn) for phase in s.phases for n in phase.learns}
    assert must <= changed


@pytest.mark.parametrize("key", KEYS)
def test_the_same_seed_gives_the_same_bits(key: str) -> None:
    again = loop_of(key)
    again.execute()
    assert all(torch.equal(t, played(key)[2][name]) for name, t in state_of(again).items())


def doubled(columns: dict[str, Any]) -> Table:
    return Table({k: c.double() if isinstance(c, Tensor) and c.is_floating_point() else c for k, c in columns.items()})


@pytest.mark.parametrize("dtype", DTYPES[::2])
@pytest.mark.parametrize("key", KEYS)
def test_it_learns_in_every_dtype_that_its_parts_declare(key: str, dtype: str) -> None:
    AcceleratorState._reset_state()
    loop = loop_of(key, accelerator=Accelerator(cpu=True, mixed_precision="bf16" if dtype == "bfloat16" else "no"))
    phases = [phase for stage in walk(loop.recipe.stages) for phase in getattr(stage, "phases", ())]
    if dtype == "float64":
        for player in loop.players.values():
            if player.module is not None:
                player.module.double()
        loop.data = {n: doubled(dict(s.take(torch.arange(len(s))))) for n, s in loop.data.items()}
    able = all(dtype in leaf.spec.dtypes for phase in phases for leaf in phase.loss.leaves())
    with nullcontext() if able else pytest.raises(BadValue, match=f"not in {dtype}"):
        loop.execute()
        assert all(torch.isfinite(t).all() for t in state_of(loop).values() if t.is_floating_point())
    AcceleratorState._reset_state()


class Stop(Exception):
    """Ends a run in the middle."""


@pytest.mark.parametrize("key", KEYS)
def test_a_run_cut_in_the_middle_resumes_to_the_same_bits(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, seen = Loop._checkpoint, []

    def cut(self: Loop, *args: Any) -> None:
        save(self, *args)
        seen.append(args)
        if len(seen) == 1:
            raise Stop

    monkeypatch.setattr(Loop, "_checkpoint", cut)
    first = loop_of(key, out=tmp_path, checkpoint_seconds=0)
    with first.run, pytest.raises(Stop):
        first.execute()
    second = loop_of(key, out=tmp_path, checkpoint_seconds=0)
    with second.run:
        second.execute()
    assert all(torch.equal(t, played(key)[2][name]) for name, t in state_of(second).items())


def with_sgd(recipe: Recipe) -> Recipe:
    """The recipe with plain gradient descent, under which rounding does not grow."""
    roles = {n: replace(r, optimizer=sgd(lr=1e-2)) if r.optimizer else r for n, r in recipe.players.items()}
    return replace(recipe, players=roles)


def splittable(key: str) -> bool:
    recipe = tried(key)[1]
    losses = [phase.loss for stage in walk(recipe.stages) for phase in getattr(stage, "phases", ())]
    return not any(leaf.spec.coupled for loss in losses for leaf in loss.leaves())


def worker(rank: int, port: int, folder: str, keys: list[str]) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    for key in filter(splittable, keys):
        loop = loop_of(key, recipe=with_sgd(tried(key)[1]))
        loop.execute()
        if rank == 0:
            save_file({k: t.contiguous() for k, t in state_of(loop).items()}, f"{folder}/{key}.safetensors")


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes make of every recipe that is tested; they are started once for all."""
    mine = [item for item in request.session.items if item.path == Path(__file__)]
    keys = [i.callspec.params["key"] for i in mine if i.originalname == "test_two_processes_equal_one"]
    folder = tmp_path_factory.mktemp("pair")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(worker, args=(port, str(folder), keys), nprocs=2)
    return folder


@pytest.mark.parametrize("key", KEYS)
def test_two_processes_equal_one(key: str, pair: Path) -> None:
    if not splittable(key):
        pytest.skip("a part couples the rows of a batch and is refused in several processes")
    loop = loop_of(key, recipe=with_sgd(tried(key)[1]))
    loop.execute()
    two = load_file(pair / f"{key}.safetensors")
    for name, one in state_of(loop).items():
        if one.is_floating_point():
            assert (one - two[name]).norm() <= 1e-5 * one.norm() + 1e-7, name
