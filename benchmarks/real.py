"""A real language model cut to half its depth and recovered, in three ways, at equal steps and rows.

    python -m benchmarks.real --teacher ./smollm2 --rows instructions.json --text wikitext.txt --out runs/real

The teacher is a directory of transformers with a chat template, the rows are instructions with answers (JSON or JSONL),
the text is running text. The student has the teacher's first and last layers; it learns from labels alone (sft), from a
cache of the teacher's 64 likeliest tokens (kd), and half of the time on its own answers (gkd). What is measured before
and after is printed as a table, and kept in OUT/table.md; a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch

from limbeck.adapters.data import open_data
from limbeck.adapters.source import open_player, read_for
from limbeck.api import distill
from limbeck.batch import Batch
from limbeck.parts.rollout import sample
from limbeck.players import Player, Players
from limbeck.probes.language import token_agreement, token_kl
from limbeck.probes.speculative import as_draft
from limbeck.rng import Rng
from limbeck.roles import frozen

HELD_OUT = 100
WINDOW, WINDOWS = 512, 8
NEW = 64


def split(rows: Path, out: Path) -> tuple[Path, Path]:
    """Rows to learn from and rows to be examined on, the last hundred."""
    text = rows.read_text()
    found = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
    out.mkdir(parents=True, exist_ok=True)
    places = out / "train.jsonl", out / "test.jsonl"
    for place, part in zip(places, (found[:-HELD_OUT], found[-HELD_OUT:]), strict=True):
        place.write_text("".join(json.dumps(row) + "\n" for row in part))
    return places


@torch.no_grad()
def perplexity(net: Any, text: str) -> float:
    """Of running text, in windows that know nothing of each other."""
    ids = net.tokenizer(text[: 8 * WINDOW * WINDOWS], verbose=False)["input_ids"][: WINDOW * WINDOWS]
    total, count = 0.0, 0
    for row in torch.tensor(ids[: len(ids) // WINDOW * WINDOW]).view(-1, 1, WINDOW):
        logits = net(Batch({"tokens": row}), frozenset({"logits"}))["logits"][0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum"))
        count += WINDOW - 1
    return math.exp(total / count)


def examined(net: Any, teacher: Any, test: Path, text: str) -> dict[str, float]:
    """What is measured of one model."""
    who = {name: Player(name, frozen(), n) for name, n in (("student", net), ("teacher", teacher))}
    players, data = Players(who), {"test": read_for(net, open_data(str(test)))}
    rows: dict[str, Any] = dict(data["test"].take(torch.arange(32)))
    prompt = rows["prompt"]
    asked = rows["tokens"][:, : int(prompt.max())]
    start = time.perf_counter()
    said, length = sample(who["student"], asked, prompt, Rng(("real",), torch.arange(32)), max_new_tokens=NEW)
    seconds = time.perf_counter() - start
    last = said[torch.arange(32), length - 1]
    new = (length - prompt).float()
    return {
        "perplexity": perplexity(net, text),
        "KL": token_kl(limit=64)(players, data),
        "agreement": token_agreement(limit=64)(players, data),
        "answer": float(new.mean()),
        "ended": float(torch.isin(last, torch.tensor(net.eos)).float().mean()),
        "tokens/s": float(new.sum()) / seconds,
        "MB": sum(p.numel() * p.element_size() for p in {*net.parameters()}) / 1e6,
    }


def drafting(net: Any, teacher: Any, test: Path, rows: int = 8) -> dict[str, float]:
    """What a model is worth as the draft of its teacher, with 4 tokens at a time and all rows at once."""
    asked: dict[str, Any] = dict(read_for(net, open_data(str(test))).take(torch.arange(rows)))
    who = Player("teacher", frozen(), teacher), Player("student", frozen(), net)
    return as_draft(*who, asked["tokens"], asked["prompt"], Rng(("draft",), torch.arange(rows)), max_new_tokens=NEW)


def table(found: dict[str, dict[str, float]]) -> str:
    """The figures as Markdown."""
    names = list(found["cut"])
    lines = ["| model | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for who, row in found.items():
        lines.append(f"| {who} | " + " | ".join(f"{row[n]:.3g}" if n in row else "" for n in names) + " |")
    return "\n".join(lines)


def main() -> None:
    """Cut, recover, examine."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("teacher", "rows", "text", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=15)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=3e-4)
    options = parser.parse_args()
    train, test = split(options.rows, options.out)
    cut = f"from-teacher:layers={options.layers}"
    cached = f"cache:k=64:{options.out / 'targets'}:{options.teacher}"
    arms: dict[str, tuple[str, str, dict[str, Any]]] = {
        "sft": ("sft", str(options.teacher), {}),
        "kd, cached": ("kd", cached, {}),
        "gkd": ("gkd", str(options.teacher), {"distill.student.batch.share": 0.5, "distill.student.loss.beta": 0.5}),
    }
    for name, (key, source, chosen) in arms.items():
        place = options.out / name.replace(", ", "-")
        distill(
            key, teacher=source, student=cut, data=str(train), eval=str(test), out=place, steps=options.steps,
            batch_size=options.batch_size, set={"student.optimizer.lr.start": options.lr, **chosen},
            resume=place.exists(),
        )  # fmt: skip
    teacher, text = open_player(options.teacher), options.text.read_text()
    nets = {"teacher": teacher, "cut": open_player(cut, teacher=teacher)}
    nets |= {name: open_player(options.out / name.replace(", ", "-") / "student") for name in arms}
    found = {}
    for name, net in nets.items():
        found[name] = examined(net.eval(), teacher, test, text)
        found[name] |= {} if name == "teacher" else drafting(net, teacher, test)
        print(name, found[name], flush=True)
    (options.out / "table.md").write_text(table(found) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
