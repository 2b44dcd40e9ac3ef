"""Chunks of text: two tokenisations cut alike, and likelihoods of the pieces against enumeration and plain formulas."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from limbeck.adapters.pieces import Pieces, number_chunks, reread
from limbeck.api import distill
from limbeck.batch import Batch
from limbeck.beds import lexicon
from limbeck.beds._text import Alphabet, ExactLM
from limbeck.errors import BadData, BadValue, Mismatch
from limbeck.kernels.binary import binary_kl, binary_kl_limit, log1mexp
from limbeck.kernels.head import TokenHead
from limbeck.kernels.ordered import ordered_distance_pair
from limbeck.parts.chunks import (
    chunk_kl,
    chunk_kl_limit,
    displaced,
    in_teacher_tokens,
    joined,
    likelihoods,
    ordered_distance,
    teacher_rows,
    teacher_tokens,
)
from limbeck.players import Player, Players
from limbeck.probes.chunks import bits_gap, chunk_gap
from limbeck.roles import frozen
from tests.adapters.tiny import CHATML, byte_tokenizer

COARSE, FINE = byte_tokenizer(size=400), byte_tokenizer(size=262)
WORDS = ["the cat sat", " 12", "naïve", "東京", "🦊", "\n\n", "  ", "Fuß", "ﬁ", "x²"]


class Table(nn.Module):
    """A language model whose next token depends on the last one alone; `weight` (V, V) are its logits."""

    def __init__(self, vocab: int, tokenizer: Any, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(vocab, vocab, generator=generator, dtype=dtype))
        self.tokenizer, self.vocab, self.context = tokenizer, vocab, None

    def forward(self, batch: Any, want: frozenset[str]) -> dict[str, Any]:
        hidden = nn.functional.one_hot(batch["tokens"], self.vocab).to(self.weight.dtype)
        return {"head": TokenHead(hidden, self.weight.mT)}


def table(tokenizer: Any, seed: int = 0) -> Player:
    return Player(f"table{seed}", frozen(), Table(len(tokenizer), tokenizer, seed))


def rows_of(tokenizer: Any, texts: list[str], prompt: int = 1) -> Batch:
    coded = [[tokenizer.eos_token_id, *tokenizer(t)["input_ids"], tokenizer.eos_token_id] for t in texts]
    width = max(map(len, coded))
    tokens = torch.tensor([c + [0] * (width - len(c)) for c in coded])
    length = torch.tensor([len(c) for c in coded])
    at = torch.arange(width)
    return Batch({"tokens": tokens, "length": length, "mask": (at >= prompt) & (at < length[:, None])})


# -- alignment --------------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(1, 29)), st.sets(st.integers(1, 29)), st.binary(min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_chunks_tile_both_sides_and_end_at_the_same_bytes(a: set[int], b: set[int], text: bytes) -> None:
    ends = [sorted(e for e in {*some, len(text)} if e <= len(text)) for some in (a, b)]
    cut = [[text[i:j] for i, j in itertools.pairwise([0, *side])] for side in ends]
    for side, chunk in zip(ends, number_chunks(*cut), strict=True):
        assert all(c > 0 for c in chunk) and chunk == sorted(chunk)
        found = {e for e, c, d in zip(side, chunk, [*chunk[1:], 0], strict=True) if c != d}
        assert found == {*ends[0]} & {*ends[1]}  # every common boundary is a cut, and no other


PIECES = st.lists(st.sampled_from(WORDS) | st.text(max_size=6), max_size=4).map("".join)


@given(PIECES, PIECES)
@settings(max_examples=25, deadline=None)
def test_real_tokenizers_tile_any_text(prompt: str, answer: str) -> None:
    mine, theirs, end = Pieces(FINE), Pieces(COARSE), FINE.eos_token_id
    coded = [end, *FINE(prompt)["input_ids"]], [*FINE(answer)["input_ids"], end]
    mask = [False] * len(coded[0]) + [True] * len(coded[1])
    made = reread(mine, theirs, [*coded[0], *coded[1]], mask)
    found = []
    for side, ids, chunk in ((mine, [*coded[0], *coded[1]], made.own), (theirs, made.tokens, made.chunk)):
        numbered = list(zip(ids, chunk, strict=True))
        found.append([b"".join(side.written[i] for i, n in numbered if n == c) for c in range(1, max(chunk) + 1)])
    assert found[0] == found[1] and b"".join(found[0]) == answer.encode() + b"<|end|>"
    assert made.mask == [c > 0 for c in made.chunk] and [c > 0 for c in made.own] == mask


def test_multibyte_characters_are_followed_through_tokens_that_split_them() -> None:
    spelled = Pieces(FINE).written
    ids = FINE("a🦊b")["input_ids"]
    assert len(ids) > 3 and b"".join(spelled[i] for i in ids) == "a🦊b".encode()


def sentencepiece(space: bool = True) -> Any:
    """A tokenizer in the manner of Llama 2: a space in front, bytes where a character is unknown."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "c", "a", "t", "ca", "cat", "▁cat"]
    merges = [("c", "a"), ("ca", "t"), ("▁", "cat")]
    raw = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges, unk_token="<unk>", byte_fallback=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")


def test_a_space_that_a_tokenizer_puts_in_front_is_no_text() -> None:
    llama = sentencepiece()
    ids = llama("cat cat é", add_special_tokens=False)["input_ids"]
    made = reread(Pieces(llama), Pieces(FINE), ids, [True] * len(ids))
    assert b"".join(Pieces(FINE).written[i] for i in made.tokens[1:]) == "cat cat é".encode()
    back = reread(Pieces(FINE), Pieces(llama), FINE("cat cat é")["input_ids"], [True] * 10)
    assert back.tokens[1:] == ids and all(back.chunk[1:])


def test_special_tokens_stand_for_their_like_and_text_is_cut_at_the_mask() -> None:
    chat = byte_tokenizer(CHATML)
    tokens = chat("the cat<|im_end|>", add_special_tokens=False)["input_ids"]
    alphabet = Alphabet(" acehst").tokenizer()
    made = reread(Pieces(chat), Pieces(alphabet), tokens, [False, *[True] * (len(tokens) - 1)])
    assert alphabet.convert_ids_to_tokens(made.tokens) == ["<s>", *"the cat", "</s>"]
    assert made.chunk[-1] == made.own[-1] == max(made.chunk)  # one end for the other
    assert made.mask[:4] == [False] * 4 and all(made.mask[4:])  # "the" is one token, and no target


def test_a_context_that_is_too_short_loses_whole_chunks() -> None:
    tokens = COARSE("the cat sat on the mat")["input_ids"]
    full = reread(Pieces(COARSE), Pieces(FINE), tokens, [False, *[True] * (len(tokens) - 1)])
    cut = reread(Pieces(COARSE), Pieces(FINE), tokens, [False, *[True] * (len(tokens) - 1)], context=8)
    assert len(cut.tokens) == 8 and max(cut.own) == max(cut.chunk) < max(full.own)
    whole = [c for c in {*full.chunk[:8]} - {0} if full.chunk[:8].count(c) == full.chunk.count(c)]
    assert {*cut.chunk} - {0} == {*whole} and [c if c in whole else 0 for c in full.own] == cut.own


def test_text_that_a_tokenizer_changes_is_followed_as_far_as_the_bytes_agree() -> None:
    assert number_chunks([b"a", b"B", b"c"], [b"a", b"b", b"c"]) == ([1, 0, 0], [1, 0, 0])


def test_players_without_tokenizers_or_text_in_common_are_refused() -> None:
    batch = rows_of(FINE, ["the cat"])
    with pytest.raises(BadValue, match="no tokenizer"):
        in_teacher_tokens()(Players({"student": table(FINE), "teacher": Player("t", frozen(), nn.Identity())}), batch)
    with pytest.raises(BadData, match="in common"):
        other = Alphabet("xyz").tokenizer()
        bare = Batch({**batch.columns, "mask": batch.mask & (torch.arange(batch.mask.shape[1]) < 3)})
        in_teacher_tokens()(Players({"student": table(FINE), "teacher": table(other)}), bare)


# -- likelihoods ------------------------------------------------------------------------------------------------------


def spelled_by(tokenizer_words: list[list[int]], vocab: int) -> ExactLM:
    return ExactLM(lexicon.Spelled(tokenizer_words, CHAIN, vocab), vocab)


CHAIN = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.1, 0.4], [0.7, 0.3, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize("words", [[[4, 5, 6], [4, 5]], [[4, 7], [8]]])
def test_spelled_models_give_every_text_the_probability_of_its_words(words: list[list[int]]) -> None:
    # " ab" and " a", over letters and over two BPE tokens: all texts of at most three words, enumerated
    net = spelled_by(words, 9)
    for n in (1, 2, 3):
        for text in itertools.product(range(2), repeat=n):
            tokens = torch.tensor([[1, *(t for w in text for t in words[w]), 2]])
            logp = net.rule(tokens, torch.ones_like(tokens, dtype=torch.bool))[:, :-1]
            found = logp.gather(-1, tokens[:, 1:, None]).double().sum().exp()
            path = [2, *text, 2]
            truth = math.prod(float(CHAIN[a, b]) for a, b in itertools.pairwise(path))
            assert float(found) == pytest.approx(truth, rel=1e-5)


def test_chunk_likelihoods_are_those_of_enumeration() -> None:
    # the likelihood of a chunk, by the joint probability of all texts of the chain that go on with its tokens
    teacher, oracle = (Player(n, frozen(), net()) for n, net in (("t", lexicon.teacher), ("s", lexicon.oracle)))
    game = Players({"teacher": teacher, "student": oracle})
    batch = in_teacher_tokens()(game, Batch(dict(lexicon.splits(0)["test"].take(torch.arange(4)))))
    for player, rows in ((teacher, teacher_rows(batch)), (oracle, batch)):
        spell = [[*player.tokenizer(w, add_special_tokens=False)["input_ids"]] for w in lexicon.words()]
        found = likelihoods(player, rows)
        for b in range(4):
            tokens = [t for t in rows.tokens[b].tolist() if t not in (0, 1)]
            for t, token in enumerate(tokens):
                whole, part = prefix_probability(spell, tokens[:t]), prefix_probability(spell, tokens[: t + 1])
                assert float(found[b, t + 1]) == pytest.approx(math.log(part / whole), abs=1e-4)
                assert rows.tokens[b, t + 1] == token


def prefix_probability(spell: list[list[int]], tokens: list[int], before: int = -1) -> float:
    """The probability of all sentences whose tokens begin so: by recursion over words, nothing shared with the bed."""
    if not tokens:
        return 1.0
    after, total = lexicon.chain()[before], 0.0
    if tokens == [2]:
        return float(after[-1])
    for w, word in enumerate(spell):
        if word[: len(tokens)] == tokens:
            total += float(after[w])
        elif tokens[: len(word)] == word:
            total += float(after[w]) * prefix_probability(spell, tokens[len(word) :], w)
    return total


def test_teacher_and_oracle_agree_on_sentences_but_not_on_every_piece() -> None:
    game = Players(
        {"teacher": Player("t", frozen(), lexicon.teacher()), "student": Player("s", frozen(), lexicon.oracle())}
    )
    rows = dict(lexicon.splits(0)["test"].take(torch.arange(64)))
    batch = in_teacher_tokens()(game, Batch(rows))
    ended = (batch.tokens == 2).any(1)
    sums = [likelihoods(p, v).sum(1)[ended] for p, v in ((game.teacher, teacher_rows(batch)), (game.student, batch))]
    torch.testing.assert_close(*sums, rtol=1e-4, atol=1e-4)
    close = joined(threshold=0.0)(game, batch)
    gaps = {}
    for name, made in (("as cut", batch), ("joined", close)):
        p, q = by_chunk(game.teacher, teacher_rows(made)), by_chunk(game.student, made)
        gaps[name] = float((p - q).abs().sum() / made.chunk.amax(1).sum())
    assert gaps["joined"] < 0.3 * gaps["as cut"]
    assert (
        bits_gap()(game, {"test": lexicon._rows(64, "x")}) < 0.01 < chunk_gap()(game, {"test": lexicon._rows(64, "x")})
    )


def by_chunk(player: Player, rows: Batch) -> Tensor:
    zero = torch.zeros(len(rows.chunk), 60, dtype=torch.float64)
    return zero.scatter_add(1, rows.chunk, likelihoods(player, rows))[:, 1:]


# -- boundaries -------------------------------------------------------------------------------------------------------


def test_joined_counts_the_mass_beyond_a_boundary() -> None:
    letters = Alphabet(" acehst012log").tokenizer()  # no token goes on from another: the teacher's mass decides
    game = Players({"student": table(letters, 1), "teacher": table(COARSE, 2)})
    batch = in_teacher_tokens()(game, rows_of(letters, ["the cat sat", " 12 logs"]))
    there, written = teacher_rows(batch), Pieces(COARSE).written
    p_VV, masses = log_softmax(game.teacher.module.weight.detach(), -1).exp(), []
    for row, chunk in zip(there.tokens.tolist(), there.chunk.tolist(), strict=True):
        for c in range(1, max(chunk) + 1):
            t = max(i for i, x in enumerate(chunk) if x == c)
            v = written[row[t]]
            beyond = [i for i, x in enumerate(written) if x.startswith(v) and x != v and row[t] != COARSE.eos_token_id]
            masses.append(float(p_VV[row[t - 1], beyond].sum()))
    threshold = sorted(masses)[2 * len(masses) // 3]
    made = joined(threshold=threshold + 1e-9)(game, batch)
    assert int(made.chunk.amax(1).sum()) == sum(m <= threshold for m in masses) < len(masses)
    torch.testing.assert_close(by_chunk(game.teacher, teacher_rows(made)).sum(), by_chunk(game.teacher, there).sum())


def test_joined_leaves_one_tokenizer_alone() -> None:
    game = Players({"student": table(COARSE, 1), "teacher": table(COARSE, 2)})
    batch = in_teacher_tokens()(game, rows_of(COARSE, ["the cat sat", "12"]))
    made = joined(threshold=0.0)(game, batch)
    assert torch.equal(made.chunk, batch.chunk) and torch.equal(made.teacher_chunk, batch.teacher_chunk)


def test_displaced_pairs_each_chunk_with_the_next() -> None:
    batch = Batch({"teacher_chunk": torch.tensor([[0, 1, 1, 2, 3, 0]])})
    assert displaced()(None, batch).teacher_chunk.tolist() == [[0, 3, 3, 1, 2, 0]]


# -- losses -----------------------------------------------------------------------------------------------------------


def total(part: Any, game: Players, batch: Batch) -> Tensor:
    (value,) = part.total(game, batch).values()
    return value


def test_with_one_tokenizer_the_loss_is_the_binarised_kl_of_tokens() -> None:
    game = Players({"student": table(COARSE, 1), "teacher": table(COARSE, 2)})
    batch = in_teacher_tokens()(game, rows_of(COARSE, ["the cat sat on the mat", "12"]))
    p, q = (
        log_softmax(player.module.weight, -1)[batch.tokens[:, :-1], batch.tokens[:, 1:]].exp().detach()
        for player in (game.teacher, game.student)
    )
    coins = p ** (1 / 7), q ** (1 / 7)
    plain = coins[0] * (coins[0] / coins[1]).log() + (1 - coins[0]) * ((1 - coins[0]) / (1 - coins[1])).log()
    expected = plain[batch.mask[:, 1:]].mean()
    torch.testing.assert_close(total(chunk_kl(tau=7.0), game, batch), expected)
    torch.testing.assert_close(total(teacher_tokens() * chunk_kl(tau=7.0), game, batch), expected)


def test_the_loss_is_0_where_both_agree_and_its_limit_is_that_of_high_temperatures() -> None:
    game = Players({"student": table(FINE, 1), "teacher": table(COARSE, 2)})
    batch = in_teacher_tokens()(game, rows_of(FINE, ["the cat sat on the mat", "naïve 12"]))
    limit = float(total(chunk_kl_limit(), game, batch).detach())
    assert 1e4 * float(total(chunk_kl(tau=1e4), game, batch).detach()) == pytest.approx(limit, rel=0.01) and limit > 0
    same = Players({"student": table(FINE, 1), "teacher": table(FINE, 1)})
    alike = in_teacher_tokens()(same, rows_of(FINE, ["the cat"]))
    assert float(total(chunk_kl(), same, alike).detach()) == pytest.approx(0, abs=1e-12)
    with pytest.raises(BadValue, match="tau > 0"):
        total(chunk_kl(tau=0.0), game, batch)


@pytest.mark.parametrize("loss", [chunk_kl(tau=10.0), teacher_tokens() * chunk_kl_limit(), ordered_distance()])
def test_gradients_are_those_of_the_value_and_reach_the_student_alone(loss: Any) -> None:
    alphabet = Alphabet(" abt").tokenizer()
    coarse = byte_tokenizer(size=262)
    game = Players({"student": table(alphabet, 1), "teacher": table(coarse, 2)})
    batch = in_teacher_tokens()(game, rows_of(alphabet, ["tab at", "a bat"], prompt=2))
    student = game.student.module

    def value(weight: Tensor) -> Tensor:
        def answer(batch: Batch, want: frozenset[str]) -> dict[str, Any]:
            hidden = nn.functional.one_hot(batch.tokens, len(weight)).to(weight.dtype)
            return {"head": TokenHead(hidden, weight.mT)}

        view = Player("student", frozen(), student, answer=answer)
        return total(loss, Players({"student": view, "teacher": game.teacher}), batch.with_())

    assert torch.autograd.gradcheck(value, (student.weight.detach().clone().requires_grad_(),))
    total(loss, game, batch).backward()
    assert student.weight.grad is not None and game.teacher.module.weight.grad is None


@given(st.floats(-700, -1e-5))
def test_log1mexp_is_exact_at_both_ends(x: float) -> None:
    found = float(log1mexp(torch.tensor(x, dtype=torch.float64)))
    truth = math.log(-math.expm1(x)) if x > -1 else math.log1p(-math.exp(x))
    assert found == pytest.approx(truth, rel=1e-12, abs=1e-300)


def test_certain_events_are_finite() -> None:
    p, q = torch.tensor([0.0, -50.0, 0.0]), torch.tensor([-50.0, 0.0, 0.0]).requires_grad_()
    for value in (binary_kl(p, q, 100.0), binary_kl(p, q, 1.0), binary_kl_limit(p, q)):
        (slope,) = torch.autograd.grad(value.sum(), q)
        assert value.isfinite().all() and slope.isfinite().all() and float(value[2].detach()) == 0


def test_the_ordered_distance_is_that_of_sorted_probabilities() -> None:
    a, b = torch.tensor([[0.5, 0.2, 0.3]]).log(), torch.tensor([[0.1, 0.9]]).log()
    value, _ = ordered_distance_pair(a, b)
    torch.testing.assert_close(value, torch.tensor([0.4 + 0.2 + 0.2]))
    assert float(ordered_distance_pair(a, a[:, [2, 0, 1]])[0]) == pytest.approx(0, abs=1e-6)


# -- on the user's own files ------------------------------------------------------------------------------------------


def directory(path: Path, tokenizer: Any, kind: Any, config: Any) -> str:
    torch.manual_seed(0)
    kind(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("key", ["alm", "uld"])
def test_directories_of_different_tokenizers_and_architectures(key: str, tmp_path: Path) -> None:
    small = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    llama = transformers.LlamaConfig(vocab_size=400, max_position_embeddings=64, **small)
    gpt2 = transformers.GPT2Config(vocab_size=280, n_embd=16, n_layer=1, n_head=2, n_positions=96, eos_token_id=0)
    teacher = directory(tmp_path / "teacher", byte_tokenizer(), transformers.LlamaForCausalLM, llama)
    fine = byte_tokenizer(size=280)
    fine.model_max_length = 96
    student = directory(tmp_path / "student", fine, transformers.GPT2LMHeadModel, gpt2)
    rows = [{"prompt": f"how much is {i} plus 30 ?", "completion": f" it is {i + 30} , naïve 🦊"} for i in range(30)]
    data = tmp_path / "x.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = distill(key, teacher=teacher, student=student, data=str(data), out=tmp_path / "run", steps=2, batch_size=4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "student")
    model = transformers.AutoModelForCausalLM.from_pretrained(run / "student")
    assert tokenizer.get_vocab() == fine.get_vocab() and model.config.vocab_size == 280
    assert (run / "report.html").exists()
    with pytest.raises(Mismatch, match="tokenizers"):
        distill("kd", teacher=teacher, student=student, data=str(data), out=tmp_path / "no", steps=1)
