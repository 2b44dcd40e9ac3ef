"""A teacher whose answers come from a cache of sparse targets, with the net itself behind it or without.

cache:DIR                       answers from the cache alone: no teacher is loaded
cache:DIR:./big                 what the cache lacks is asked of the teacher once, stored, and answered from there
cache:k=64:DIR:./big            the same with a new cache, of the 64 most probable tokens
cache:p=0.98,k=100:DIR:./big    of the most probable tokens that hold a share of the mass, at most so many
cache:draws=50:DIR:./big        of random draws, whose mean is the whole distribution
cache:step=0.01:DIR:./big       of log-probabilities that are told apart more finely

The settings are hyper-parameters of the target parts (`limbeck.parts.sparse`): the first part that has them all is
taken. The net answers "ids", "logp" and "tail" (see `TargetCache.read`), as a player of the role `cached()` does from
columns of these names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.adapters.blocks import Row
from limbeck.adapters.cache import About, TargetCache, read_about, row_keys
from limbeck.adapters.packing import pack, unpack
from limbeck.batch import Batch
from limbeck.errors import BadValue, Mismatch, unknown
from limbeck.part import Part
from limbeck.parts.sparse import Captured, capture, drawn, likeliest, nucleus
from limbeck.parts.transcript import take

__all__ = ["Recalled", "about_teacher", "behind", "only_remembers", "open_recalled", "weights_hash"]

KINDS = {spec.name: spec for spec in (likeliest, nucleus, drawn)}
FORM = re.compile(r"cache:(?:(\w+=[^:]*):)?([^:]+)(?::(.+))?")
FORMS = "cache:DIR, cache:DIR:TEACHER, cache:k=64:DIR:TEACHER"
WANTS = ("ids", "logp", "tail")


class Recalled(nn.Module):
    """A language model that is remembered.

    Args:
        cache: where its targets are.
        teacher: the net that fills it; None to answer from the cache alone. What else is asked of it, it answers.

    Attributes:
        lists: that its distributions are lists of some tokens.
        family: the hash of the tokenizer's family.
        vocab: the number of tokens.
        tokenizer: that of the teacher, if it is there.

    Raises:
        UnknownName: a cache of a kind of targets that this version does not know.
    """

    lists = True

    def __init__(self, cache: TargetCache, teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.cache, self.teacher = cache, teacher
        self.family, self.vocab = cache.about.tokenizer, cache.about.vocabulary
        self.tokenizer = getattr(teacher, "tokenizer", None)
        hyper = dict(cache.about.targets)
        kind = str(hyper.pop("kind", ""))
        if kind not in KINDS:
            raise unknown("kind of targets", kind, KINDS, where=str(cache.path))
        self.targets: Part = KINDS[kind](**hyper)
        self.eval()

    def __getattr__(self, name: str) -> Any:
        """Reach what the teacher has: its end tokens, its context, its path."""
        teacher = self.__dict__.get("_modules", {}).get("teacher")
        if teacher is None or name.startswith("_") or name == "teacher":
            return super().__getattr__(name)
        return getattr(teacher, name)

    def train(self, mode: bool = True) -> Recalled:
        """Stand still.

        Raises:
            BadValue: it is to learn, which would change nothing that it says.
        """
        if mode:
            raise BadValue(f"{self.cache.path} is what a teacher said once, and cannot learn; give the model itself")
        return super().train(False)

    def check(self, reader: Any) -> None:
        """Refuse a student that numbers tokens otherwise.

        Args:
            reader: the student; one without a tokenizer is not judged.

        Raises:
            Mismatch: a student of another tokenizer.
        """
        theirs = getattr(reader, "family", "")
        if self.family and theirs and theirs != self.family:
            raise Mismatch(
                f"{self.cache.path} holds targets for the tokenizer {self.family}, the student has {theirs}; take a "
                "student with the teacher's tokenizer"
            )

    def forward(self, batch: Batch, want: frozenset[str]) -> dict[str, Any]:
        """Answer what is wanted: "ids", "logp" and "tail" from the cache, all else by the teacher behind it.

        Args:
            batch: `tokens` and `mask` (B, T).
            want: names of answers.

        Raises:
            BadData: a row that the cache does not hold, and no teacher.
            UnknownName: no teacher, and something else is wanted.
        """
        others = want - {*WANTS}
        if others and self.teacher is None:
            raise unknown("answer", min(others), WANTS, where=f"{self.cache.path}, a cache without its teacher")
        answers = dict(self.teacher(batch, others)) if others and self.teacher is not None else {}
        if want & {*WANTS}:
            if self.teacher is not None:
                self._ask(self.teacher, batch)
            answers |= {name: column.to(batch.device) for name, column in self.cache.read(batch).items()}
        return answers

    @torch.no_grad()
    def _ask(self, teacher: nn.Module, batch: Batch) -> None:
        """Ask the teacher for the rows that the cache does not hold, all at once, and store what it says."""
        first = {key: row for row, key in reversed([*enumerate(row_keys(batch))]) if key and key not in self.cache}
        if not first:
            return
        new = take(batch, sorted(first.values()))
        mask, rng = new["mask"], new.rng.fold("targets")
        numbers: dict[int, Tensor] = {}

        def uniform(n: int) -> Tensor:
            if n not in numbers:
                numbers[n] = rng.uniform("draw", mask.shape[1], n)[mask]
            return numbers[n]

        if getattr(teacher, "lists", False):
            lists = teacher(new, frozenset({"ids", "logp"}))
            found = capture_listed(lists["ids"][mask], lists["logp"][mask], self.targets, self.vocab)
        else:
            head = teacher(new, frozenset({"head"}))["head"].predicting(mask)
            found = capture(head, self.targets, uniform)
        self.cache.append(_rows(row_keys(new), mask.sum(1).tolist(), found, self.cache.about))


def capture_listed(ids_NK: Tensor, logp_NK: Tensor, targets: Part, size: int) -> Captured:
    """Keep the most probable tokens of lists; what lists leave of the mass is taken to lie evenly on all other tokens.

    Args:
        ids_NK: the listed tokens.
        logp_NK: their log-probabilities, -inf where a place lists fewer.
        targets: a `likeliest` part.
        size: the number of tokens, V.

    Raises:
        BadValue: another kind of targets, which needs the whole distribution.
    """
    if targets.spec is not likeliest:
        raise BadValue(
            f"{targets.spec.name} needs the whole distribution; of lists, keep the likeliest: cache:k=20:..."
        )
    values_NK, at_NK = logp_NK.double().topk(min(dict(targets.hyper)["k"], logp_NK.shape[1]), -1)
    ids, p_NK = ids_NK.gather(1, at_NK), values_NK.exp()
    rest_N = (1 - p_NK.sum(1)).clamp(min=0)
    even_N = rest_N.log() - torch.log(size - (p_NK > 0).sum(1))
    told_N = (p_NK * values_NK.where(p_NK > 0, 0.0)).sum(1) + torch.where(rest_N > 0, rest_N * even_N, 0.0)
    return Captured(ids, values_NK, rest_N.log(), values_NK, told_N)


def only_remembers(net: Any) -> bool:
    """Whether a net is a cache without a model behind it: it has sparse targets, and can be asked for nothing else."""
    return isinstance(net, Recalled) and (net.teacher is None or bool(getattr(net.teacher, "lists", False)))


def behind(net: nn.Module) -> nn.Module:
    """The teacher behind a cache, if there is one; any other net itself."""
    return net.teacher if isinstance(net, Recalled) and net.teacher is not None else net


def _rows(keys: list[bytes], tokens: list[int], found: Captured, about: About) -> list[Row]:
    """Captured targets as rows to be stored, each with what it keeps of the teacher's distribution."""
    found = Captured(found.ids.cpu(), *(t.double().cpu() for t in found[1:]))
    pieces = zip(*(t.split(tokens) for t in (found.ids, found.logp, found.tail)), strict=True)
    packed = [pack(ids.numpy(), logp.numpy(), tail.numpy(), about.grid) for ids, logp, tail in pieces]
    mass_N = found.true.exp().masked_fill(found.logp == -torch.inf, 0.0).sum(1)
    kl_N = _distance(packed, tokens, found, about) if about.grid.whole else torch.zeros_like(mass_N)
    facts = zip(mass_N.split(tokens), kl_N.split(tokens), strict=True)
    return [
        Row(key, row, mass.numpy(), float(kl.sum())) for key, row, (mass, kl) in zip(keys, packed, facts, strict=True)
    ]


def _distance(packed: list[bytes], tokens: list[int], found: Captured, about: About) -> Tensor:
    """KL(p || what is read) of each token (N,), the mass that is not kept spread evenly over the tokens not kept."""
    read = unpack(packed, tokens, about.grid)
    kept_NK = found.logp > -torch.inf
    order_NK = found.ids.masked_fill(~kept_NK, about.vocabulary).argsort(1)
    true_NK = found.true.masked_fill(~kept_NK, -torch.inf).gather(1, order_NK)
    read_NK = torch.zeros_like(true_NK)
    read_NK[true_NK > -torch.inf] = torch.from_numpy(read.logp)
    even_N = torch.from_numpy(read.tail) - (about.vocabulary - torch.from_numpy(read.counts)).log()
    spread_N = torch.where(even_N.isfinite(), found.tail.exp() * even_N, 0.0)
    return found.negentropy - (true_NK.exp() * read_NK).sum(1) - spread_N


# -- opening ----------------------------------------------------------------------------------------------------------


def open_recalled(spec: str, open_source: Callable[[str], nn.Module]) -> Recalled:
    """Open a source of the form `cache:...`.

    Args:
        spec: one of the forms at the top of this module.
        open_source: opens the source of the teacher.

    Raises:
        BadValue: another form, settings that no target part has, or a teacher that is no language model.
        BadData: no cache there, or one that is damaged.
        Mismatch: a cache of another tokenizer, teacher or kind of targets.
    """
    form = FORM.fullmatch(spec)
    if form is None or (form[1] and not form[3]):
        raise BadValue(f"{spec!r} names no cache of targets; possible: {FORMS}")
    settings, path, source = form[1], Path(form[2]), form[3]
    if source is None:
        return Recalled(TargetCache(path))
    teacher = open_source(source)
    if settings is None and (path / "cache.json").exists():
        known = read_about(path)
        about = about_teacher(teacher, source, known.targets, known.step)
    else:
        about = about_teacher(teacher, source, *_settings(settings or ""))
    return Recalled(TargetCache(path, about), teacher)


def about_teacher(net: Any, name: str, targets: Any = None, step: float = 1 / 16) -> About:
    """Say whose targets a net would give.

    Args:
        net: a language model.
        name: what people call it.
        targets: the kind of targets, as a target part or as `cache.json` has it; the 64 most probable by default.
        step: nats between log-probabilities that are told apart.

    Raises:
        BadValue: a net that does not say how many tokens it knows.
    """
    if not isinstance(getattr(net, "vocab", None), int):
        raise BadValue(f"{name} is no causal language model ({type(net).__name__}): there are no token targets to keep")
    targets = likeliest() if targets is None else targets
    if isinstance(targets, Part):
        targets = {"kind": targets.spec.name, **dict(targets.hyper)}
    return About(getattr(net, "family", ""), net.vocab, name, weights_hash(net), targets, step)


def _settings(text: str) -> tuple[Part, float]:
    """The target part and the step that settings such as `p=0.98,k=100` name."""
    given = dict(pair.partition("=")[::2] for pair in text.split(",") if pair)
    step = _number("step", given.pop("step", "0.0625"), float)
    spec = next((kind for kind in KINDS.values() if given.keys() <= kind.hyper.keys()), None)
    if spec is None:
        possible = "; ".join(", ".join(kind.hyper) for kind in KINDS.values())
        raise BadValue(f"no sparse targets have the settings {text!r}; possible: {possible}; and step with any of them")
    return spec(**{name: _number(name, value, spec.types[name]) for name, value in given.items()}), step


def _number(name: str, text: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise BadValue(f"{name} must be a number, got {text!r}") from None


def weights_hash(net: nn.Module) -> str:
    """Hash the class and all weights and buffers of a net, or the address of one `behind` a server.

    Example:
        >>> weights_hash(nn.Identity()) == weights_hash(nn.Identity()), len(weights_hash(nn.Linear(2, 2)))
        (True, 16)
    """
    h = hashlib.blake2b(type(net).__name__.encode(), digest_size=8)
    h.update(getattr(net, "behind", "").encode())
    for name, tensor in sorted(net.state_dict().items()):
        h.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        h.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return h.hexdigest()
