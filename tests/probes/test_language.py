"""The probes of language models against scripted models and numbers worked out by hand."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from limbeck.batch import Batch
from limbeck.beds import arith, chars
from limbeck.beds._text import ExactLM
from limbeck.data import Table
from limbeck.errors import BadData, BadValue
from limbeck.players import Player, Players
from limbeck.probes import language
from limbeck.rng import Rng
from limbeck.roles import frozen


class Scripted(nn.Module):
    """Says what is due at each place of the text, each token with the probability `sure`, the others alike."""

    def __init__(self, script: list[int], sure: float, vocab: int) -> None:
        super().__init__()
        self.script, self.sure, self.vocab = script, sure, vocab

    def forward(self, tokens_BT, seen_BT):
        due_BT = torch.tensor(self.script)[(seen_BT.cumsum(1)).clamp(max=len(self.script) - 1)]
        p = torch.full((*tokens_BT.shape, self.vocab), (1 - self.sure) / (self.vocab - 1))
        return p.scatter(-1, due_BT[..., None], self.sure).log()


def _game(**nets: nn.Module) -> Players:
    return Players({name: Player(name, frozen(), net) for name, net in nets.items()})


def _says(solutions: str, sure: float = 1.0) -> ExactLM:
    """A model that says the same solution whatever is asked."""
    ids = [1, *arith.ALPHABET.encode("47+85=" + solutions), 2]
    net = ExactLM(Scripted(ids, sure, arith.ALPHABET.size), arith.ALPHABET.size, arith.ALPHABET.tokenizer())
    net.eos = (2,)
    return net


def _rows(*problems: tuple[int, int]) -> dict[str, Table]:
    return {"test": arith.rows(problems, 0)}


def test_answers_and_steps_are_those_that_were_said() -> None:
    # right for 47+85 alone; for 48+85 the answer is wrong and of the three steps the last two still follow
    player, data = _says("7+5+0=12;4+8+1=13;>132"), _rows((47, 85), (48, 85), (47, 85), (11, 22))
    found = {name: arith.bed.probes[name](_game(student=player), data) for name in ("answer_accuracy", "step_accuracy")}
    assert found == {"answer_accuracy": 2 / 4, "step_accuracy": pytest.approx((3 + 2 + 3 + 1) / 12)}


def test_limit_takes_the_first_rows() -> None:
    player, data = _says("7+5+0=12;4+8+1=13;>132"), _rows((47, 85), (48, 85))
    probe = language.answer_accuracy(verifier=arith.right_answer(), limit=1)
    assert probe(_game(student=player), data) == 1.0


def test_temperature_zero_is_greedy_and_one_is_the_distribution() -> None:
    # each of 22 characters and the end is right with 0.97: the answer is right when ">132" and the end come, but a
    # whole text of no error has 0.97^23; the answer's rate lies between that and 0.97^5
    player, data = _says("7+5+0=12;4+8+1=13;>132", sure=0.97), _rows(*[(47, 85)] * 100)
    sampled, greedy = (
        language.answer_accuracy(verifier=arith.right_answer(), temperature=t, samples=4)(_game(student=player), data)
        for t in (1.0, 0.0)
    )
    assert greedy == 1.0
    assert 0.97**23 - 0.08 < sampled < 0.97**5 + 0.05


def test_prompts_of_different_length_are_completed_alike() -> None:
    # a prompt must not see the solution behind it, nor another row's padding
    columns = arith.columns([[1, *arith.ALPHABET.encode(q)] for q in ("7+8=", "47+85=")], [[2], [5, 5, 5, 2]])
    player = Player("student", frozen(), arith.teacher())
    both = language.completions(player, Batch(columns), Rng((), torch.arange(2)), temperature=0)
    alone = Batch(Table(columns).take(torch.tensor([1])))
    assert both[1] == language.completions(player, alone, Rng((), torch.arange(1)), temperature=0)[0]
    assert arith.answer_right("47+85=", both[1])


def test_a_player_without_tokenizer_cannot_be_read() -> None:
    net = ExactLM(Scripted([0], 0.5, 4), 4)
    batch = Batch(arith.columns([[1]], [[2]]))
    with pytest.raises(BadValue, match="no tokenizer"):
        language.completions(Player("student", frozen(), net), batch, batch.rng)


def test_likelihood_agreement_and_divergence_by_hand() -> None:
    # two scripted models that differ in one of the 23 target tokens' most probable one
    said = "7+5+0=12;4+8+1=13;>132"
    data = {"test": Table(arith.columns([[1, *arith.ALPHABET.encode("47+85=")]], [[*arith.ALPHABET.encode(said), 2]]))}
    V, s, t = arith.ALPHABET.size, 0.7, 0.9
    players = _game(student=_says(said.replace("13;", "14;"), s), teacher=_says(said, t))
    rest_s, rest_t = (1 - s) / (V - 1), (1 - t) / (V - 1)
    assert language.nll()(players, data) == pytest.approx(-(22 * math.log(s) + math.log(rest_s)) / 23, rel=1e-5)
    assert language.token_agreement()(players, data) == pytest.approx(22 / 23)
    same = t * math.log(t / s) + (1 - t) * math.log(rest_t / rest_s)
    other = t * math.log(t / rest_s) + rest_t * math.log(rest_t / s) + (V - 2) * rest_t * math.log(rest_t / rest_s)
    assert language.token_kl()(players, data) == pytest.approx((22 * same + other) / 23, rel=1e-4)


def test_the_floor_of_the_likelihood_is_the_entropy_of_the_language() -> None:
    # the teacher, which is almost perfect, comes near to the known entropy of the coins and cannot beat it
    data = arith.splits(0)
    floor = sum(arith.entropy([int(n) for n in q[:-1].split("+")]) for q in data["test"].columns["question"])
    per_token = floor / int(data["test"].columns["mask"].sum())
    assert 0.999 * per_token < language.nll()(_game(student=arith.teacher()), data) < 1.1 * per_token


def test_no_target_token_is_an_error() -> None:
    columns = chars.splits(0)["test"].columns
    data = {"test": Table({**columns, "mask": torch.zeros_like(columns["mask"])})}
    with pytest.raises(BadData, match="no target token"):
        language.nll()(_game(student=chars.student(0)), data)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("+-*/"), st.integers(0, 40)), min_size=1, max_size=4), st.integers(0, 40))
def test_equations_are_worked_out_as_python_does(tail, first) -> None:
    expression = str(first) + "".join(f" {sign} {number}" for sign, number in tail)
    try:
        truth = eval(re.sub(r"\d+", r"Fraction(\g<0>)", expression), {"Fraction": Fraction})
    except ZeroDivisionError:
        assert language.equations_hold()(f"{expression} = 1", {}) == 0
        return
    if truth.denominator == 1:
        assert language.equations_hold()(f"so {expression} = {truth}.", {}) == 1
        assert language.equations_hold()(f"so {expression} = {truth + 1}.", {}) == 0


@pytest.mark.parametrize(
    ("said", "answer", "mark"),
    [("#### 1,234", "1234", 1), ("it is -3.50", "-3.5", 1), ("12 and then 13", "12", 0), ("", "0", 0), ("7.", "7", 1)],
)
def test_last_numbers(said, answer, mark) -> None:
    assert language.last_number()(said, {"answer": answer}) == mark
