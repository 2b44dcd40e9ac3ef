"""Encoder-decoders: every answer against the bare transformers model, what they say against its `generate`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from limbeck import distill
from limbeck.adapters.data import open_data
from limbeck.adapters.seq2seq import Seq2Seq
from limbeck.adapters.source import open_player, read_for
from limbeck.batch import Batch
from limbeck.errors import BadData, BadValue, Mismatch, UnknownName
from limbeck.evaluate import Examination
from limbeck.parts.context import told
from limbeck.parts.mixture_sampling import mixed_rollout
from limbeck.parts.rollout import rollout, sample
from limbeck.parts.transcript import requested
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen
from tests.adapters import tiny

TEXTS = ["the cat sat on the mat", "a fox", "how much is 12 plus 30 ?"]
KINDS = ("t5-ended", "bart")
TOKENS = 12


def lively(kind: str, directory: Path, seed: int = 0, **settings: Any) -> Path:
    """A random model that says something else for every source, and ends now and then."""
    tiny.write(kind, directory, seed)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(directory)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_((6.0 if kind == "bart" else 3.0) if p.ndim == 2 else torch.randn_like(p))
        if kind == "bart":
            model.final_logits_bias.normal_()
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(directory)
    return directory


def rows_of(net: Any, path: Path, texts: list[str] = TEXTS) -> Batch:
    lines = [{"source": a, "target": b} for a, b in zip(texts, reversed(texts), strict=True)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Batch({**read_for(net, open_data(path)).take(torch.arange(len(texts)))})


def said_by(net: Any, batch: Batch, **how: Any) -> list[list[int]]:
    tokens, length = sample(
        Player("student", frozen(), net), batch["tokens"], batch["prompt"], batch.rng, given=batch,
        **{"max_new_tokens": TOKENS, "temperature": 0.0} | how,
    )  # fmt: skip
    return [row[:n] for row, n in zip(tokens.tolist(), length.tolist(), strict=True)]


@pytest.mark.parametrize("kind", ["t5", *KINDS])
def test_an_encoder_decoder_answers_as_the_bare_model_does(kind: str, tmp_path: Path) -> None:
    net: Any = open_player(tiny.write(kind, tmp_path)).eval()
    bare = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    batch, vocab = rows_of(net, tmp_path / "rows.jsonl"), len(net.tokenizer)
    assert isinstance(net, Seq2Seq) and batch["tokens"][:, 0].eq(net.start).all() and net.vocab == vocab
    for i in range(3):  # the bare model on one row at a time, so that there is no padding
        n, m = int(batch["source_length"][i]), int(batch["length"][i])
        with torch.no_grad():
            out = bare(input_ids=batch["source"][i : i + 1, :n], decoder_input_ids=batch["tokens"][i : i + 1, :m])
            answers = net(batch, frozenset({"logits", "head", "hidden", "encoded"}))
        for made in (answers["logits"], answers["head"].logits()):
            torch.testing.assert_close(made[i, :m], out.logits[0, :, :vocab], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(answers["encoded"][i, :n], out.encoder_last_hidden_state[0], atol=1e-4, rtol=1e-4)
    assert net(batch, frozenset({"features"})) == {}


@pytest.mark.parametrize("kind", ["t5", *KINDS])
def test_the_targets_are_those_of_the_librarys_own_loss(kind: str, tmp_path: Path) -> None:
    net: Any = open_player(tiny.write(kind, tmp_path)).eval()
    bare = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    row = rows_of(net, tmp_path / "rows.jsonl", TEXTS[:1])
    targets = row["tokens"][row["mask"]]
    assert targets.tolist() == net.tokenizer(TEXTS[0])["input_ids"]
    with torch.no_grad():
        head = net(row, frozenset({"head"}))["head"].predicting(row["mask"])
        logits = bare(input_ids=row["source"], labels=targets[None]).logits[0, :, : net.vocab]
    torch.testing.assert_close(F.cross_entropy(head.logits(), targets), F.cross_entropy(logits, targets))


def test_no_logits_are_made_where_nobody_asks_for_them(tmp_path: Path) -> None:
    net: Any = open_player(tiny.write("bart", tmp_path)).eval()
    made: list[int] = []
    net.model.lm_head.register_forward_hook(lambda module, given, out: made.append(out.numel()))
    net(rows_of(net, tmp_path / "rows.jsonl"), frozenset({"head", "encoded"}))
    assert made == [0] and not net.model.lm_head._forward_pre_hooks


def test_an_encoder_decoder_without_a_start_or_rows_of_its_matrix_is_refused() -> None:
    model = transformers.T5ForConditionalGeneration(tiny.config("t5"))
    with pytest.raises(Mismatch, match="the tokenizer has 500 tokens, the model 400"):
        Seq2Seq(model, range(500))
    model.config.decoder_start_token_id = None
    with pytest.raises(BadValue, match="needs a linear output layer and a decoder_start_token_id"):
        Seq2Seq(model)


# -- what they say ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_greedy_tokens_are_those_of_generate(kind: str, seed: int, tmp_path: Path) -> None:
    net: Any = open_player(lively(kind, tmp_path, seed)).eval()
    bare = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    batch = rows_of(net, tmp_path / "rows.jsonl")
    said = said_by(net, batch)
    for row, source, n in zip(said, batch["source"], batch["source_length"].tolist(), strict=True):
        alone = bare.generate(source[None, :n], do_sample=False, num_beams=1, max_new_tokens=TOKENS,
                              suppress_tokens=[*range(net.vocab, bare.config.vocab_size)] or None)  # fmt: skip
        assert row == alone[0].tolist()
    assert len({tuple(row) for row in said}) > 1, "a model that says the same to all shows nothing"


def test_a_first_word_that_the_model_is_forced_to_say_is_part_of_the_prompt(tmp_path: Path) -> None:
    net: Any = open_player(lively("bart", tmp_path, 1, forced_bos_token_id=0)).eval()
    bare = transformers.BartForConditionalGeneration.from_pretrained(tmp_path).eval()
    batch = rows_of(net, tmp_path / "rows.jsonl")
    assert net.begin == (2, 0) and batch["prompt"].tolist() == [2] * 3
    target = net.tokenizer(TEXTS[-1])["input_ids"]
    assert batch["tokens"][0, : len(target) + 1].tolist() == [2, *target], "the forced token is not there twice"
    assert batch["tokens"][0][batch["mask"][0]].tolist() == target[1:]
    for row, source, n in zip(said_by(net, batch), batch["source"], batch["source_length"].tolist(), strict=True):
        alone = bare.generate(source[None, :n], do_sample=False, num_beams=1, max_new_tokens=TOKENS + 1)
        assert row == alone[0].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_depend_on_padding_or_neighbours_and_the_encoder_reads_a_source_once(
    kind: str, tmp_path: Path
) -> None:
    net: Any = open_player(lively(kind, tmp_path, 3)).eval()
    batch = rows_of(net, tmp_path / "rows.jsonl", [*TEXTS, TEXTS[0], TEXTS[1], TEXTS[0]])
    read: list[Tensor] = []
    net.model.get_encoder().register_forward_hook(lambda module, given, out: read.append(out[0]))
    whole = said_by(net, batch, temperature=1.0)
    assert len(read) == 1 and len(read[0]) == 3
    assert len({tuple(row) for row in whole}) > 3, "equal sources are answered by streams of their own"
    for b in range(batch.size):
        assert said_by(net, batch.rows(slice(b, b + 1)), temperature=1.0) == whole[b : b + 1]
    wide = batch.with_(source=F.pad(batch["source"], (0, 5), value=7))
    assert said_by(net, wide, temperature=1.0) == whole


def test_rollouts_are_the_students_answers_to_the_same_sources(tmp_path: Path) -> None:
    net: Any = open_player(lively("t5-ended", tmp_path, 3)).eval()
    batch = rows_of(net, tmp_path / "rows.jsonl")
    made = rollout(max_new_tokens=5, temperature=0.0)(Players({"student": Player("student", frozen(), net)}), batch)
    assert torch.equal(made["source"], batch["source"]) and made["mask"].sum(1).max() <= 5
    logits = net(made, frozenset({"logits"}))["logits"]
    greedy = logits[:, :-1].argmax(-1)
    assert torch.equal(greedy[made["mask"][:, 1:]], made["tokens"][made["mask"]])


def test_student_and_teacher_can_answer_a_source_together(tmp_path: Path) -> None:
    nets = [open_player(lively("bart", tmp_path / str(seed), seed)).eval() for seed in (0, 1)]
    batch = rows_of(nets[0], tmp_path / "rows.jsonl")
    players = Players(
        {name: Player(name, frozen(), net) for name, net in zip(("student", "teacher"), nets, strict=True)}
    )
    made = mixed_rollout(share=1.0, max_new_tokens=6)(players, batch)
    alone = said_by(nets[1], replace(batch, rng=batch.rng.fold("rollout")), temperature=1.0, max_new_tokens=6)
    assert [row[:n] for row, n in zip(made["tokens"].tolist(), made["length"].tolist(), strict=True)] == alone
    torch.testing.assert_close(made["logp_old"], made["logp_teacher"])


# -- what they refuse -------------------------------------------------------------------------------------------------


def test_what_is_put_before_an_answer_is_refused(tmp_path: Path) -> None:
    net: Any = open_player(tiny.write("t5-ended", tmp_path)).eval()
    batch, player = rows_of(net, tmp_path / "rows.jsonl"), Player("student", frozen(), net)
    players, apart = Players({"student": player}), "have their question in `source`; .* kd, seqkd, gkd"
    shown = told(column="hint")(players, batch.with_(hint=["look"] * 3))
    with pytest.raises(BadData, match=apart):
        player(shown, "head")
    with pytest.raises(BadData, match=apart):
        rollout(max_new_tokens=4)(players, requested()(players, batch))


def test_a_rollout_without_a_source_names_it(tmp_path: Path) -> None:
    net: Any = open_player(tiny.write("t5-ended", tmp_path)).eval()
    with pytest.raises(UnknownName, match="'source'"):
        sample(
            Player("student", frozen(), net), torch.zeros(1, 1).long(), torch.ones(1).long(), Rng((), torch.arange(1))
        )


# -- from end to end --------------------------------------------------------------------------------------------------

BARE = """
import json, sys, torch, transformers
for place in sys.argv[4:]:
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(place).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    coded = [tokenizer([text], return_tensors="pt") for text in sys.argv[1:4]]
    said = [model.generate(**c, do_sample=False, num_beams=1, max_new_tokens=12)[0].tolist() for c in coded]
    print(json.dumps(said))
assert "limbeck" not in sys.modules
"""


def test_students_learn_and_open_in_bare_transformers(tmp_path: Path) -> None:
    pairs = [{"source": f"how much is {i} plus {i % 7} ?", "target": TEXTS[i % 3]} for i in range(24)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    runs = []
    for key, kind in (("gkd", "bart"), ("kd", "t5-ended"), ("seqkd", "t5-ended")):
        big, small = (lively(kind, tmp_path / f"{kind}-{seed}", seed) for seed in (0, 1))
        out = distill(
            key, teacher=str(big), student=str(small), data=str(tmp_path / "pairs.jsonl"), out=tmp_path / key, steps=3,
            batch_size=4, set={"student.optimizer.lr": 1e-2},
        )  # fmt: skip
        after, before = (transformers.AutoModelForSeq2SeqLM.from_pretrained(p) for p in (out / "student", small))
        assert any(not torch.equal(a, b) for a, b in zip(after.parameters(), before.parameters(), strict=True))
        exam = Examination.load(out)
        assert set(exam.outputs) == {"teacher", "before", "after"} and exam.inputs[0].startswith("how much is")
        runs.append(out / "student")
    command = [sys.executable, "-c", BARE, *TEXTS, *map(str, runs)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    for place, said in zip(runs, found.stdout.splitlines()[-len(runs) :], strict=True):
        net = open_player(place).eval()
        assert said_by(net, rows_of(net, tmp_path / "rows.jsonl")) == json.loads(said)
