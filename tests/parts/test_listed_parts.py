"""Token losses with a teacher of lists, over the likeliest tokens, and from sampled tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.batch import Batch, Moment
from limbeck.errors import BadData, BadValue, Mismatch, UnknownName
from limbeck.kernels.head import TokenHead
from limbeck.part import Part, terms
from limbeck.parts import divergence, sampled, token
from limbeck.parts.schedule import linear
from limbeck.parts.top_k import own_top_k, top_k
from limbeck.players import Player, Players
from limbeck.roles import cached, frozen
from tests.parts.test_token_parts import B, T, by_hand, head, speaker

V, K = 7, 3
MASK = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]]).bool()
LOSSES = [
    (token.forward_kl(), divergence.forward_kl, {}),
    (token.reverse_kl(), divergence.reverse_kl, {}),
    (token.jsd(beta=0.3), divergence.jsd, {"beta": 0.3}),
    (token.total_variation(), divergence.total_variation, {}),
    (token.pearson(), divergence.pearson, {}),
]


def lists(teacher: TokenHead, k: int = K) -> tuple[Tensor, Tensor]:
    """Columns (B, T, k): at t, what the teacher expects of token t after those before it."""
    logp = teacher.logits().detach().log_softmax(-1).roll(1, dims=1)
    top = logp.topk(k)
    return top.indices.int(), top.values


def batch(ids: Tensor | None = None, logp: Tensor | None = None, at: Moment = Moment()) -> Batch:
    columns: dict[str, Any] = {"tokens": torch.arange(B * T).reshape(B, T) % 5, "mask": MASK}
    if ids is not None and logp is not None:
        columns |= {"teacher.ids": ids, "teacher.logp": logp}
    return Batch(columns, at=at)


def stored(student: TokenHead) -> Players:
    answer = Player("teacher", cached(), answer=lambda b, want: {w: b[f"teacher.{w}"] for w in want})
    return Players({"student": speaker("s", student), "teacher": answer})


def live(student: TokenHead, teacher: TokenHead) -> Players:
    return Players({"student": speaker("s", student), "teacher": speaker("t", teacher)})


@pytest.fixture
def weight() -> Tensor:
    return torch.rand(B, T, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def over_buckets(plain: Any, how: dict[str, float], k: int, *, own: bool = False) -> Any:
    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        logp = teacher.log_softmax(-1)
        ids = (student if own else logp).topk(k).indices
        return plain(*divergence.bucketed(student, ids, logp.gather(-1, ids)), **how)

    return loss


@pytest.mark.parametrize(("loss", "plain", "how"), LOSSES)
def test_a_cache_serves_a_loss_as_its_teacher_cut_to_the_list(
    weight: Tensor, loss: Part, plain: Any, how: dict[str, float]
) -> None:
    student, teacher = head(0, V, bias=True), head(1, V)
    got = loss.spec.fn(stored(student), batch(*lists(teacher)), weight, **dict(loss.hyper))
    want = by_hand(student.logits(), teacher.logits().detach(), batch(), weight, over_buckets(plain, how, K))
    torch.testing.assert_close(got, want)
    ours, truth = (torch.autograd.grad(value, student.weight)[0] for value in (got, want))
    torch.testing.assert_close(ours, truth)
    same = top_k(loss=loss, k=K).spec.fn(live(student, teacher), batch(), weight, loss=loss, k=K)
    torch.testing.assert_close(same, got)


@pytest.mark.parametrize("own", [False, True])
def test_the_likeliest_tokens_of_either_side_at_any_temperature(weight: Tensor, own: bool) -> None:
    student, teacher = head(2, V), head(3, V + 2)
    part = own_top_k if own else top_k
    got = part.fn(live(student, teacher), batch(), weight, loss=token.reverse_kl(temperature=1.5), k=2)
    soft = [z / 1.5 for z in (student.logits(), teacher.logits()[..., :V].detach())]
    want = by_hand(*soft, batch(), weight, over_buckets(divergence.reverse_kl, {}, 2, own=own))
    torch.testing.assert_close(got, want)
    whole = part.fn(live(student, teacher), batch(), weight, loss=token.reverse_kl(), k=100)
    torch.testing.assert_close(whole, token.reverse_kl.fn(live(student, teacher), batch(), weight))


def test_a_loss_inside_keeps_its_schedules_and_is_logged_by_name(weight: Tensor) -> None:
    student, teacher = head(4, V), head(5, V)
    scheduled = terms(kd=top_k(loss=token.jsd(beta=linear(start=0.0, end=1.0)), k=2))
    late = scheduled.total(live(student, teacher), batch(at=Moment(9, 10)), weight)
    fixed = terms(kd=top_k(loss=token.reverse_kl(), k=2)).total(live(student, teacher), batch(), weight)
    assert late.keys() == {"kd"}
    torch.testing.assert_close(late["kd"], fixed["kd"])


def test_a_teacher_whose_net_lists_needs_no_role(weight: Tensor) -> None:
    class Server(nn.Module):
        lists = True

        def forward(self, rows: Batch, want: frozenset[str]) -> dict[str, Tensor]:
            return dict(zip(("ids", "logp"), lists(head(1, V)), strict=True))

    student = head(0, V)
    game = Players({"student": speaker("s", student), "teacher": Player("t", frozen(), Server())})
    want = token.jsd.fn(stored(student), batch(*lists(head(1, V))), weight)
    torch.testing.assert_close(token.jsd.fn(game, batch(), weight), want)


def test_padding_of_lists_and_lists_of_unequal_length(weight: Tensor) -> None:
    student, (ids, logp) = head(0, V), lists(head(1, V))
    wide = F.pad(ids, (0, 2), value=-1), F.pad(logp, (0, 2), value=-torch.inf)
    want = token.jsd.fn(stored(student), batch(ids, logp), weight)
    torch.testing.assert_close(token.jsd.fn(stored(student), batch(*wide), weight), want)


def test_sampled_lists_teach_by_cross_entropy(weight: Tensor) -> None:
    student = head(0, V)
    ids = torch.randint(0, V, (B, T, 4), generator=torch.Generator().manual_seed(1))
    logp = torch.full(ids.shape, 0.25, dtype=torch.float64).log()
    got = token.listed_cross_entropy.fn(stored(student), batch(ids, logp), weight)
    log_q = student.logits().log_softmax(-1).roll(1, dims=1)
    want = -(weight * MASK * log_q.gather(-1, ids).mean(-1)).sum()
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(*(torch.autograd.grad(x, student.weight)[0] for x in (got, want)))


def test_lists_that_cannot_be_compared_are_refused(weight: Tensor) -> None:
    student, (ids, logp) = head(0, V), lists(head(1, V))
    for columns, error, says in (
        ((ids + V, logp), Mismatch, r"teacher lists token \d+, the student has tokens 0 to 6"),
        ((ids[:, 1:], logp[:, 1:]), Mismatch, r"ids of shape \(3, 5, 3\) .* do not fit tokens of shape \(3, 6\)"),
        ((ids, logp[..., :2]), Mismatch, "do not fit"),
        ((ids, logp + 3), BadData, "with a mass of .*, more than 1: logp must hold log-probabilities, not logits"),
        ((ids, logp * torch.nan), BadData, "not a number"),
        (
            (ids[..., :1].expand(-1, -1, 2), logp[..., 1:]),
            BadData,
            r"token \d twice at one place; .*listed_cross",
        ),
    ):
        with pytest.raises(error, match=says):
            token.jsd.fn(stored(student), batch(*columns), weight)
    with pytest.raises(UnknownName, match=r"teacher\.(ids|logp)"):
        token.jsd.fn(stored(student), batch(), weight)
    with pytest.raises(BadValue, match="of temperature 1, so the loss has no other"):
        token.jsd.fn(stored(student), batch(ids, logp), weight, temperature=2.0)
    with pytest.raises(BadValue, match="needs a divergence between distributions, not of logits"):
        token.logit_mse.fn(stored(student), batch(ids, logp), weight)
    with pytest.raises(BadValue, match="needs a divergence between distributions, not of logits"):
        top_k.fn(live(student, head(1, V)), batch(), weight, loss=token.logit_cosine(), k=2)
    with pytest.raises(BadValue, match=r"needs a token loss such as forward_kl\(\), got jeffreys"):
        top_k.fn(live(student, head(1, V)), batch(), weight, loss=token.jeffreys(), k=2)


def test_a_mass_above_one_by_rounding_is_scaled(weight: Tensor) -> None:
    student, (ids, logp) = head(0, V), lists(head(1, V), V)
    over = token.forward_kl.fn(stored(student), batch(ids, logp + 0.005), weight)
    torch.testing.assert_close(over, token.forward_kl.fn(stored(student), batch(ids, logp), weight), atol=1e-6, rtol=0)


SAMPLED = [sampled.sampled_k1, sampled.sampled_k2, sampled.sampled_k3, sampled.sampled_k3_literal]


@pytest.mark.parametrize("estimator", SAMPLED)
def test_sampled_losses_take_the_teachers_word_for_the_tokens_that_were_said(weight: Tensor, estimator: Any) -> None:
    student, teacher = head(2, V), head(3, V)
    said = batch()["tokens"]
    log_q, log_p = ((h.logits().roll(1, dims=1)).log_softmax(-1) for h in (student, teacher))
    ratio = (log_q - log_p).gather(-1, said[..., None])[..., 0]
    values = {"sampled_k1": ratio, "sampled_k2": ratio.square() / 2}
    want = (weight * MASK * values.get(estimator.name, (-ratio).exp() - 1 + ratio)).sum()
    got = estimator.fn(live(student, teacher), batch(), weight)
    torch.testing.assert_close(got, want.detach(), check_dtype=False)
    ids = torch.cat((said[..., None] + 1, said[..., None]), -1)
    told = batch(ids, log_p.gather(-1, ids).detach())
    torch.testing.assert_close(estimator.fn(stored(student), told, weight), got)
    with pytest.raises(BadData, match=r"teacher does not list token \d, which was said"):
        estimator.fn(stored(student), batch(ids[..., :1], told["teacher.logp"][..., :1]), weight)
    with pytest.raises(BadValue, match="temperature 1"):
        estimator.fn(stored(student), told, weight, temperature=0.5)


def test_sampled_losses_have_the_derivatives_that_they_say(weight: Tensor) -> None:
    student, teacher = head(2, V), head(3, V)
    log_q, log_p = ((h.logits().roll(1, dims=1)).log_softmax(-1) for h in (student, teacher))
    ratio = (log_q - log_p.detach()).gather(-1, batch()["tokens"][..., None])[..., 0]
    score, literal = ratio.square() / 2, (-ratio).exp() - 1 + ratio
    for estimator in SAMPLED:
        truth = (weight * MASK * (literal if "literal" in estimator.name else score)).sum()
        got = estimator.fn(live(student, teacher), batch(), weight)
        torch.testing.assert_close(
            *(torch.autograd.grad(x, student.weight, retain_graph=True)[0] for x in (got, truth))
        )
