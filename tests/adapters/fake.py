"""A small server on this machine that speaks the protocol of OpenAI, and stumbles, refuses, cuts and counts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LIMIT = 2000  # requests after which it stops by itself
MODEL = "org/m-7b"


def question(body: dict[str, Any]) -> str:
    """The text of a request: its prompt, or what was said last."""
    return body["prompt"] if "prompt" in body else body["messages"][-1]["content"]


def answer(body: dict[str, Any], text: str | None, finish: str = "stop", used: tuple[int, int] = (7, 3)) -> Any:
    """An answer as such servers write it."""
    said = {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
    usage = {"prompt_tokens": used[0], "completion_tokens": used[1]}
    return {"choices": [{"index": 0, "finish_reason": finish, **said}], "usage": usage}


class Fake(ThreadingHTTPServer):
    """Answers what `reply` says; `script` says how the next requests go: "ok", a status, "cut", "late", or JSON."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Callable[[dict[str, Any]], Any] = lambda body: answer(body, f" {question(body)}!")
        self.script: list[Any] = []
        self.retry_after = "0.3"
        self.asked: list[dict[str, Any]] = []  # bodies of all requests, as they came
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.done: list[dict[str, Any]] = []  # bodies of those that were answered
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def enter(self, handler: Handler, body: dict[str, Any]) -> Any:
        """Write a request down; returns how it goes."""
        with self.lock:
            self.asked.append(body)
            self.paths.append(handler.path)
            self.keys.append(handler.headers["authorization"])
            self.times.append(time.monotonic())
            self.now += 1
            self.most = max(self.most, self.now)
            if len(self.asked) == LIMIT:
                threading.Thread(target=self.shutdown).start()
            return self.script.pop(0) if self.script else "ok"

    def handle_error(self, *_: Any) -> None:
        """Say nothing of those that hang up."""

    def leave(self, body: dict[str, Any], answered: bool) -> None:
        with self.lock:
            self.now -= 1
            if answered:
                self.done.append(body)


class Handler(BaseHTTPRequestHandler):
    server: Fake

    def do_GET(self) -> None:
        self.write(200, json.dumps({"object": "list", "data": [{"id": MODEL}, {"id": "other"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        how = self.server.enter(self, body)
        content = json.dumps(how if isinstance(how, dict) else self.server.reply(body)).encode()
        if how == "late":
            threading.Event().wait(0.5)
        status = how if isinstance(how, int) else 200 if body["model"] in (MODEL, "silent") else 404
        good = status == 200 and how in ("ok", "late")
        self.server.leave(body, good)
        told = self.headers["authorization"] if status in (401, 403) else "busy"
        self.write(status, content if status == 200 else f"no: {told}".encode(), 20 if how == "cut" else None)

    def write(self, status: int, content: bytes, only: int | None = None) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        if status in (429, 503):
            self.send_header("retry-after", self.server.retry_after)
        self.end_headers()
        self.wfile.write(content[:only])

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def running() -> Iterator[Fake]:
    """A server for a while."""
    with Fake() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
