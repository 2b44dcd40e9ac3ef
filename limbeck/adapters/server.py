"""Servers of JSON, asked politely: with a time-out, a rate, patience, and only so many requests at a time.

A server that stumbles (no connection, too late, cut short, busy, broken) is asked again, ever later, or when it says
that it will be ready. One that refuses is not.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx

from limbeck.errors import BadValue, TeacherUnavailable, UserError, unknown

__all__ = ["Server", "each"]

LONGEST = 60.0  # seconds between two attempts, at most, where the server names no time
PATIENCE = 600.0  # seconds that a server may ask to wait
STUMBLES = (408, 409, 429)  # and everything from 500 on

T = TypeVar("T")


class Server:
    """A server that answers JSON to JSON; it may be asked from several threads.

    Args:
        url: where it is, such as `http://127.0.0.1:8000/v1`.
        key: sent along as a bearer token; it is shown in no message.
        timeout: seconds for an answer.
        attempts: how often one question is asked before it is given up.
        wait: seconds before the second attempt; twice as long before each further one.
        per_second: requests a second, at most; 0 for no limit.
        at_once: requests in flight, at most.

    Raises:
        BadValue: a key that no header can hold.
    """

    def __init__(
        self, url: str, *, key: str = "", timeout: float = 600.0, attempts: int = 6, wait: float = 1.0,
        per_second: float = 0.0, at_once: int = 8,
    ) -> None:  # fmt: skip
        if not (key.isascii() and key.isprintable()):
            raise BadValue("the key of the server holds signs that no key has; look at the environment variable")
        self.url, self.attempts, self.wait, self.at_once = url.rstrip("/"), attempts, wait, at_once
        self.pause, self._next, self._lock = 1 / per_second if per_second else 0.0, 0.0, threading.Lock()
        self._key = key
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self.client = httpx.Client(headers=headers, timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)))

    def ask(self, path: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """Ask, and ask again while the server stumbles.

        Args:
            path: below the address of the server.
            body: sent as JSON.
            read: takes what is wanted out of the answer; an error of look-up or type means that it is incomplete.

        Returns:
            What `read` returned.

        Raises:
            TeacherUnavailable: no complete answer in all attempts, or a longer wait than anyone has patience for.
            BadValue: the server refuses the request.
            UnknownName: it does not know the model; the message names those that it knows.
        """
        for attempt in range(self.attempts):
            self._queue()
            answer, trouble, asks = self._attempt(path, body, read)
            if not trouble:
                return answer
            if asks > PATIENCE:
                raise TeacherUnavailable(f"{self.url} asks to wait {asks:.0f} s; continue then, with --resume")
            if attempt + 1 < self.attempts:
                time.sleep(max(asks, min(LONGEST, self.wait * 2**attempt)))
        way_out = "start it, then continue with --resume"
        raise TeacherUnavailable(f"{self.url} gave no answer in {self.attempts} attempts ({trouble}); {way_out}")

    def _queue(self) -> None:
        """Wait until the rate allows one more request."""
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self.pause
        time.sleep(max(0.0, turn - time.monotonic()))

    def _attempt(self, path: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> tuple[T, str, float]:
        """Ask once: the answer, or what went wrong and how many seconds the server asks to wait."""
        nothing: Any = None
        try:
            said = self.client.post(f"{self.url}/{path}", json=dict(body))
        except httpx.RequestError as error:
            return nothing, self._shown(f"{type(error).__name__}: {error}"), 0.0
        if said.is_success:
            try:
                return read(said.json()), "", 0.0
            except (ValueError, LookupError, TypeError, AttributeError):
                return nothing, f"an incomplete answer: {self._shown(said.text)}", 0.0
        if said.status_code < 500 and said.status_code not in STUMBLES:
            raise self._refusal(said, str(body.get("model", "")))
        asks = _seconds(said.headers.get("retry-after", ""))
        return nothing, f"status {said.status_code}: {self._shown(said.text)}", asks

    def _refusal(self, said: httpx.Response, model: str) -> UserError:
        """Why the server will not answer, as far as it can be told."""
        known = self.models() if said.status_code in (400, 404) else []
        if known and model not in known:
            return unknown("model", model, known, where=self.url)
        login = "; the key is taken from LIMBECK_API_KEY or OPENAI_API_KEY" if said.status_code in (401, 403) else ""
        trouble = f"status {said.status_code}: {self._shown(said.text)}"
        return BadValue(f"{said.url} refuses the request with {trouble}{login}")

    def models(self) -> list[str]:
        """The names of the models that the server lists; none where it lists nothing."""
        try:
            return [str(model["id"]) for model in self.client.get(f"{self.url}/models").json()["data"]]
        except (httpx.RequestError, ValueError, LookupError, TypeError):
            return []

    def _shown(self, text: str) -> str:
        """The beginning of a text on one line, the key taken out of it."""
        plain = text.replace(self._key, "***") if self._key else text
        return " ".join(plain.split())[:200]


def _seconds(text: str) -> float:
    """The seconds that a server asks to wait, as a number or a date; 0 where it asks for nothing.

    Example:
        >>> _seconds("1.5"), _seconds("Wed, 21 Oct 2015 07:28:00 GMT"), _seconds("soon")
        (1.5, 0.0, 0.0)
    """
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def each(work: Callable[[T], None], things: Iterable[T], at_once: int) -> None:
    """Do some work for each of several things, some at a time.

    After a failure nothing more is begun, and what is under way is ended. An interrupt does not wait for it: threads of
    an executor would be waited for when the process ends, these are not.

    Args:
        work: what is done for one.
        things: for which it is done.
        at_once: how many at a time.

    Raises:
        Exception: the first that the work raised.

    Example:
        >>> done = []
        >>> each(done.append, range(3), 2)
        >>> sorted(done)
        [0, 1, 2]
    """
    waiting, failed = deque(things), list[BaseException]()

    def run() -> None:
        while not failed:
            try:
                thing = waiting.popleft()
            except IndexError:
                return
            try:
                work(thing)
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(min(at_once, len(waiting)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException as error:
        failed.append(error)
        raise
    if failed:
        raise failed[0]
