"""The loop keeps its promises, on recipes small enough to compute by hand."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck.batch import Batch, Moment
from limbeck.data import Table
from limbeck.errors import BrokenRecipe, NotFinite
from limbeck.loop import Loop, Options
from limbeck.part import part, terms
from limbeck.players import Players
from limbeck.recipe import Learn, Make, Measure, Phase, Recipe, Repeat, Solve
from limbeck.roles import Role, built, cached, copy_of, ema_of, ensemble, frozen, learning, self_under
from limbeck.run import Run
from tests.conftest import Net


@part
def sgd(params: list[Tensor], *, lr: float = 0.1, momentum: float = 0.0) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=lr, momentum=momentum)


@part
def ramp(at: Moment, *, top: float = 1.0) -> float:
    return top * at.progress


@part
def mse(players: Players, batch: Batch, *, scale: float = 1.0) -> Tensor:
    return scale * (players.student(batch, "logits") - players.teacher(batch, "logits")).square().mean(1)


@part
def noisy(players: Players, batch: Batch, *, std: float = 0.1) -> Batch:
    return batch.with_(x=batch.x + std * batch.rng.normal("noise", *batch.x.shape[1:]))


@part
def spoil(players: Players, batch: Batch, *, by: float = 1.0) -> Tensor:
    with torch.no_grad():
        players.teacher.module.body[0].bias.add_(by)
    return mse.fn(players, batch)


@part
def explode(players: Players, batch: Batch, *, after: int = 2) -> Tensor:
    return mse.fn(players, batch) * (float("nan") if batch.at.step >= after else 1.0)


def recipe(*stages: Any, **players: Role) -> Recipe:
    roles = {"student": learning(sgd()), "teacher": frozen()} | players
    facts = dict(title="t", paper="p", family="f", kind="method", learns="student", teacher="white-box")
    return Recipe(key="toy", players=roles, stages=stages, **facts)


def fit(loss: Any = None, **kwargs: Any) -> Learn:
    phase = Phase(
        "student", ("student",), loss if loss is not None else terms(kd=mse()), batch=kwargs.pop("batch", None)
    )
    return Learn("fit", (phase,), **{"steps": 8, "batch_size": 8, **kwargs})


def table(rows: int = 20) -> Table:
    return Table({"x": torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))})


def run(what: Recipe, *, double: bool = False, **kwargs: Any) -> Loop:
    nets = {name: Net(seed=i) for i, name in enumerate(("student", "teacher"))}
    data = {"train": table()}
    if double:
        nets = {k: n.double() for k, n in nets.items()}
        data = {"train": Table({"x": table().columns["x"].double()})}
    with Run(kwargs.pop("out", None), {"key": "toy"}, resume=kwargs.pop("resume", False)) as directory:
        loop = Loop(what, nets, data, run=directory, **kwargs)
        loop.execute()
    return loop


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(loop: Loop, name: str = "student") -> Tensor:
    return torch.cat([p.detach().flatten() for p in loop.players[name].params])


def test_one_step_is_the_step_by_hand() -> None:
    loop = run(recipe(fit(steps=1, batch_size=20)))
    student, teacher, x = Net(seed=0), Net(seed=1), table().columns["x"]
    (student.body(x) - teacher.body(x)).square().mean().backward()
    by_hand = torch.cat([(p - 0.1 * p.grad).detach().flatten() for p in student.parameters()])
    torch.testing.assert_close(weights(loop), by_hand, rtol=1e-5, atol=1e-7)


def test_only_the_learner_changes_and_nobody_else_holds_a_gradient() -> None:
    loop = run(recipe(fit()))
    assert torch.equal(weights(loop, "teacher"), torch.cat([p.detach().flatten() for p in Net(seed=1).parameters()]))
    assert all(p.grad is None and not p.requires_grad for p in loop.players.teacher.params)


def test_a_part_that_changes_a_frozen_player_is_found_out() -> None:
    with pytest.raises(BrokenRecipe, match="'teacher' was changed by a phase"):
        run(recipe(fit(spoil())))


def test_a_loss_that_does_not_reach_the_learner_is_refused() -> None:
    with pytest.raises(BrokenRecipe, match="does not depend on student"):
        run(recipe(fit(mse().on(student="teacher"))))


def test_nan_stops_the_run_and_says_where() -> None:
    with pytest.raises(NotFinite, match=r"student/loss is nan at step 2"):
        run(recipe(fit(explode())))


@pytest.mark.parametrize("micro", [1, 3, 7])
def test_the_split_into_micro_batches_does_not_matter(micro: int) -> None:
    whole = run(recipe(fit(batch=noisy())), double=True)
    pieces = run(recipe(fit(batch=noisy())), double=True, options=Options(micro_batch=micro))
    torch.testing.assert_close(weights(whole), weights(pieces), rtol=1e-12, atol=1e-14)


def test_parts_share_one_forward_a_player_and_step() -> None:
    loop = run(recipe(fit(terms(a=mse(), b=mse(scale=2.0)), steps=3)))
    assert loop.players.student.module.calls == 3


@part
def late(players: Players, batch: Batch, *, scale: float = 1.0) -> Tensor:
    return scale * players.student(batch, "features").square().mean(1)


def test_what_a_step_asked_for_in_two_calls_the_next_asks_for_at_once() -> None:
    class Lazy(Net):
        def forward(self, batch: Any, want: frozenset[str]) -> dict[str, Any]:
            return {k: v for k, v in super().forward(batch, want).items() if k in want}

    loop = Loop(
        recipe(fit(terms(a=mse(), b=late()), steps=4)), {"student": Lazy(), "teacher": Net()}, {"train": table()}
    )
    loop.execute()
    assert loop.players.student.module.calls == 5  # one more in the first step only


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    one, two = (weights(run(recipe(fit(batch=noisy())), options=Options(seed=s))) for s in (3, 3))
    other = weights(run(recipe(fit(batch=noisy())), options=Options(seed=4)))
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_ema_and_target_networks_follow() -> None:
    loop = run(recipe(fit(steps=4), ema=ema_of("student", decay=0.5), target=ema_of("student", decay=0.0, every=3)))
    path = [weights(run(recipe(fit(steps=4)), options=Options(max_steps=n))) for n in range(1, 5)]
    mean = torch.cat([p.detach().flatten() for p in Net(seed=0).parameters()])
    for w in path:
        mean = 0.5 * mean + 0.5 * w
    torch.testing.assert_close(weights(loop, "ema"), mean)
    assert torch.equal(weights(loop, "target"), path[2])


@part
def answers(players: Players, batch: Batch, *, k: float = 1.0) -> Batch:
    return Batch({"x": batch.x, "teacher.logits": players.teacher(batch, "logits")})


@part
def from_cache(players: Players, batch: Batch, *, k: float = 1.0) -> Tensor:
    return (players.student(batch, "logits") - players.stored(batch, "logits")).square().mean(1)


def test_a_cached_teacher_teaches_what_the_live_one_does() -> None:
    live = run(recipe(fit()))
    make = Make("cache", answers(), into="answers", chunk=7)

    @part
    def rename(players: Players, batch: Batch, *, k: float = 1.0) -> Batch:
        return batch.with_(**{"stored.logits": batch["teacher.logits"]})

    stored = run(recipe(make, fit(from_cache(), data="answers", batch=rename()), stored=cached()))
    torch.testing.assert_close(weights(live), weights(stored))


@part
def shifted(players: Players, batch: Batch, *, by: float = 1.0) -> Batch:
    return batch.with_(x=batch.x + by)


def test_self_under_context_is_the_student_elsewhere_without_gradient() -> None:
    seen: list[Tensor] = []

    @part
    def look(players: Players, batch: Batch, *, k: float = 1.0) -> Tensor:
        own, told = players.student(batch, "logits"), players.told(batch, "logits")
        assert not told.requires_grad
        expected = players.student.module.body(batch.x + 1.0)
        seen.append((told - expected).abs().max().detach())
        return (own - told).square().mean(1)

    run(recipe(fit(look(), steps=2), told=self_under("student", shifted())))
    assert max(seen) < 1e-6 and len(seen) == 2


def test_ensemble_is_the_mean() -> None:
    loop = run(
        recipe(fit(mse().on(teacher="both"), steps=1), twin=copy_of("teacher"), both=ensemble("teacher", "twin"))
    )
    assert torch.allclose(weights(loop), weights(run(recipe(fit(steps=1)))))


@part
def head(players: Players, batch: Batch, *, width: int = 2) -> nn.Module:
    return nn.Linear(players.student(batch, "features").shape[1], width)


def test_a_built_player_may_ask_for_shapes() -> None:
    loop = run(recipe(fit(steps=1), head=built(head(width=5))))
    assert loop.players.head.module.weight.shape == (5, 8)


@part
def count(players: Players, batch: Batch, state: dict[str, Tensor], *, by: float = 1.0) -> Any:
    total = state.get("total", torch.zeros(())) + by * batch.size
    return {"total": total}, {"total": total}


def test_solve_passes_its_state_along_and_sees_all_rows(tmp_path: Path) -> None:
    run(recipe(Solve("count", count(), steps=3)), out=tmp_path / "r")
    rows = metrics(tmp_path / "r")
    assert [row["total"] for row in rows] == [20, 40, 60]


@part
def distance(players: Players, data: Any, *, k: float = 1.0) -> float:
    return (weights_of(players.student) - weights_of(players.teacher)).abs().max().item()


def weights_of(player: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in player.params])


def test_repeat_carries_weights_and_starts_afresh() -> None:
    rounds = Repeat(
        "rounds",
        (fit(fresh=("student",)), Measure("gap", {"distance": distance()})),
        times=2,
        carry={"teacher": "student"},
    )
    loop = run(recipe(rounds))
    assert torch.equal(weights(loop), weights(loop, "teacher"))
    assert set(loop.results) == {"rounds.1.gap/distance", "rounds.2.gap/distance"}
    # in the second round the teacher is the first round's student, so the figures differ
    assert loop.results["rounds.1.gap/distance"] != loop.results["rounds.2.gap/distance"]


@part
def close(players: Players, data: Any, *, below: float = 10.0) -> float:
    return float(distance.fn(players, data) < below)


def test_repeat_until_ends_the_rounds() -> None:
    loop = run(recipe(Repeat("rounds", (fit(),), times=5, until=close())))
    assert loop.done == ["rounds.1.fit", "rounds.1"]


def test_schedules_move_losses_and_learning_rates() -> None:
    # a learning rate that is zero at the only step of a stage changes nothing
    still = run(recipe(fit(steps=1), student=learning(sgd(lr=ramp()))))
    assert torch.equal(weights(still), torch.cat([p.detach().flatten() for p in Net(seed=0).parameters()]))
    # a weight that is zero at that step changes nothing either
    still = run(recipe(fit(ramp() * mse(), steps=1)))
    assert torch.equal(weights(still), torch.cat([p.detach().flatten() for p in Net(seed=0).parameters()]))


def test_clipping_bounds_the_step() -> None:
    loop = run(recipe(fit(steps=1, clip=1e-3)))
    start = torch.cat([p.detach().flatten() for p in Net(seed=0).parameters()])
    assert (weights(loop) - start).norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-3)


@part
def growing(players: Players, data: Any, *, k: float = 1.0) -> float:
    return float(players.student.params[0].abs().sum()) * 0 + 1.0


def test_early_stop_ends_a_stage_that_does_not_improve(tmp_path: Path) -> None:
    options = Options(eval_every=1, patience=2, probes={"same": growing()})
    run(recipe(fit(steps=50)), options=options, out=tmp_path / "r")
    assert len(metrics(tmp_path / "r")) == 3


def test_out_of_memory_halves_the_micro_batch_at_the_same_result(capsys: pytest.CaptureFixture[str]) -> None:
    @part
    def hungry(players: Players, batch: Batch, *, limit: int = 3) -> Tensor:
        if batch.size > limit:
            raise torch.OutOfMemoryError("no room")
        return mse.fn(players, batch)

    loop = run(recipe(fit(hungry())), double=True)
    assert loop.updates.micro == 2 and "halved to 2" in capsys.readouterr().err
    torch.testing.assert_close(weights(loop), weights(run(recipe(fit()), double=True)), rtol=1e-12, atol=1e-14)


def test_two_phases_with_the_same_states_share_them() -> None:
    made: list[int] = []

    @part
    def states(players: Players, batch: Batch, *, k: float = 1.0) -> Batch:
        made.append(batch.at.step)
        return batch

    phase = Phase("one", ("student",), mse(), batch=states())
    run(recipe(Learn("fit", (phase, replace(phase, name="two")), steps=3, batch_size=4)))
    assert made == [0, 1, 2]


def test_phases_keep_their_cadence(tmp_path: Path) -> None:
    twin = Phase("twin", ("twin",), mse().on(student="twin"), times=3)
    slow = Phase("student", ("student",), mse(), every=2)
    what = recipe(Learn("fit", (twin, slow), steps=4, batch_size=4), twin=copy_of("teacher", sgd()))
    what = replace(what, players=what.players | {"twin": copy_of("student", sgd())})
    run(what, out=tmp_path / "r")
    rows = metrics(tmp_path / "r")
    assert ["student/loss" in row for row in rows] == [True, False, True, False]
    assert all("twin/loss" in row for row in rows)


def test_sources_are_not_shared_between_copies() -> None:
    net = Net(seed=0)
    before = copy.deepcopy(net.state_dict())
    Loop(recipe(fit(), student=copy_of("teacher", sgd())), {"teacher": net}, {"train": table()}).execute()
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


EVALUATED: list[int] = []


@part
def worse_later(players: Players, data: Any) -> float:
    """Falls for three evaluations, then rises."""
    EVALUATED.append(1)
    return float(abs(3 - len(EVALUATED)))


def test_an_early_stop_brings_the_best_weights_back() -> None:
    EVALUATED.clear()
    stopped = run(recipe(fit(steps=20)), options=Options(eval_every=1, patience=2, probes={"p": worse_later()}))
    assert len(EVALUATED) == 5  # three that got better, two that did not
    straight = run(recipe(fit(steps=20)), options=Options(max_steps=3))
    assert torch.equal(weights(stopped), weights(straight))
