"""The exact figures of the enumerable language against brute force: every sequence written out, one by one."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch

from limbeck.batch import Batch
from limbeck.beds import oracle_lm
from limbeck.data import Table
from limbeck.errors import BadData, BadValue
from limbeck.kernels.head import TokenHead
from limbeck.players import Player, Players
from limbeck.probes import enumerated
from limbeck.roles import frozen

N = 3


def _game(student: torch.nn.Module, seed: int = 0) -> Players:
    nets = {"teacher": oracle_lm.oracle(seed), "student": student}
    return Players({name: Player(name, frozen(), net) for name, net in nets.items()})


def _short() -> dict[str, Table]:
    """Two prompts with completions of three tokens: 216 sequences each."""
    tokens = torch.tensor([[0, 1, 1, 1], [4, 0, 2, 0], [0, 3, 3, 3]])
    whole = torch.ones(3, dtype=torch.long)
    return {"test": Table({"tokens": tokens, "mask": tokens >= 0, "length": 4 * whole, "prompt": whole})}


@functools.cache
@torch.no_grad()
def _next(net: torch.nn.Module, prefix: tuple[int, ...]) -> list[float]:
    """The next-token probabilities after one prefix, asked alone."""
    logits = net({"tokens": torch.tensor([prefix])}, frozenset({"logits"}))["logits"][0, -1]
    return logits.double().softmax(-1).tolist()


def _probability(net: torch.nn.Module, prompt: int, words: tuple[int, ...]) -> float:
    return math.prod(_next(net, (prompt, *words[:t]))[words[t]] for t in range(len(words)))


@pytest.fixture(scope="module")
@torch.no_grad()
def brute() -> dict[str, float]:
    p_net, q_net = oracle_lm.oracle(0), oracle_lm.student(3)
    out = dict.fromkeys(("forward", "reverse", "entropy", "prefix"), 0.0)
    for prompt in (0, 4):
        for words in itertools.product(range(6), repeat=N):
            p, q = (_probability(net, prompt, words) for net in (p_net, q_net))
            out["forward"] += p * math.log(p / q) / 2
            out["reverse"] += q * math.log(q / p) / 2
            out["entropy"] -= q * math.log(q) / 2
        for t in range(N):
            for words in itertools.product(range(6), repeat=t):
                after = [_next(net, (prompt, *words)) for net in (p_net, q_net)]
                kl = sum(a * math.log(a / b) for a, b in zip(*after, strict=True))
                out["prefix"] += _probability(q_net, prompt, words) * kl / N / 2
    return out


@pytest.mark.parametrize(
    ("probe", "name"),
    [
        (enumerated.sequence_kl_forward(), "forward"),
        (enumerated.sequence_kl_reverse(), "reverse"),
        (enumerated.sequence_entropy(), "entropy"),
        (enumerated.prefix_kl(), "prefix"),
    ],
)
def test_exact_figures_are_those_of_brute_force(brute, probe, name) -> None:
    assert probe(_game(oracle_lm.student(3)), _short()) == pytest.approx(brute[name], rel=1e-5)


def test_the_oracle_follows_bayes() -> None:
    # p(next | said) = sum_k prod_t P_k(said) P_k(next) / sum_k prod_t P_k(said), the topics weighed by hand
    net, said = oracle_lm.oracle(5), (2, 4, 0, 0, 1)
    chains = net.rule.chains.double().exp()
    pairs = [(said[max(0, t - 1)], said[t]) for t in range(len(said))]
    weights = [math.prod(chains[k][a, b, said[t + 1]].item() for t, (a, b) in enumerate(pairs[:-1])) for k in range(4)]
    expected = sum(w * chains[k][pairs[-1]] for k, w in enumerate(weights)) / sum(weights)
    torch.testing.assert_close(torch.tensor(_next(net, said)).double(), expected, rtol=1e-5, atol=1e-7)


def test_probabilities_of_all_sequences_sum_to_one() -> None:
    tree = enumerated.enumerated(_game(oracle_lm.student(0)).teacher, torch.arange(6)[:, None], 6)
    assert tree.sequences.shape == (6, 6**6)
    torch.testing.assert_close(tree.sequences.logsumexp(-1), torch.zeros(6).double(), atol=1e-5, rtol=0)


def test_the_oracle_against_itself_has_no_error_and_full_coverage() -> None:
    players, data = _game(oracle_lm.oracle(0)), _short()
    found = {name: probe(players, data) for name, probe in oracle_lm.bed.probes.items()}
    assert found["sequence_kl_forward"] == found["sequence_kl_reverse"] == found["prefix_kl"] == 0
    assert found["coverage"] == pytest.approx(1, abs=1e-5)
    assert 0.9 <= found["typical_mass"] < 0.92


def test_a_student_of_one_mode_has_quality_but_no_coverage() -> None:
    class Greedy(torch.nn.Module):
        """The teacher at a temperature near 0."""

        def forward(self, batch, want):
            return {"logits": 50 * oracle_lm.oracle(0)(batch, want)["logits"]}

    players = _game(Greedy())
    assert enumerated.typical_mass()(players, _short()) > 0.95
    assert enumerated.coverage()(players, _short()) < 0.5
    # and the covering divergence punishes it far more than the seeking one
    forward = enumerated.sequence_kl_forward()(players, _short())
    assert forward > 5 * enumerated.sequence_kl_reverse()(players, _short())


def test_data_follow_the_oracle() -> None:
    # frequencies of first tokens after prompt 0 within four standard errors of the truth
    data = oracle_lm.splits(1, train=12000)["train"].columns
    first = data["tokens"][data["tokens"][:, 0] == 0, 1]
    truth = torch.tensor(_next(oracle_lm.oracle(1), (0,)))
    error = (torch.bincount(first, minlength=6) / len(first) - truth).abs()
    assert (error < 4 * (truth * (1 - truth) / len(first)).sqrt() + 1e-9).all()


def test_decoding_in_a_cache_agrees_with_one_forward() -> None:
    # left padding must not be seen, as in the sampler
    net, tokens = oracle_lm.oracle(0), torch.tensor([[0, 0, 3, 1, 5], [2, 4, 3, 1, 5]])
    seen = torch.tensor([[False, False, True, True, True], [True] * 5])
    want = frozenset({"next", "cache"})
    first = net({"tokens": tokens[:, :4], "seen": seen[:, :4], "cache": None}, want)
    then = net({"tokens": tokens[:, 4:], "seen": seen, "cache": first["cache"]}, want)["next"]
    alone = net({"tokens": tokens[:1, 2:]}, frozenset({"logits"}))["logits"][0, -1]
    torch.testing.assert_close(then[0], alone)


def test_the_head_makes_the_logits() -> None:
    answer = oracle_lm.oracle(0)(Batch({"tokens": torch.tensor([[0, 1, 2]])}), frozenset({"head", "logits"}))
    assert isinstance(answer["head"], TokenHead)
    torch.testing.assert_close(answer["head"].logits(), answer["logits"])


def test_students_differ_by_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a, b, again = (oracle_lm.student(s).lm.lm_head.weight for s in (0, 1, 0))
    assert not torch.equal(a, b) and torch.equal(a, again)
    assert torch.equal(before, torch.get_rng_state())


def test_too_many_sequences_and_ragged_ones_are_refused() -> None:
    with pytest.raises(BadValue, match="too many"):
        enumerated.enumerated(_game(oracle_lm.student(0)).teacher, torch.tensor([[0]]), 10)
    columns = {"tokens": torch.zeros(2, 4).long(), "length": torch.tensor([3, 4]), "prompt": torch.ones(2).long()}
    ragged = {"test": Table(columns)}
    with pytest.raises(BadData, match="one length"):
        enumerated.sequence_entropy()(_game(oracle_lm.student(0)), ragged)


def test_draws_of_splits_are_apart() -> None:
    data = oracle_lm.splits(0)
    assert not torch.equal(data["valid"].columns["tokens"], data["test"].columns["tokens"])
    assert data["train"].columns["mask"][:, 0].sum() == 0
