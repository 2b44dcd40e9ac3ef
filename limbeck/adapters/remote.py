"""Black boxes behind a server that speaks the completions protocol of OpenAI, vLLM and llama.cpp.

Every complete answer is on the disk before it is used: a process that is killed asks again only for the request that
was in flight. A server that stumbles is asked again, ever later; one that refuses is not.

Shapes: B rows, V words.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import torch
from torch import nn

from limbeck.errors import BadData, BadValue, TeacherUnavailable
from limbeck.run import writing

__all__ = ["Answers", "Completions", "Server"]

LONGEST = 60.0  # seconds between two attempts, at most


class Answers:
    """Answers by question in a file of lines, each on the disk before it counts.

    Args:
        path: the file; None keeps them in memory. A last line that a crash cut short is dropped.

    Example:
        >>> known = Answers(None)
        >>> known.keep("2 + 2", {"4": 1.0})
        >>> known.get("2 + 2"), known.get("2 + 3")
        ({'4': 1.0}, None)
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self._known = path, dict[str, Any]()
        if path is not None and path.exists():
            whole = path.read_bytes()
            end = whole.rfind(b"\n") + 1
            if end < len(whole):
                os.truncate(path, end)
            self._known = dict(json.loads(line) for line in whole[:end].splitlines())

    def get(self, question: str) -> Any:
        """Return a kept answer, or None."""
        return self._known.get(_key(question))

    def keep(self, question: str, answer: Any) -> None:
        """Keep an answer; once this returns it survives a crash.

        Raises:
            RunError: it cannot be written.
        """
        if self.path is not None:
            with writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("ab") as file:
                    file.write(json.dumps([_key(question), answer]).encode() + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
        self._known[_key(question)] = answer


def _key(question: str) -> str:
    return hashlib.blake2b(question.encode(), digest_size=16).hexdigest()


class Server:
    """A server of JSON that is asked politely: with a time-out, a rate, and patience.

    Args:
        url: where it is, such as `http://127.0.0.1:8000/v1`.
        headers: sent along, such as the authorisation.
        timeout: seconds for an answer.
        attempts: how often one question is asked before it is given up.
        wait: seconds before the second attempt; twice as long before each further one.
        per_second: requests a second, at most; 0 for no limit.
    """

    def __init__(
        self, url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 60.0, attempts: int = 6,
        wait: float = 1.0, per_second: float = 0.0,
    ) -> None:  # fmt: skip
        self.url, self.attempts, self.wait = url.rstrip("/"), attempts, wait
        self.pause, self.last = 1 / per_second if per_second else 0.0, -LONGEST
        self.client = httpx.Client(headers=headers, timeout=timeout)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Ask, and ask again while the server stumbles.

        Args:
            path: below the address of the server.
            body: sent as JSON.

        Returns:
            The answer, as JSON has it.

        Raises:
            TeacherUnavailable: no complete answer in all attempts.
            BadValue: the server refuses the request.
        """
        trouble = ""
        for attempt in range(self.attempts):
            time.sleep(max(0.0, self.last + self.pause - time.monotonic()))
            self.last, delay = time.monotonic(), min(LONGEST, self.wait * 2**attempt)
            try:
                said = self.client.post(f"{self.url}/{path}", json=dict(body))
                if said.is_success:
                    return said.json()
                trouble = f"status {said.status_code}: {said.text[:200]}"
                if said.status_code not in (408, 409, 429) and said.status_code < 500:
                    raise BadValue(f"{self.url} refuses the request with {trouble}")
                delay = max(delay, _seconds(said.headers.get("retry-after", "")))
            except (httpx.TransportError, json.JSONDecodeError) as error:
                trouble = f"{type(error).__name__}: {error}"
            if attempt + 1 < self.attempts:
                time.sleep(min(LONGEST, delay))
        raise TeacherUnavailable(
            f"{self.url} gave no answer in {self.attempts} attempts ({trouble}); start it, then continue with --resume"
        )


def _seconds(text: str) -> float:
    """The seconds that a server asks to wait; 0 where it names none, or a date."""
    return float(text) if text.replace(".", "", 1).isdigit() else 0.0


class Completions(nn.Module):
    """A black box behind a completions server: fills a gap at the end of a text with one of its likeliest tokens.

    It sees only the first `top` tokens of the server's distribution: words that are not among them have probability 0.

    Args:
        server: where it is asked.
        model: the name under which the server knows it.
        words: V words that may fill the gap; a token counts for the word that it is without spaces around.
        journal: the file that keeps the answers.
        top: tokens with probabilities in one answer, as many as the server allows.

    Attributes:
        mask: the sign of the gap, the last thing in a text.
        asked: texts that the server has answered; those from the journal cost nothing.
    """

    mask = "<gap>"

    def __init__(
        self, server: Server, model: str, words: tuple[str, ...], *, journal: Path | None = None, top: int = 20
    ) -> None:
        super().__init__()
        self.server, self.model, self.top, self.asked = server, model, top, 0
        self.place = {word: i for i, word in enumerate(words)}
        self.known = Answers(journal)

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer "mask_probs" (B, V) on `text`, B strings that end in the gap.

        Raises:
            BadData: a text whose gap is not at its end.
            TeacherUnavailable: the server has stopped answering.
            BadValue: the server refuses, or gives no probabilities.
        """
        if "mask_probs" not in want:
            return {}
        probs_BV = torch.zeros(len(batch["text"]), len(self.place))
        for row, text in enumerate(batch["text"]):
            if text.count(self.mask) != 1 or not text.endswith(self.mask):
                raise BadData(f"a completion fills one gap at the end; end the prompt in {{mask}}: {text[-60:]!r}")
            for token, logprob in self._likeliest(text.removesuffix(self.mask).rstrip()).items():
                if token.strip() in self.place:
                    probs_BV[row, self.place[token.strip()]] += torch.tensor(logprob).exp()
        return {"mask_probs": probs_BV}

    def _likeliest(self, text: str) -> dict[str, float]:
        """Token to log-probability of what follows a text."""
        question = json.dumps([self.server.url, self.model, self.top, text])
        answer = self.known.get(question)
        if answer is None:
            body = {"model": self.model, "prompt": text, "max_tokens": 1, "temperature": 0, "logprobs": self.top}
            said = self.server.post("completions", body)
            try:
                answer = {str(k): float(v) for k, v in said["choices"][0]["logprobs"]["top_logprobs"][0].items()}
            except (KeyError, IndexError, TypeError, AttributeError):
                raise BadValue(f"{self.server.url} gives no log-probabilities for {self.model!r}") from None
            self.known.keep(question, answer)
            self.asked += 1
        return answer  # type: ignore[no-any-return]
