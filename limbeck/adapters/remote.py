"""Models behind a server that speaks the protocol of OpenAI, vLLM and llama.cpp: black boxes without weights.

    http://127.0.0.1:8000/v1#model-name      what `--teacher` takes; https too

Every complete answer is on the disk before it is used: a process that is killed asks again only for the requests that
were in flight. The key of the server comes from the environment (LIMBECK_API_KEY, else OPENAI_API_KEY) and is written
nowhere.

Shapes: B rows, T tokens, V words.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from limbeck.adapters.chat import written
from limbeck.adapters.server import Server, each
from limbeck.adapters.text import context_of, pad_of
from limbeck.errors import BadData, BadValue, BrokenRecipe
from limbeck.rng import Rng
from limbeck.run import Run, writing

__all__ = ["Answers", "Remote", "asking", "open_remote", "spent"]

FORM = "http://HOST/v1#MODEL"


class Answers:
    """Answers by question in a file of lines, each on the disk before it counts; several threads may keep them.

    Args:
        path: the file; None keeps them in memory. A last line that a crash cut short is dropped.

    Attributes:
        new: how many were kept since it was opened.

    Example:
        >>> known = Answers(None)
        >>> known.keep("2 + 2", {"4": 1.0})
        >>> known.get("2 + 2"), known.get("2 + 3")
        ({'4': 1.0}, None)
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self.new, self._lock = path, 0, threading.Lock()
        self._known = dict[str, Any]()
        if path is not None and path.exists():
            lines = _complete(path)
            os.truncate(path, sum(len(line) + 1 for line in lines))
            self._known = dict(map(json.loads, lines))

    def get(self, question: str) -> Any:
        """Return a kept answer, or None."""
        return self._known.get(_key(question))

    def keep(self, question: str, answer: Any) -> None:
        """Keep an answer; once this returns it survives a crash.

        Raises:
            RunError: it cannot be written.
        """
        with self._lock:
            if self.path is not None:
                with writing(self.path):
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    with self.path.open("ab") as file:
                        file.write(json.dumps([_key(question), answer]).encode() + b"\n")
                        file.flush()
                        os.fsync(file.fileno())
            self._known[_key(question)] = answer
            self.new += 1


def _complete(path: Path) -> list[bytes]:
    """The lines of a file that were written to their end."""
    return path.read_bytes().split(b"\n")[:-1]


def _key(question: str) -> str:
    return hashlib.blake2b(question.encode(), digest_size=16).hexdigest()


class Remote(nn.Module):
    """A model behind a server: it answers text with text, and fills a gap at the end of a text with likely words.

    Of a gap it sees only the first `top` tokens of the server's distribution: words that are not among them have
    probability 0.

    Args:
        server: where it is asked.
        name: the name under which the server knows it.
        words: V words that may fill a gap; a token counts for the word that it is without spaces around.
        journal: the file that keeps the answers.
        top: tokens with probabilities in one answer, as many as the server allows.

    Attributes:
        mask: the sign of the gap, the last thing in a text.
        context: the longest row, in tokens of whoever listens.
    """

    mask = "<gap>"

    def __init__(
        self, server: Server, name: str, words: tuple[str, ...] = (), *, journal: Path | None = None, top: int = 20
    ) -> None:
        super().__init__()
        self.server, self.name, self.top = server, name, top
        self.place = {word: i for i, word in enumerate(words)}
        self.known = Answers(journal)
        self.tokenizer: Any = None
        self.context: int | None = None

    def __deepcopy__(self, memo: Any) -> Remote:
        return self  # what cannot change needs no copy

    @property
    def asked(self) -> int:
        """Questions that the server has answered; those from the journal cost nothing."""
        return self.known.new

    def remember(self, journal: Path) -> None:
        """Keep the answers in a file from now on, and know those that it holds."""
        self.known = Answers(journal)

    def listen(self, net: Any) -> None:
        """Give what is said to a net: in its tokens, and no longer than it can read.

        Args:
            net: with `tokenizer` and `context`, as language models have them.
        """
        self.tokenizer = getattr(net, "tokenizer", None)
        limits = (getattr(net, "context", None), self.tokenizer and context_of(self.tokenizer))
        self.context = min((limit for limit in limits if limit), default=None)

    # -- text -----------------------------------------------------------------------------------------------------

    def speak(
        self, requests: Sequence[str] | None, tokens_BT: Tensor, length_B: Tensor, rng: Rng, *,
        temperature: float = 1.0, top_p: float = 1.0, max_new_tokens: int = 128,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Continue rows by what the server answers, several requests at once.

        An answer stands in a row as if it had come with the data: as the listener's tokenizer and chat template write
        it, up to the token that ends it. One that was cut off has no such token.

        Args:
            requests: what each row asks in text, as the reader of language data wrote it.
            tokens_BT: the same prompts in the listener's tokens, right-padded.
            length_B: their lengths.
            rng: the streams of the rows; each request is sent a seed from its own.
            temperature: of the softmax; 0 is greedy.
            top_p: the mass of the nucleus.
            max_new_tokens: tokens of an answer, at most, as the server counts them.

        Returns:
            tokens (B, T') right-padded, prompt and answer, and their lengths (B,). A row whose answer was empty is as
            long as its prompt.

        Raises:
            BadData: an empty prompt, or rows that do not say what they ask in text.
            BrokenRecipe: a prompt whose tokens were changed, so that its text says something else.
            TeacherUnavailable: the server has stopped answering.
            BadValue: the server refuses.
        """
        asked = self._requests(requests, length_B, rng.rows)
        how = {"temperature": temperature, "top_p": top_p, "max_tokens": max_new_tokens}
        seeds = rng.integers("seed", 2**31).tolist() if temperature else [None] * len(asked)
        drawn = [how | ({} if seed is None else {"seed": seed}) for seed in seeds]
        answers = self._ask([a | d for a, d in zip(asked, drawn, strict=True)], _text, rng.rows.tolist())
        rows = []
        for tokens, n, request, answer in zip(tokens_BT.tolist(), length_B.tolist(), asked, answers, strict=True):
            said = written(self.tokenizer, request, *answer) if answer[0].strip() else []
            rows.append(torch.tensor(self._fit([*tokens[:n], *said])))
        total_B = torch.tensor([len(row) for row in rows], device=length_B.device)
        padded_BT = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_of(self.tokenizer))
        return padded_BT.to(tokens_BT.device), total_B

    def _requests(self, requests: Sequence[str] | None, length_B: Tensor, rows_B: Tensor) -> list[dict[str, Any]]:
        """What each row asks, read and checked."""
        if self.tokenizer is None or requests is None:
            raise BadData(f"{self.server.url} is asked in text: give rows of language, and a language model to learn")
        asked = [json.loads(request) for request in requests]
        for row, request, length in zip(rows_B.tolist(), asked, length_B.tolist(), strict=True):
            if not (request.get("prompt") or request.get("messages")):
                raise BadData(f"row {row} asks nothing: rows of running text have no prompt; give prompt or messages")
            if request.pop("tokens") != length:
                raise BrokenRecipe(f"row {row}: the prompt was changed, but a server is asked for the text that it had")
        return asked

    def _fit(self, tokens: list[int]) -> list[int]:
        if self.context is not None and len(tokens) > self.context:
            warnings.warn(f"answers that exceed the student's context of {self.context} tokens are cut", stacklevel=2)
        return tokens[: self.context]

    # -- words in a gap -------------------------------------------------------------------------------------------

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer "mask_probs" (B, V) on `text`, B strings that end in the gap.

        Raises:
            BadData: a text whose gap is not at its end.
            TeacherUnavailable: the server has stopped answering.
            BadValue: something else is wanted, the server refuses, or it gives no probabilities.
        """
        if odd := sorted(want - {"mask_probs"}):
            raise BadValue(f"{self.server.url} answers with text, not with {odd[0]!r}, which needs the model itself")
        if not self.place:
            raise BadValue(f"{self.server.url} fills gaps with words that it is given: Remote(server, name, words)")
        probs_BV = torch.zeros(len(batch["text"]), len(self.place))
        for text in batch["text"]:
            if text.count(self.mask) != 1 or not text.endswith(self.mask):
                raise BadData(f"a completion fills one gap at the end; end the prompt in {{mask}}: {text[-60:]!r}")
        how = {"max_tokens": 1, "temperature": 0, "logprobs": self.top}
        bodies = [{"prompt": text.removesuffix(self.mask).rstrip(), **how} for text in batch["text"]]
        for row, likeliest in enumerate(self._ask(bodies, self._likeliest, range(len(bodies)))):
            for token, logprob in likeliest.items():
                if token.strip() in self.place:
                    probs_BV[row, self.place[token.strip()]] += torch.tensor(logprob).exp()
        return {"mask_probs": probs_BV}

    def _likeliest(self, answer: Any) -> dict[str, float]:
        """Token to log-probability of what follows a text."""
        choice = answer["choices"][0]
        try:
            return {str(k): float(v) for k, v in choice["logprobs"]["top_logprobs"][0].items()}
        except (KeyError, IndexError, TypeError, AttributeError):
            raise BadValue(f"{self.server.url} gives no log-probabilities for {self.name!r}") from None

    # -- requests -------------------------------------------------------------------------------------------------

    def _ask(self, bodies: Sequence[Mapping[str, Any]], read: Callable[[Any], Any], rows: Sequence[int]) -> list[Any]:
        """What the server answers to each request, in their order; those that the journal knows are not sent."""
        questions = [json.dumps([self.server.url, self.name, body]) for body in bodies]
        new = {q: (row, body) for q, row, body in zip(questions, rows, bodies, strict=True) if not self.known.get(q)}

        def one(question: str) -> None:
            row, body = new[question]
            path = "chat/completions" if "messages" in body else "completions"
            try:
                said = self.server.ask(path, {"model": self.name, **body}, lambda a: [read(a), _tokens(a)])
            except BadValue as error:
                raise BadValue(f"row {row}: {error}") from None
            self.known.keep(question, said)

        each(one, new, self.server.at_once)
        return [self.known.get(question)[0] for question in questions]


def _text(answer: Any) -> tuple[str, bool]:
    """The text of an answer, and whether the model ended it."""
    choice = answer["choices"][0]
    text = choice["message"].get("content") if "message" in choice else choice["text"]
    if not isinstance(text, str | None):
        raise TypeError(f"the text of an answer is {type(text).__name__}")
    return text or "", choice.get("finish_reason") not in ("length", "content_filter")


def _tokens(answer: Any) -> list[int]:
    """Tokens of the prompt and of the answer, as far as the server counts them."""
    used = answer.get("usage") or {}
    return [int(used.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]


def open_remote(spec: str) -> Remote:
    """Open a model behind a server; nothing is asked of it yet.

    Args:
        spec: `http://HOST/v1#MODEL`, or https.

    Raises:
        BadValue: no name of a model, a password or a query in the address, or an address of another form.

    Example:
        >>> open_remote("http://127.0.0.1:8000/v1#meta-llama/Llama-3.2-1B").name
        'meta-llama/Llama-3.2-1B'
    """
    try:
        url = urlsplit(spec)
        secret, host, _ = url.username or url.password or url.query, url.hostname, url.port
    except ValueError:
        raise BadValue(f"the address of a server cannot be read; its form is {FORM}") from None  # it may hold a secret
    if secret:
        raise BadValue(
            f"the address of the server on {host} holds a user, a password or a query, where secrets would be written "
            "down; put the key into the environment variable LIMBECK_API_KEY"
        )
    if not host or not url.fragment:
        raise BadValue(f"{spec!r} names no {'model' if host else 'host'}; the form is {FORM}")
    key = os.environ.get("LIMBECK_API_KEY") or os.environ.get("OPENAI_API_KEY") or ""
    return Remote(Server(url._replace(fragment="").geturl(), key=key.strip()), url.fragment)


@contextmanager
def asking(nets: Mapping[str, nn.Module], run: Run, process: int = 0) -> Iterator[None]:
    """Keep what servers answer during a run in its directory, and count it in run.json, however the run ends.

    Args:
        nets: the players of the run, by name.
        run: the run, begun; one without a directory keeps nothing.
        process: which of several this is; each has files of its own.
    """
    servers = {name: net for name, net in nets.items() if isinstance(net, Remote)}
    if run.path is None or not servers:
        yield
        return
    for name, net in servers.items():
        net.remember(run.path / "journal" / f"{name}.{process}.jsonl")
    try:
        yield
    finally:
        run.update(asked=spent(run.path / "journal"))


def spent(journal: Path) -> dict[str, dict[str, int]]:
    """Count what servers were asked in a run, over all its processes and resumptions.

    Args:
        journal: the folder with their journals, `PLAYER.PROCESS.jsonl`.

    Returns:
        Player to: answers, tokens of prompts and of answers as the servers counted them, answers that were empty, and
        answers that were cut off.
    """
    found: dict[str, dict[str, int]] = {}
    for path in sorted(journal.glob("*.*.jsonl")):
        kept = [json.loads(line)[1] for line in _complete(path)]
        texts = [said for said, _ in kept if isinstance(said, list)]
        figures = {
            "answers": len(kept),
            "prompt tokens": sum(tokens[0] for _, tokens in kept),
            "answer tokens": sum(tokens[1] for _, tokens in kept),
            "empty": sum(not text.strip() for text, _ in texts),
            "cut off": sum(not ended for _, ended in texts),
        }
        before = found.get(path.name.split(".")[0], {})
        found[path.name.split(".")[0]] = {k: before.get(k, 0) + n for k, n in figures.items()}
    return found
