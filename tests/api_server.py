"""An API on this machine that speaks as OpenAI's does, and fails in the ways that those fail."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-notARealKeyButSecret4711"
Body = dict[str, Any]
Fault = str | tuple[int, dict[str, Any], dict[str, str]]


@dataclass
class Api:
    """What the API is like, and what was asked of it.

    fault: how a request fails, given its body and how often it was asked before (from 0): "drop",
        "half", "json", "choices", "hang", or status, body and headers; None: not at all.
    thought: the field that has the reasoning, if one has. refused: parameters that it does not
        take, with its words. most: requests at a time; more are turned away.
    """

    models: Sequence[str] | None = ("tiny",)
    key: str | None = None
    delay_s: Callable[[Body], float] = lambda body: 0.0
    fault: Callable[[Body, int], Fault | None] = lambda body, count: None
    text: Callable[[Body], str] = lambda body: solved(body)
    finish: Callable[[Body], str | None] = lambda body: "stop"
    thought: str | None = None
    usage: bool = True
    refused: dict[str, str] = field(default_factory=dict)
    most: int | None = None
    prefix: str = "/v1"
    html: bool = False
    extra_model: dict[str, Any] = field(default_factory=dict)
    address: str = ""
    asked: list[Body] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    in_flight: int = 0
    widest: int = 0
    billed: list[tuple[int, int]] = field(default_factory=list)  # tokens of every answer
    lock: threading.Lock = field(default_factory=threading.Lock)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def url(self) -> str:
        return self.address + self.prefix

    @property
    def samples(self) -> list[Body]:
        """The requests for samples: all but the probes."""
        return [body for body in self.asked if not is_probe(body)]


def is_probe(body: Body) -> bool:
    return asked_of(body) == "Hi"


def asked_of(body: Body) -> str:
    """Return the last words of the user."""
    if "prompt" in body:
        return str(body["prompt"])
    return next(str(m["content"]) for m in reversed(body["messages"]) if m["role"] == "user")


def draw_of(body: Body) -> int:
    """Return a number that depends on the messages and the seed alone."""
    asked = json.dumps([body.get("messages", body.get("prompt")), body.get("seed")])
    return int.from_bytes(hashlib.sha256(asked.encode()).digest()[:4], "big")


def solved(body: Body) -> str:
    """Return the solution of a sum, right two times out of three."""
    found = re.search(r"[\d(][\d()+*-]*", asked_of(body))
    right = eval(found[0]) if found else 0  # digits, brackets and signs
    draw = draw_of(body)
    return f"Let me see, {draw}. The answer is \\boxed{{{right + (draw % 3 == 0)}}}"


def usage_of(body: Body, text: str) -> tuple[int, int]:
    return len(asked_of(body)) // 4 + 20, len(text) // 4 + 1


@contextmanager
def serve(api: Api) -> Iterator[Api]:
    """Run the API on a free port, in threads."""

    class Handler(_Handler):
        state = api

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 512

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing of clients that left."""

    server = Server(("127.0.0.1", 0), Handler)
    api.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: Api
    protocol_version = "HTTP/1.1"
    server_version = "TestApi/1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        api = self.state
        if not self._let_in():
            return
        if api.html:
            self._send_raw(200, b"<!doctype html><title>Welcome</title>", "text/html")
        elif self.path != f"{api.prefix}/models" or api.models is None:
            self._refuse(404, "Not Found")
        else:
            entries = [{"id": name, "object": "model", **api.extra_model} for name in api.models]
            self._send(200, {"object": "list", "data": entries})

    def do_POST(self) -> None:
        api = self.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._let_in():
            return
        with api.lock:
            api.asked.append(body)
            api.paths.append(self.path)
            api.in_flight += 1
            api.widest = max(api.widest, api.in_flight)
            crowded = api.most is not None and api.in_flight > api.most
            name = json.dumps([asked_of(body), body.get("seed")])
            count = api.counts[name]
            api.counts[name] += 1
        try:
            if crowded:
                self._refuse(429, "Rate limit reached", code="rate_limit_exceeded")
            else:
                self._answer(body, count)
        finally:
            with api.lock:
                api.in_flight -= 1

    def _let_in(self) -> bool:
        if self.state.key is None or self.headers["Authorization"] == f"Bearer {self.state.key}":
            return True
        given = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        self._refuse(401, f"Incorrect API key provided: {given}", code="invalid_api_key")
        return False

    def _answer(self, body: Body, count: int) -> None:
        api = self.state
        kinds = {f"{api.prefix}/chat/completions": "chat", f"{api.prefix}/completions": "text"}
        if api.html:
            self._send_raw(200, b"<!doctype html><title>Welcome</title>", "text/html")
            return
        if self.path not in kinds:
            self._refuse(404, "Not Found")
            return
        if api.models is not None and body["model"] not in api.models:
            self._refuse(404, f"The model `{body['model']}` does not exist", code="model_not_found")
            return
        for name, words in {**api.refused, "n": "n must be 1"}.items():
            if name in body:
                self._refuse(400, words, param=name if "param" in words else None)
                return
        time.sleep(api.delay_s(body))
        fault = api.fault(body, count)
        if fault is None:
            self._send(200, self._completion(body, kinds[self.path]))
        else:
            self._fail(fault, body, kinds[self.path])

    def _completion(self, body: Body, kind: str) -> dict[str, Any]:
        api = self.state
        text, ended = api.text(body), api.finish(body)
        prompt, completion = usage_of(body, text)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if api.thought is not None:
            message[api.thought] = "I think."
        choice = {"message": message} if kind == "chat" else {"text": text}
        answer: dict[str, Any] = {
            "id": "a",
            "model": body["model"],
            "choices": [{"index": 0, **choice, "finish_reason": ended}],
        }
        if api.usage:
            answer["usage"] = {"prompt_tokens": prompt, "completion_tokens": completion}
        with api.lock:
            api.billed.append((prompt, completion))
        return answer

    def _fail(self, fault: Fault, body: Body, kind: str) -> None:
        if isinstance(fault, tuple):
            self._send(fault[0], fault[1], fault[2])
        elif fault == "drop":
            # With a reset, as a proxy that dies does it.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif fault == "hang":
            time.sleep(30)
        elif fault == "json":
            self._send_raw(200, b'{"choices": [{', "application/json")
        elif fault == "choices":
            self._send(200, {"id": "a", "choices": []})
        elif fault == "half":
            data = json.dumps(self._completion(body, kind)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        else:
            raise AssertionError(fault)

    def _refuse(self, status: int, message: str, **more: str | None) -> None:
        self._send(status, {"error": {"message": message, "type": "invalid_request_error", **more}})

    def _send(
        self, status: int, value: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        self._send_raw(status, json.dumps(value).encode(), "application/json", headers)

    def _send_raw(
        self, status: int, data: bytes, kind: str, headers: dict[str, str] | None = None
    ) -> None:
        with self.state.lock:
            self.state.statuses[status] += 1
        with suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            for name, text in (headers or {}).items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(data)
