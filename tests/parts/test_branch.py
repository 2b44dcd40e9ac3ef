"""Branches against enumeration: with two letters and three places every answer can be written down."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck.adapters.causal_lm import CausalLM
from limbeck.batch import Batch
from limbeck.beds._text import BOS, EOS, PAD, Alphabet, columns, tiny_llama
from limbeck.data import Table
from limbeck.errors import BadData, BadValue
from limbeck.part import part
from limbeck.parts.branch import SCORES, branched, forced, local_scores, nodes, thinned, whole_answers
from limbeck.parts.noisy import noisy
from limbeck.parts.sparse import drawn, likeliest
from limbeck.players import Players, build
from limbeck.probes.alignment_score import alignment_error
from limbeck.probes.branch_value import exact_values
from limbeck.rng import Rng
from limbeck.roles import built, copy_of, frozen

AB, MOST = Alphabet("ab"), 3


@part
def two_letters(completion: str, row: Mapping[str, Any]) -> float:
    """Mark 1 for two letters that begin with the one in `answer`."""
    return float(len(completion) == 2 and completion[0] == row["answer"])


def net() -> CausalLM:
    lm: Any = tiny_llama(AB.size, 3, width=16, layers=1)
    return CausalLM(lm.double(), AB.tokenizer())


def game() -> tuple[Players, Batch]:
    """Answers to two prompts; the one is not ended."""
    batch = Batch(columns([[BOS, *AB.encode("a")], [BOS]], [[*AB.encode("ba"), EOS], AB.encode("aba")]))
    batch = batch.with_(answer=["b", "a"], reward=torch.tensor([1.0, 0.0]), index=torch.tensor([7, 4]))
    return build({"student": frozen(), "teacher": copy_of("student")}, {"student": net()}, batch), batch


def chance(players: Players, before: list[int], after: list[int]) -> float:
    """P(after | before), by the chain rule on the whole text."""
    whole = torch.tensor([[*before, *after]])
    logp = players.student(Batch({"tokens": whole}), "logits").log_softmax(-1)[0]
    return float(sum(logp[t - 1, whole[0, t]] for t in range(len(before), whole.shape[1])).exp())


def ended(after: list[int], room: int) -> bool:
    """Whether this is a whole rest of an answer that may have `room` more tokens."""
    return EOS not in after[:-1] and (len(after) == room or after[-1:] == [EOS])


def truth(players: Players, before: list[int], begun: int, verifier: Any, row: Mapping[str, Any]) -> float:
    """The value of a beginning, by all that may follow it."""
    room = MOST - (len(before) - begun)
    text = AB.decode(before[begun:])
    if before[-1] == EOS or room == 0:
        return float(verifier.fn(text.split("\0")[0], row))
    total = 0.0
    for n in range(1, room + 1):
        for after in map(list, product(range(AB.size), repeat=n)):
            if ended(after, room):
                total += chance(players, before, after) * verifier.fn(AB.decode(before[begun:] + after), row)
    return total


def begun(players: Players, batch: Batch) -> tuple[Batch, Batch]:
    """All nodes of the game, and every letter and the end forced at each."""
    made = nodes(per_row=9)(players, batch)
    pairs = torch.cartesian_prod(torch.arange(made.size), torch.tensor([EOS, *AB.encode("ab")]))
    return made, forced(made, pairs[:, 0], pairs[:, 1])


def test_nodes_are_single_places_of_answers() -> None:
    players, batch = game()
    made = nodes(per_row=9)(players, batch)
    assert made.size == int(batch.mask.sum()) == 6
    assert made.mask.sum(1).tolist() == [1] * 6 and made.row.tolist() == [7] * 3 + [4] * 3
    torch.testing.assert_close(made.position, torch.tensor([1 / 6, 0.5, 5 / 6] * 2))
    assert made.tokens[made.mask].tolist() == batch.tokens[batch.mask].tolist()
    assert len(set(made.rng.rows.tolist())) == 6
    fewer = nodes(per_row=2)(players, batch)
    assert fewer.row.tolist() == [7, 7, 4, 4] and not (fewer.mask & ~batch.mask[[0, 0, 1, 1]]).any()
    with pytest.raises(BadValue, match="per_row >= 1, got 0"):
        nodes(per_row=0)(players, batch)


def test_forced_tokens_stand_behind_what_was_said_before() -> None:
    players, batch = game()
    made, rows = begun(players, batch)
    for b in range(rows.size):
        n, length = b // 3, int(rows.length[b])
        at = int(made.mask[n].int().argmax())
        assert length == at + 1 and rows.tokens[b, :at].tolist() == made.tokens[n, :at].tolist()
        assert int(rows.tokens[b, at]) == [EOS, *AB.encode("ab")][b % 3] and not rows.tokens[b, length:].any()


def test_exact_values_are_those_of_enumeration() -> None:
    players, batch = game()
    _, rows = begun(players, batch)
    got = exact_values(players.student, rows, two_letters(), least=0.0, max_new_tokens=MOST)
    expected = [
        truth(players, rows.tokens[b, : int(rows.length[b])].tolist(), int(rows.begun[b]), two_letters, {"answer": a})
        for b, a in enumerate(rows["answer"])
    ]
    torch.testing.assert_close(got, torch.tensor(expected))
    assert max(v for v in expected if v < 1) > 0.05
    # ways that are left out can only make a value smaller, by no more than their mass
    cut = exact_values(players.student, rows, two_letters(), least=0.05, max_new_tokens=MOST)
    assert bool((cut <= got + 1e-6).all()) and bool((cut > got - 0.8).all())


def test_sampled_values_have_the_exact_ones_as_their_means() -> None:
    players, batch = game()
    made = nodes(per_row=9)(players, batch)
    how = {"verifier": two_letters(), "max_new_tokens": MOST}
    found = branched(targets=likeliest(k=3), copies=400, **how)(players, made)
    n, k = (found.chance > 0).nonzero().T
    exact = exact_values(players.student, forced(found, n, found.ids[n, k]), two_letters(), least=0.0, max_new_tokens=3)
    for half in range(2):
        assert float((found.value[n, k, half] - exact).abs().max()) < 5 * 0.5 / 200**0.5
    assert float((found.value[n, k, 0] - found.value[n, k, 1]).abs().max()) > 0
    own = torch.stack(
        [players.student(found, "logits")[i, int(m.int().argmax()) - 1] for i, m in enumerate(found.mask)]
    )
    torch.testing.assert_close(found.own, own.log_softmax(-1).gather(-1, found.ids))
    table = Table({c: found[c] for c in ("chance", "own", "theirs", "value", "reward", "row", "ids")})
    assert len(table) == 6
    data = {"branches": Table(dict(found.columns))}
    error = alignment_error(verifier=two_letters(), max_new_tokens=MOST, least=0.0)(with_noise(players), data)
    assert error == pytest.approx(0.0, abs=0.15)


def with_noise(players: Players) -> Players:
    roles = {"student": frozen(), "teacher": built(noisy())}
    return build(roles, {"student": players.student.module}, game()[1])  # type: ignore[dict-item]


def test_drawn_candidates_come_from_the_teacher_alone() -> None:
    players, batch = game()
    made = nodes(per_row=9)(players, batch)
    how = {"copies": 2, "verifier": two_letters(), "max_new_tokens": MOST}
    found = branched(targets=drawn(draws=64), share=1.0, **how)(players, made)
    torch.testing.assert_close(found.chance.sum(1), torch.ones(6, dtype=found.chance.dtype))
    apart = found.chance - found.theirs.exp() * (found.chance > 0)
    assert float(apart.abs().max()) < 0.25
    with pytest.raises(BadValue, match="an even number, got 3"):
        branched(copies=3)(players, made)
    with pytest.raises(BadValue, match="share of the candidates"):
        branched(share=1.5)(players, made)


def test_texts_end_with_their_first_end_or_where_they_are_cut() -> None:
    players, _ = game()
    a, b = AB.encode("ab")
    tokens = torch.tensor([[BOS, a, b, EOS, a], [BOS, a, a, a, b], [BOS, b, a, PAD, PAD]])
    begun_B, length_B = torch.tensor([1, 1, 2]), torch.tensor([5, 5, 3])
    batch = Batch({"tokens": tokens, "mask": tokens < 0, "length": length_B, "begun": begun_B})
    assert whole_answers(players.student, batch, 3) == ["ab", "aaa", "a"]


def test_local_scores_are_entropies_divergence_and_margin() -> None:
    players, batch = game()
    players = with_noise(players)
    made = nodes(per_row=9)(players, batch)
    scores = local_scores()(players, made).scores
    assert scores.shape == (6, len(SCORES))
    at = made.mask.int().argmax(1) - 1
    p, q = (
        torch.distributions.Categorical(logits=players[name](made, "logits")[torch.arange(6), at])
        for name in ("teacher", "student")
    )
    top: Tensor = p.probs.sort(-1, descending=True).values
    kl = torch.distributions.kl_divergence(p, q)
    torch.testing.assert_close(scores, torch.stack((p.entropy(), q.entropy(), kl, top[:, 0] - top[:, 1]), 1))


def test_a_noisy_teacher_is_the_student_but_for_noise_of_the_stated_size() -> None:
    players, batch = game()
    noise = with_noise(players).teacher(batch, "logits") - players.student(batch, "logits")
    many = with_noise(players).teacher(batch.with_(), "logits") - players.student(batch, "logits")
    assert torch.equal(noise, many)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.3) and float(noise.mean()) == pytest.approx(0.0, abs=0.4)


def test_rows_are_thinned_to_a_share_and_each_keeps_its_stream() -> None:
    rows = Batch({"x": torch.arange(100)}, rng=Rng((5,), torch.arange(100)))
    kept = thinned(share=0.25)(None, rows)
    assert kept.size == 25 and torch.equal(kept.rng.rows, kept.x) and kept.x.tolist() != list(range(25))
    assert thinned(share=1e-9)(None, rows).size == 1
    with pytest.raises(BadValue, match=r"share in \(0, 1\]"):
        thinned(share=0.0)(None, rows)


def test_figures_of_branches_need_branches() -> None:
    players, _ = game()
    with pytest.raises(BadData, match="this run has none"):
        alignment_error()(players, {})
