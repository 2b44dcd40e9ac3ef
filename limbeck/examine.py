"""Examinations: teacher, student before and student after answer the same held-out rows.

What is measured follows from what the student is: a language model, a classifier, an embedder, or a net that is only
asked how far it is from its teacher. The rows have not been seen in training.

Shapes: B rows, T tokens, V vocabulary, D features, N examined rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.adapters.causal_lm import CausalLM
from limbeck.adapters.remote import Remote
from limbeck.adapters.sentence import Sentence
from limbeck.adapters.seq2seq import Seq2Seq
from limbeck.batch import Batch
from limbeck.beds import Bed
from limbeck.data import Source, batch_of
from limbeck.errors import BadData, BadValue, Mismatch
from limbeck.evaluate import Cost, Examination, Quality, buckets, compare, compare_statistic, figures, measure_cost
from limbeck.parts.rollout import rollout, sample
from limbeck.players import Player, Players
from limbeck.probes.speculative import as_draft
from limbeck.roles import frozen

__all__ = ["examine", "examine_on_bed", "examine_pairs"]

ROWS = 400  # rows of an examination, at most
SAID = 64  # tokens of an answer, at most
CHUNK = 32
LOGITS = 2**23  # logits of one model that are held at a time
KL, AGREES = "KL from the teacher", "top-1 agreement with the teacher"
KEPT, DRAFTED = "tokens that the teacher would keep of a draft", 8  # and rows that are drafted
SHARES = (AGREES, KEPT)


def examine(nets: Mapping[str, Any], source: Source, disk: Mapping[str, Path] | None = None) -> Examination:
    """Examine models on held-out rows.

    Args:
        nets: who ("teacher", "before", "after") to net, all on one device and in evaluation mode.
        source: the rows, as the student reads them; the first 400 are examined.
        disk: who to where it is saved.

    Returns:
        What was measured; the measure that decides comes first.

    Raises:
        BadData: no rows.
    """
    if not len(source):
        raise BadData("there are no held-out rows to examine the student on")
    chunks = list(torch.arange(min(len(source), ROWS)).split(CHUNK))
    device = next((p.device for net in nets.values() for p in net.parameters()), torch.device("cpu"))
    batches = [batch_of(source, rows).to(device) for rows in chunks]
    kind = next(work for fits, work in KINDS if fits(nets["after"], batches[0]))
    local = _local(nets)
    with torch.no_grad():
        measured = kind(nets if kind is _language else local, batches)
        costs = {who: _cost(net, batches[0], (disk or {}).get(who), measured["want"]) for who, net in local.items()}
    measured.pop("want")
    return Examination(**measured, costs=costs)


def _local(nets: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are on this machine: of a model behind a server only the text is known."""
    return {who: net for who, net in nets.items() if not isinstance(net, Remote)}


def _cost(net: nn.Module, batch: Batch, path: Path | None, want: str) -> Cost:
    return measure_cost(net, lambda: net(batch, frozenset({want})), batch.size, path=path)


def _answers(nets: Mapping[str, Any], batches: Sequence[Batch], want: str) -> dict[str, Tensor]:
    """(N, ...) what each model answers."""
    return {who: torch.cat([net(b, frozenset({want}))[want] for b in batches]) for who, net in nets.items()}


# -- language models --------------------------------------------------------------------------------------------------


def _language(nets: Mapping[str, Any], batches: Sequence[Batch]) -> dict[str, Any]:
    """Loss on the reference, distance to the teacher, and what each says when it is asked."""
    notes = []
    if len(_local(nets)) < len(nets):
        notes.append("the teacher is behind a server: only its text is known, and neither its speed nor its size")
    if not any(bool(batch["mask"].any()) for batch in batches):
        notes.append("the rows hold no answers: the teacher's own greedy answers are the reference")
        batches = [batch for batch in (_answered(nets, batch) for batch in batches) if batch.size]
        if not batches:
            raise BadData("the teacher answered none of the held-out prompts: give --eval with answers")
    rows = [_token_figures(_local(nets), batch) for batch in batches]
    per = {name: {w: np.concatenate([r[name][w] for r in rows]) for w in rows[0][name]} for name in rows[0]}
    texts = _texts(nets, batches)
    if "answer" in batches[0]:
        texts["expected"] = [answer for batch in batches for answer in batch["answer"]]
    exact = {
        w: [float(_answers_with(a, b)) for a, b in zip(said, texts["expected"], strict=True)]
        for w, said in texts["said"].items()
    }
    decides = any(sum(hits) for hits in exact.values())
    qualities = [compare("right answers (greedy)", exact)] if decides else []
    qualities += [*_token_qualities(per), *_drafts(_local(nets), batches[0])]
    return {
        "qualities": qualities, "want": "logits", "notes": notes,
        "score": "right answer" if decides else "loss on the reference (nats a token)",
        "higher_is_better": decides, "scores": exact if decides else per["loss on the reference"],
        "inputs": texts["prompts"], "expected": texts["expected"], "outputs": texts["said"],
        "slices": {"length in tokens": buckets(torch.cat([b.length for b in batches]).tolist())} | _named(batches),
    }  # fmt: skip


def _drafts(nets: Mapping[str, Any], batch: Batch) -> list[Quality]:
    """How many tokens the teacher says a call, and how fast, with a student as its draft; nothing where it cannot."""
    rows = slice(0, DRAFTED)
    asked, length_B, found = batch.tokens[rows], batch.prompt[rows], dict[str, dict[str, float]]()
    if not (length_B > 0).all() or "teacher" not in nets or any(getattr(net, "reads", ()) for net in nets.values()):
        return []
    who = {name: Player(name, frozen(), net) for name, net in nets.items()}
    for name in [name for name in nets if name != "teacher"]:
        try:
            new = min(_room(net, batch) for net in (nets["teacher"], nets[name]))
            found[name] = as_draft(who["teacher"], who[name], asked, length_B, batch.rng.at(rows), max_new_tokens=new)
        except (BadData, BadValue, Mismatch):  # two vocabularies, or a net that cannot forget: no draft
            return []
    return [
        figures(f"{of} of the teacher with it as a draft", {w: f[key] for w, f in found.items()})
        for of, key in (("tokens a call", "tokens/call"), ("speed-up", "speed-up"))
    ]


def _answered(nets: Mapping[str, Any], batch: Batch) -> Batch:
    """Prompts with the teacher's own greedy answers as targets."""
    if "teacher" not in nets:
        raise BadData("the held-out rows hold prompts only, and there is no teacher to answer them: give --eval")
    teacher = nets["teacher"]
    alone = Players({"student": Player("teacher", frozen(), teacher)})
    return rollout.fn(alone, batch, temperature=0.0, max_new_tokens=_room(teacher, batch))  # type: ignore[no-any-return]


def _said(net: Any, who: str, batch: Batch) -> tuple[Tensor, Tensor]:
    """What a model says greedily to the prompts of a batch: tokens with the prompts, and their lengths."""
    width = int(batch.prompt.max())
    asked = batch.tokens[:, :width] * (torch.arange(width, device=batch.device) < batch.prompt[:, None])
    player, requests = Player(who, frozen(), net), batch.get("request")
    return sample(
        player, asked, batch.prompt, batch.rng, requests=requests, given=batch, temperature=0.0,
        max_new_tokens=_room(net, batch),
    )  # fmt: skip


def _room(net: Any, batch: Batch) -> int:
    """Tokens that an answer to any prompt of a batch may have."""
    return SAID if net.context is None else max(1, min(SAID, int(net.context) - int(batch.prompt.max())))


def _named(batches: Sequence[Batch]) -> dict[str, list[str]]:
    """The columns of the data by which quality is sliced; the source of an encoder-decoder is none."""
    names = [name for name in ("category", "source") if isinstance(batches[0].get(name), list)]
    return {name: [v for b in batches for v in b[name]] for name in names}


def _token_figures(nets: Mapping[str, Any], batch: Batch) -> dict[str, dict[str, Any]]:
    """Means over each row's targets, row by row; the logits are made a few tokens at a time."""
    mask_BT = batch["mask"]
    heads = {who: net(batch, frozenset({"head"}))["head"].predicting(mask_BT) for who, net in nets.items()}
    size = min(head.size for head in heads.values())
    targets, pieces = batch["tokens"][mask_BT], []
    for rows in torch.arange(len(targets)).split(max(1, LOGITS // size)):
        here = slice(int(rows[0]), int(rows[-1]) + 1)
        logp = {w: F.log_softmax(head.first(size).logits(here), -1) for w, head in heads.items()}
        pieces.append(_at_tokens(logp, targets[here]))
    row_of = mask_BT.nonzero()[:, 0]
    count = mask_BT.sum(1).clamp(min=1)

    def mean(values_N: Tensor) -> Any:
        zero = torch.zeros(batch.size, dtype=torch.float64, device=values_N.device)
        return (zero.index_add_(0, row_of, values_N.double()) / count).cpu().numpy()

    return {name: {w: mean(torch.cat([p[name][w] for p in pieces])) for w in pieces[0][name]} for name in pieces[0]}


def _at_tokens(logp: Mapping[str, Tensor], targets: Tensor) -> dict[str, dict[str, Tensor]]:
    """What is measured at each target token."""
    out = {"loss on the reference": {w: -p.gather(1, targets[:, None])[:, 0] for w, p in logp.items()}}
    if "teacher" in logp:
        teacher = logp["teacher"]
        out[KL] = {w: (teacher.exp() * (teacher - p)).sum(1) for w, p in logp.items() if w != "teacher"}
        top = teacher.argmax(1)
        out[AGREES] = {w: (p.argmax(1) == top).double() for w, p in logp.items() if w != "teacher"}
        out[KEPT] = {w: torch.minimum(teacher, p).exp().sum(1) for w, p in logp.items() if w != "teacher"}
    return out


def _texts(nets: Mapping[str, Any], batches: Sequence[Batch]) -> dict[str, Any]:
    """Prompts, reference answers and what each model says, as text."""
    prompts, expected = [], []
    said: dict[str, list[str]] = {who: [] for who in nets}
    tokenizer = nets["after"].tokenizer
    for batch in batches:
        question = (batch.source, batch.source_length) if "source_length" in batch else (batch.tokens, batch.prompt)
        prompts += _decoded(tokenizer, question[0], torch.zeros_like(batch.prompt), question[1])
        expected += _decoded(tokenizer, batch.tokens, batch.prompt, batch.length)
        for who, net in nets.items():
            tokens, ends = _said(net, who, batch)
            said[who] += _decoded(tokenizer, tokens, batch.prompt, ends)
    return {"prompts": prompts, "expected": expected, "said": said}


def _answers_with(said: str, expected: str) -> bool:
    """Whether a text ends in the expected answer, as a word of its own."""
    return re.search(rf"(?<!\w){re.escape(expected.strip())}\W*$", said.strip()) is not None


def _decoded(tokenizer: Any, tokens: Tensor, start: Tensor, stop: Tensor) -> list[str]:
    spans = [row[a:b].tolist() for row, a, b in zip(tokens, start.tolist(), stop.tolist(), strict=True)]
    if tokenizer is None:
        return [" ".join(map(str, ids)) for ids in spans]
    return [text.strip() for text in tokenizer.batch_decode(spans, skip_special_tokens=True)]


# -- classifiers, embedders, everything else --------------------------------------------------------------------------


def _classifier(nets: Mapping[str, Any], batches: Sequence[Batch]) -> dict[str, Any]:
    """Right or wrong, how sure, and agreement with the teacher."""
    y = torch.cat([b["y"] for b in batches])
    logp = {who: F.log_softmax(z.double(), -1) for who, z in _answers(nets, batches, "logits").items()}
    named = {n: name for name, n in getattr(nets["after"], "classes", {}).items()}
    says = {who: p.argmax(-1) for who, p in logp.items()}
    right = {who: (s == y).double().tolist() for who, s in says.items()}
    loss = {who: (-p.gather(1, y[:, None])[:, 0]).tolist() for who, p in logp.items()}
    qualities = [compare("accuracy", right), compare("loss (nats)", loss, higher_is_better=False)]
    if "teacher" in says:
        agree = {w: (s == says["teacher"]).double().tolist() for w, s in says.items() if w != "teacher"}
        qualities.append(compare("agreement with the teacher", agree))
    labels = [named.get(int(c), str(int(c))) for c in y]
    return {
        "qualities": qualities, "want": "logits", "score": "right", "scores": right,
        "inputs": _inputs(nets["after"], batches), "expected": labels, "slices": {"class": labels},
        "outputs": {w: [named.get(int(c), str(int(c))) for c in s] for w, s in says.items()},
        "confidences": {w: p.exp().amax(-1).clamp(max=1.0).tolist() for w, p in logp.items()},
    }  # fmt: skip


def _inputs(net: nn.Module, batches: Sequence[Batch]) -> list[str]:
    tokenizer = getattr(net, "tokenizer", None)
    if tokenizer is None or "tokens" not in batches[0]:
        return [f"row {i}" for b in batches for i in b["index"].tolist()]
    return [t for b in batches for t in _decoded(tokenizer, b.tokens, torch.zeros_like(b.length), b.length)]


def _distance(nets: Mapping[str, Any], batches: Sequence[Batch]) -> dict[str, Any]:
    """How far each student is from the teacher, where nothing else is known of the rows."""
    want = "embedding" if isinstance(nets["after"], Sentence) else "logits"
    answers = _answers(nets, batches, want)
    if "teacher" not in answers or len({a.shape for a in answers.values()}) > 1:
        raise BadData("these rows have no labels and the student no teacher of its shape: give --eval with labels")
    near = {
        who: F.cosine_similarity(a.flatten(1), answers["teacher"].flatten(1)).double().tolist()
        for who, a in answers.items() if who != "teacher"
    }  # fmt: skip
    name = "cosine similarity to the teacher"
    return {
        "qualities": [compare(name, near)],
        "want": want,
        "score": name,
        "scores": near,
        "inputs": _inputs(nets["after"], batches),
    }


def _token_qualities(per: Mapping[str, Any]) -> list[Quality]:
    return [
        compare(name if name in SHARES else f"{name} (nats a token)", scores, higher_is_better=name in SHARES)
        for name, scores in per.items()
    ]


KINDS: tuple[tuple[Callable[[nn.Module, Batch], bool], Callable[..., dict[str, Any]]], ...] = (
    (lambda net, batch: isinstance(net, CausalLM | Seq2Seq), _language),
    (lambda net, batch: "y" in batch and not batch["y"].is_floating_point(), _classifier),
    (lambda net, batch: True, _distance),
)


def examine_pairs(
    nets: Mapping[str, Sentence],
    pairs: Sequence[tuple[str, str]],
    ratings: Sequence[float],
    disk: Mapping[str, Path] | None = None,
) -> Examination:
    """Examine embedders on pairs of sentences that people have rated, by Spearman's rank correlation.

    rho = Pearson correlation of the ranks of cos(e(a), e(b)) and of the ratings.

    Args:
        nets: who to embedder.
        pairs: the sentences.
        ratings: how similar people found them.
        disk: who to where it is saved.

    Returns:
        The correlation with its interval; the score of a row is how far its similarity is from its rating in ranks.
    """
    from limbeck.adapters.sentence import encode

    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    similar = {
        w: F.cosine_similarity(encode(n, first), encode(n, second)).double().cpu().numpy() for w, n in nets.items()
    }
    rated = np.asarray(ratings, dtype=np.float64)
    statistics = {who: _spearman(s, rated) for who, s in similar.items()}
    quality = compare_statistic("Spearman correlation with human ratings", statistics, len(rated))
    share = rankdata(rated) / len(rated)
    scores = {who: (-np.abs(rankdata(s) / len(rated) - share)).tolist() for who, s in similar.items()}
    timed = first[:CHUNK]
    costs = {
        w: measure_cost(n, partial(encode, n, timed), len(timed), path=(disk or {}).get(w)) for w, n in nets.items()
    }
    return Examination(
        qualities=[quality], costs=costs, score="closeness to the human rating, in ranks", scores=scores,
        inputs=[f"{a} | {b}" for a, b in pairs], expected=[f"rated {r:g}" for r in ratings],
        outputs={who: [f"cosine {v:.3f}" for v in s] for who, s in similar.items()},
        slices={"length in words": buckets([len(f"{a} {b}".split()) for a, b in pairs]), "rating": buckets(rated)},
    )  # fmt: skip


def _spearman(similar: Any, rated: Any) -> Callable[..., Any]:
    """The rank correlation on resampled rows."""

    def statistic(rows: Any) -> float:
        a, b = rankdata(similar[rows]), rankdata(rated[rows])
        return float(np.corrcoef(a, b)[0, 1])

    return statistic


def examine_on_bed(nets: Mapping[str, nn.Module], bed: Bed, data: Mapping[str, Source]) -> Examination:
    """Examine players by the probes of a bed, where they are truth enough.

    Args:
        nets: who to net, seen by the probes as the player `student`, with the teacher beside it.
        bed: the bed.
        data: its splits.
    """
    qualities = []
    probes = {who: bed.probes_of(who) for who in nets}
    for name, probe in bed.probes.items():
        values = {who: float(probes[who][name](_seats(nets, who), data)) for who in nets}
        qualities.append(figures(name, values, higher_is_better=probe.spec.higher))
    return Examination(qualities=qualities)


def _seats(nets: Mapping[str, nn.Module], who: str) -> Players:
    seats = {"student": nets[who]} | ({"teacher": nets["teacher"]} if "teacher" in nets else {})
    players = Players({name: Player(name, frozen(), net) for name, net in seats.items()})
    players.turn("probe")
    return players
