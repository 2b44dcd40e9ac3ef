"""Teacher and student side by side: what each answers to the same question."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from limbeck.adapters.causal_lm import CausalLM
from limbeck.adapters.chat import read_row, request_of, tokenise
from limbeck.adapters.data import Records
from limbeck.adapters.encoder import Encoder
from limbeck.adapters.recalled import only_remembers
from limbeck.adapters.remote import Remote
from limbeck.adapters.sentence import Sentence, encode
from limbeck.adapters.seq2seq import Seq2Seq
from limbeck.adapters.source import open_player, read_for
from limbeck.adapters.vision_language import VisionLanguage
from limbeck.errors import BadData
from limbeck.parts.rollout import sample
from limbeck.players import Player
from limbeck.rng import Rng
from limbeck.roles import frozen

__all__ = ["side_by_side"]

WORDS = 128  # tokens of an answer, at most


def side_by_side(run: Path) -> tuple[str, Callable[[str], dict[str, str]]]:
    """Open what a run left, ready to be asked.

    Args:
        run: a run directory whose student was saved.

    Returns:
        What to type, in words; and a function from a question to each model's answer.

    Raises:
        BadData: no run there, or a student that does not answer text.
    """
    path = Path(run) / "run.json"
    if not path.exists():
        raise BadData(f"{run} is not a run directory: it has no run.json")
    given = json.loads(path.read_text()).get("players", {})
    if not (Path(run) / "student").is_dir():
        raise BadData(f"{run} has no student yet; finish it with --resume")
    nets = {"student": open_player(Path(run) / "student")}
    if "teacher" in given:
        nets = {"teacher": open_player(given["teacher"], role="teacher")} | nets
        if isinstance(nets["teacher"], Remote):
            nets["teacher"].listen(nets["student"])
    nets = {who: net.eval() for who, net in nets.items() if not only_remembers(net)}
    ask = next((work for kind, work in ASK.items() if isinstance(nets["student"], kind)), None)
    if ask is None:
        raise BadData(f"{run}: a student of kind {type(nets['student']).__name__} does not answer text")
    hint, answer = ask
    return hint, lambda text: {who: answer(net, text) for who, net in nets.items()}


@torch.no_grad()
def _speak(net: Any, text: str) -> str:
    row = read_row({"prompt": text}, bool(net.tokenizer.chat_template))
    ids, _, _ = tokenise(net.tokenizer, row)
    tokens, length = torch.tensor([ids]), torch.tensor([len(ids)])
    room = WORDS if net.context is None else min(WORDS, net.context - len(ids))
    said, ends = sample(Player("it", frozen(), net), tokens, length, Rng((), torch.arange(1)), temperature=0.0,
                        requests=[request_of(row, len(ids))], max_new_tokens=room)  # fmt: skip
    return str(net.tokenizer.decode(said[0, len(ids) : int(ends[0])], skip_special_tokens=True)).strip()


@torch.no_grad()
def _look(net: Any, text: str) -> str:
    import datasets

    path, _, question = text.rpartition("|")
    row = {"prompt": question.strip()} | ({"image": path.strip()} if path.strip() else {})
    batch: Any = read_for(net, Records(datasets.Dataset.from_list([row]), "the question")).take(torch.tensor([0]))
    n = int(batch["prompt"][0])
    room = WORDS if net.context is None else min(WORDS, net.context - n)
    said, ends = sample(Player("it", frozen(), net), batch["tokens"], batch["prompt"], Rng((), torch.arange(1)),
                        given=batch, temperature=0.0, max_new_tokens=room)  # fmt: skip
    return str(net.tokenizer.decode(said[0, n : int(ends[0])], skip_special_tokens=True)).strip()


@torch.no_grad()
def _translate(net: Any, text: str) -> str:
    ids, begin = net.tokenizer([text], return_tensors="pt")["input_ids"], torch.tensor([net.begin])
    source = {"source": ids, "source_length": torch.tensor([ids.shape[1]])}
    room = WORDS if net.context is None else min(WORDS, net.context - begin.shape[1])
    said, ends = sample(Player("it", frozen(), net), begin, torch.tensor([begin.shape[1]]), Rng((), torch.arange(1)),
                        given=source, temperature=0.0, max_new_tokens=room)  # fmt: skip
    return str(net.tokenizer.decode(said[0, : int(ends[0])], skip_special_tokens=True)).strip()


@torch.no_grad()
def _compare(net: Any, text: str) -> str:
    first, _, second = text.partition("|")
    a, b = encode(net, [first.strip(), second.strip()])
    return f"cosine {F.cosine_similarity(a, b, dim=0):.3f}"


@torch.no_grad()
def _classify(net: Any, text: str) -> str:
    coded = net.tokenizer([text], return_tensors="pt", truncation=True, max_length=net.context)
    batch = {"tokens": coded["input_ids"], "length": coded["attention_mask"].sum(1)}
    p = net(batch, frozenset({"logits"}))["logits"][0].softmax(-1)
    named = {n: name for name, n in net.classes.items()}
    return f"{named.get(int(p.argmax()), int(p.argmax()))} ({float(p.max()):.0%})"


ASK: dict[type[nn.Module], tuple[str, Callable[[Any, str], str]]] = {
    VisionLanguage: ("a prompt, or the path of a picture, | and a prompt", _look),
    CausalLM: ("a prompt", _speak),
    Seq2Seq: ("a source text", _translate),
    Sentence: ("two sentences with | between them", _compare),
    Encoder: ("a text to classify", _classify),
}


def lines(ask: Callable[[str], dict[str, str]], texts: Iterator[str]) -> Iterator[str]:
    """Answer texts one by one, a line a model."""
    for text in texts:
        if text.strip():
            yield from (f"{who:>8}: {said}" for who, said in ask(text.strip()).items())
