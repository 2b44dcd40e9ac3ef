"""Sample routing against what can be written down: groups by hand, entropies by scipy, a loss without failures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from limbeck.adapters.causal_lm import CausalLM
from limbeck.batch import Batch
from limbeck.beds._text import BOS, EOS, Alphabet, columns, tiny_llama
from limbeck.errors import BadValue
from limbeck.index import load
from limbeck.kernels.head import TokenHead
from limbeck.parts.policy import clipped_surrogate, recorded
from limbeck.parts.routing import all_told, apart, certain, failures, importance, per_token, siblings, weighed
from limbeck.parts.transcript import repeated
from limbeck.players import Players, build
from limbeck.recipe import Learn

ABC = Alphabet("abcdefgh:<>/tink")


def batch_of(said: list[str], reward: list[float], copies: int) -> Batch:
    """Rows of one prompt and `copies` answers a row of the data."""
    table = columns([[BOS, *ABC.encode("ab")]] * len(said), [[*ABC.encode(text), EOS] for text in said])
    rows = len(said) // copies
    batch = repeated(copies=copies)(None, Batch({"x": torch.arange(rows)}))
    return batch.with_(**table, index=torch.arange(rows).repeat_interleave(copies), reward=torch.tensor(reward))


def game(batch: Batch) -> Players:
    net = CausalLM(tiny_llama(ABC.size, 0, width=16, layers=1), ABC.tokenizer())
    return build(load("srpo").players, {"student": net}, batch)


PLAYERS = game(batch_of(["a"], [0.0], 1))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=2, max_size=12).filter(lambda r: len(r) % 2 == 0), st.data())
def test_a_sibling_is_right_of_the_group_and_somebody_else(right: list[bool], data: st.DataObject) -> None:
    n = len(right)
    copies = data.draw(st.sampled_from([c for c in (1, 2, 3, 4) if n % c == 0]))
    said = [a + b for a in "abcdefgh" for b in "abcdefgh"][:n]
    batch = batch_of(said, [float(r) for r in right], copies)
    shown = siblings(copies=copies)(PLAYERS, batch)["sibling"]
    for i, text in enumerate(shown):
        fit = [j for j in range(n) if j // copies == i // copies and j != i and right[j]]
        assert text == (said[fit[0]] if fit else "")


def test_groups_may_be_named_and_thoughts_are_not_shown() -> None:
    batch = batch_of(["<think>ab</think>cd", "e", "f"], [1.0, 0.0, 0.0], 1)
    players = game(batch)
    assert siblings(copies=1)(players, batch.with_(group=torch.tensor([7, 7, 3])))["sibling"] == ["", "cd", ""]
    with pytest.raises(BadValue, match="copies >= 1"):
        siblings(copies=0)(players, batch)


def test_who_is_routed() -> None:
    batch = batch_of(["a"] * 4, [0.0, 0.0, 1.0, 1.0], 1).with_(sibling=["c", "", "c", ""])
    assert failures()(None, batch).routed.tolist() == [True, False, False, False]
    assert all_told()(None, batch).routed.tolist() == [True, False, True, False]


def sure(batch: Batch, players: Players, sharpness: float) -> tuple[Batch, torch.Tensor]:
    made = certain(sharpness=sharpness)(players, batch)
    return made, made["certainty"][batch.mask & batch.routed[:, None]]


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 3.0])
def test_certainty_is_that_of_the_teacher_with_mean_one(sharpness: float) -> None:
    batch = batch_of(["abc", "d", "efgh"], [0.0, 0.0, 1.0], 1).with_(
        sibling=["gh", "", "a"], routed=torch.tensor([True, True, False])
    )
    players = game(batch)
    made, got_N = sure(batch, players, sharpness)
    assert made["certainty"][2].abs().sum() == 0 and not made["certainty"][~batch.mask].any()
    p_NV = players.teacher(batch.with_(), "head").predicting(batch.mask & batch.routed[:, None]).logits().softmax(-1)
    raw = torch.tensor(entropy(p_NV.double().numpy(), axis=-1) * -sharpness).exp()
    torch.testing.assert_close(got_N.double(), raw / raw.mean(), atol=1e-6, rtol=1e-5)
    assert float(got_N.mean()) == pytest.approx(1.0, abs=1e-6)
    if sharpness == 0:
        assert torch.equal(got_N, torch.ones_like(got_N))
    # the teacher's answer goes on to the loss, the student's would have no gradient
    assert list(made.memo) == ["teacher"]


def test_without_failures_the_loss_is_that_of_group_relative_rewards() -> None:
    (stage,) = load("srpo").stages
    assert isinstance(stage, Learn)
    batch = batch_of(["abc", "d", "ef", "gh"], [1.0, 1.0, 1.0, 0.0], 2)
    batch = batch.with_(advantage=torch.tensor([0.5, -0.25, 1.0, -1.0]), sibling=[""] * 4)
    players = game(batch)
    players.turn("t", ("student",))
    with torch.no_grad():
        routed = certain()(players, recorded()(players, failures()(players, batch)))
    grads = []
    for loss in (stage.phases[0].loss, clipped_surrogate(high=0.28)):
        total = torch.stack(list(loss.total(players, replace(routed, memo={})).values())).sum()
        grads.append([total, *torch.autograd.grad(total, players.student.params)])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)
    assert grads[0][1].abs().sum().item() > 0


def test_a_failed_answer_learns_from_the_teacher_and_not_from_its_reward() -> None:
    (stage,) = load("srpo").stages
    batch = batch_of(["abc", "d"], [0.0, 1.0], 2).with_(advantage=torch.tensor([-0.5, 0.5]), sibling=["d", ""])
    players = game(batch)
    players.turn("t", ("student",))
    with torch.no_grad():
        routed = certain()(players, recorded()(players, failures()(players, batch)))
    terms = stage.phases[0].loss.total(players, routed)  # type: ignore[union-attr]
    assert terms["sdpo"].item() > 0
    # of the surrogate only the second row is left: two tokens of advantage 0.5 at ratio 1, of six tokens in all
    assert terms["grpo"].item() == pytest.approx(-0.5 * 2 / 6, abs=1e-5)


def test_importance_is_the_capped_ratio_and_keeps_the_gradient_for_the_loss() -> None:
    batch = batch_of(["abc", "de"], [0.0, 1.0], 2)
    players = game(batch)
    players.turn("t", ("student",))
    logp_BT = players.student(batch.with_(), "head").logits().log_softmax(-1)[:, :-1]
    said_BT = logp_BT.gather(-1, batch.tokens[:, 1:, None])[..., 0].detach()
    ratio_BT = torch.full_like(said_BT, 1.5)
    ratio_BT[0] = 4.0
    old = torch.zeros(batch.mask.shape)
    old[:, 1:] = said_BT - ratio_BT.log()
    batch = batch.with_(logp_old=old)
    weight = importance(cap=2.0)(players, batch)
    assert not weight.requires_grad and not weight[~batch.mask].any()
    torch.testing.assert_close(weight[batch.mask], torch.tensor([2.0] * 4 + [1.5] * 3))
    assert players.student(batch, "head").hidden.requires_grad


def test_weights_of_columns() -> None:
    batch = Batch({"routed": torch.tensor([True, False]), "w": torch.tensor([[0.25], [1.0]])})
    assert weighed()(None, batch).tolist() == [1.0, 0.0] and apart()(None, batch).tolist() == [0.0, 1.0]
    assert apart(column="w")(None, batch).tolist() == [[0.75], [0.0]]


def test_chunks_are_measured_as_the_whole() -> None:
    hidden, weight = torch.randn(1100, 4), torch.randn(7, 4)
    given_N = torch.randn(1100)
    got = per_token(TokenHead(hidden, weight), lambda z, g: z.logsumexp(-1) * g, given_N)
    torch.testing.assert_close(got, (hidden @ weight.T).logsumexp(-1) * given_N)
