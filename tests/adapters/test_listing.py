"""Teachers behind a server that lists log-probabilities: against the same model asked here, and against what lies."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck.adapters.listing import Listing
from limbeck.adapters.source import open_player
from limbeck.batch import Batch
from limbeck.errors import BadData, BadValue, Mismatch, TeacherUnavailable, UnknownName
from limbeck.parts.token import forward_kl
from limbeck.players import Player, Players
from limbeck.roles import frozen
from tests.adapters import tiny
from tests.adapters.fake import MODEL, Fake, answer, running

TOP = 5


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write("gpt2", tmp_path_factory.mktemp("big") / "big", 1)


@pytest.fixture
def server(big: Path) -> Iterator[Fake]:
    """A server that runs the model, and answers as vLLM does."""
    net: Any = open_player(str(big))

    def reply(body: dict[str, Any]) -> Any:
        ids = body["prompt"]
        if isinstance(ids, str):  # the report shows what a teacher says
            return answer(body, " it is 42")
        with torch.no_grad():
            logp = net.lm(torch.tensor([ids])).logits[0, :, : net.vocab].log_softmax(-1)
        places: list[Any] = [None]
        for t in range(1, len(ids)):
            chosen = {*logp[t - 1].topk(body["prompt_logprobs"]).indices.tolist(), ids[t]}
            texts = {i: net.tokenizer.decode([i]) for i in chosen}
            places.append({str(i): {"logprob": float(logp[t - 1, i]), "decoded_token": texts[i]} for i in chosen})
        return {"choices": [{"text": "", "prompt_logprobs": places}], "usage": {"prompt_tokens": len(ids)}}

    with running() as fake:
        fake.reply = reply
        yield fake


def rows(net: Any) -> Batch:
    texts = ["the cat sat on the mat", "a quick brown fox jumps over"]
    ids = [torch.tensor(net.tokenizer(text)["input_ids"]) for text in texts]
    tokens_BT = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    length_B = torch.tensor([len(row) for row in ids])
    at_T = torch.arange(tokens_BT.shape[1])
    mask_BT = (at_T >= 3) & (at_T < length_B[:, None])
    return Batch({"tokens": tokens_BT, "mask": mask_BT, "length": length_B, "index": torch.tensor([7, 3])})


def listening(server: Fake, student: Any, top: int = TOP) -> Listing:
    net: Any = open_player(f"{server.url}#{MODEL}?top={top}")
    net.listen(student)
    return net  # type: ignore[no-any-return]


def test_a_loss_from_lists_of_all_tokens_is_the_loss_from_the_model(server: Fake, big: Path, tmp_path: Path) -> None:
    student, teacher = open_player(str(tiny.write("gpt2", tmp_path / "small", 2))), open_player(str(big))
    batch = rows(student)
    weight_BT = batch.mask.float()

    def loss(net: Any) -> tuple[Tensor, Tensor]:
        for p in student.parameters():
            p.grad = None
        players = Players(
            {"student": Player("student", frozen(), student), "teacher": Player("teacher", frozen(), net)}
        )
        value = forward_kl()(players, batch.with_(mask=batch.mask), weight_BT)
        value.backward()
        return value.detach(), next(student.parameters()).grad.clone()  # type: ignore[union-attr]

    whole, listed = loss(teacher), loss(listening(server, student, top=student.vocab))
    torch.testing.assert_close(listed[0], whole[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(listed[1], whole[1], rtol=1e-3, atol=1e-5)


def test_lists_are_those_of_the_targets_and_every_row_is_asked_once(server: Fake, big: Path) -> None:
    teacher: Any = open_player(str(big))
    batch, net = rows(teacher), listening(server, teacher)
    found = net(batch, frozenset({"ids", "logp"}))
    logp_BTV = teacher(batch, frozenset({"logits"}))["logits"].log_softmax(-1)
    for b, t in batch.mask.nonzero().tolist():
        kept = found["logp"][b, t] > -torch.inf
        ids = found["ids"][b, t][kept]
        assert {*logp_BTV[b, t - 1].topk(TOP).indices.tolist(), int(batch.tokens[b, t])} == {*ids.tolist()}
        torch.testing.assert_close(found["logp"][b, t][kept], logp_BTV[b, t - 1][ids], rtol=1e-4, atol=1e-5)
    assert not (found["logp"][~batch.mask] > -torch.inf).any()
    net(batch, frozenset({"ids", "logp"}))
    assert len(server.asked) == batch.size == net.asked


def test_a_run_learns_from_lists_and_a_cache_keeps_them(server: Fake, big: Path, tmp_path: Path) -> None:
    from limbeck.api import distill

    small, data = tiny.write("gpt2", tmp_path / "small", 2), tmp_path / "rows.jsonl"
    lines = [{"prompt": f"how much is {i} plus {i % 7} ?", "completion": f" it is {i + i % 7}"} for i in range(24)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    address = f"{server.url}#{MODEL}?top={TOP}"
    how: dict[str, Any] = {"student": str(small), "data": str(data), "steps": 4, "batch_size": 4}
    distill("kd", teacher=address, out=tmp_path / "live", **how)
    assert server.asked
    kept = f"cache:k={TOP}:{tmp_path / 'targets'}:{address}&tokenizer={small}"
    distill("kd", teacher=kept, out=tmp_path / "filled", **how)
    before = len(server.asked)
    distill("kd", teacher=f"cache:{tmp_path / 'targets'}", out=tmp_path / "again", **how)
    assert len(server.asked) == before


def lying(server: Fake, change: Any) -> None:
    honest = server.reply

    def reply(body: dict[str, Any]) -> Any:
        said = honest(body)
        change(said["choices"][0])
        return said

    server.reply = reply


def shifted(choice: Any) -> None:
    choice["prompt_logprobs"] = [
        place and {str(int(i) + 1): e for i, e in place.items()} for place in choice["prompt_logprobs"]
    ]


def renamed(choice: Any) -> None:
    for place in choice["prompt_logprobs"][1:]:
        for entry in place.values():
            entry["decoded_token"] = "other"


def undefined(choice: Any) -> None:
    next(iter(choice["prompt_logprobs"][1].values()))["logprob"] = math.nan


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (shifted, Mismatch, "other ids"),
        (renamed, Mismatch, "reads token .* as 'other'"),
        (undefined, BadData, "log-probabilities that are none"),
        (lambda c: c["prompt_logprobs"].pop(), BadData, "places of a row of"),
        (lambda c: c.pop("prompt_logprobs"), BadValue, "lists no log-probabilities of prompts"),
    ],
)
def test_what_a_server_may_get_wrong(
    server: Fake, big: Path, change: Any, error: type[Exception], message: str
) -> None:
    teacher = open_player(str(big))
    lying(server, change)
    net = listening(server, teacher)
    with pytest.raises(error, match=message):
        net(rows(teacher), frozenset({"ids", "logp"}))


def test_a_server_that_stumbles_is_asked_again_and_one_that_is_dead_is_told(server: Fake, big: Path) -> None:
    teacher = open_player(str(big))
    net = listening(server, teacher)
    net.server.wait, net.server.attempts, server.retry_after = 0.01, 3, "0"
    server.script = [500, "cut"]
    net(rows(teacher), frozenset({"ids", "logp"}))
    server.script = [503] * 20
    with pytest.raises(TeacherUnavailable):
        listening(server, teacher).__class__.forward(
            net, rows(teacher).with_(tokens=rows(teacher).tokens + 1), frozenset({"ids"})
        )


def test_what_lists_cannot_do(server: Fake, big: Path) -> None:
    net = listening(server, open_player(str(big)))
    with pytest.raises(BadValue, match="has no 'head', which needs the model itself"):
        net(rows(open_player(str(big))), frozenset({"head"}))
    with pytest.raises(UnknownName, match="did you mean 'top'"):
        open_player(f"{server.url}#{MODEL}?to=3")
    with pytest.raises(BadValue, match="top must be"):
        open_player(f"{server.url}#{MODEL}?top=none")
