"""Waiting for vLLM servers: what is said at once, what is waited for, and what ends a wait."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.core.errors import BackendError, CalledOff
from dgpo_cli.samplers.settings import VllmServerBackend
from dgpo_cli.samplers.vllm import server as vllm_server
from dgpo_cli.samplers.vllm.client import VllmClient
from dgpo_cli.samplers.vllm.gate import key_file
from dgpo_cli.samplers.vllm.server import SharedServers
from tests.recorder import Recorder
from tests.samplers.fake_vllm import FakeVllm, fake_servers

Answer = Callable[[str], tuple[int, bytes]]


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """A web server that is no vLLM."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def wait(*urls: str, within_s: float = 60.0, model: str | None = None) -> list[str]:
    """Wait for servers; return what was said meanwhile."""
    told = Recorder()
    backend = VllmServerBackend(urls=urls, startup_timeout_s=within_s)
    SharedServers(backend, model=model).start(told)
    return told.notes


def fails_at_once(*urls: str) -> str:
    """Return the error of a wait that would last a minute if it did wait."""
    started = time.monotonic()
    with pytest.raises(BackendError) as caught:
        wait(*urls)
    assert time.monotonic() - started < 20
    return str(caught.value)


def test_a_look_that_breaks_ends_the_wait_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: VllmClient, *, timeout_s: float) -> None:
        raise ValueError("no\nidea")

    monkeypatch.setattr(VllmClient, "check_health", broken)
    url = "http://127.0.0.1:1"
    assert fails_at_once(url) == f"{url}: ValueError: no idea; set rollout.backend.urls"


HEALTHY: dict[str, tuple[int, bytes]] = {"/health": (200, b"")}
OTHERS = {"/v1/models": (200, b'{"data": [{"id": "llama", "owned_by": "llamacpp"}]}')}
MANY = {"/v1/models": (200, b'{"data": [{"id": "a"}, {"id": "b"}]}')}


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (
            {},
            r"GET /health: HTTP 404: .*not a vLLM server: set .* to the address .*without /v1",
        ),
        (HEALTHY, r"GET /v1/models: HTTP 404: .*not a vLLM server"),
        ({"/health": (301, b"")}, r"GET /health: HTTP 301"),
        ({"/health": (401, b"")}, r"GET /health: HTTP 401"),
        (HEALTHY | {"/v1/models": (200, b"<html>")}, r"/v1/models is not that of a vLLM"),
        (HEALTHY | {"/v1/models": (200, b"[1]")}, r"/v1/models is not that of a vLLM"),
        (HEALTHY | {"/v1/models": (200, b'{"data": []}')}, r"/v1/models is not that of"),
        ({"/health": (501, b"")}, r"GET /health: HTTP 501"),
        (HEALTHY | OTHERS, r"serves llama, but is not vLLM; .* dgpo eval --endpoint http:.* --mod"),
        ({"/health": (503, b"")} | OTHERS, r"not vLLM; .* dgpo eval --endpoint http:.* --model NA"),
        ({"/health": (503, b"")} | MANY, r"not that of a vLLM server with one .* --endpoint http"),
    ],
)
def test_what_is_no_vllm_server_ends_the_wait_at_once(
    answers: dict[str, tuple[int, bytes]], said: str
) -> None:
    import re

    with answering(lambda path: answers.get(path, (404, b"not found"))) as url:
        error = fails_at_once(url)
        assert error.startswith(f"{url}: ") and re.search(said, error), error


def test_a_look_waits_for_nobody_and_finds_what_waiting_cannot_mend(server: FakeVllm) -> None:
    def look(*urls: str) -> None:
        SharedServers(VllmServerBackend(urls=urls, startup_timeout_s=60)).check()

    with fake_servers() as (gone,):
        nobody = gone.address
    look(server.address, nobody)  # it may be starting
    with (
        answering(lambda path: (404, b"")) as wrong,
        pytest.raises(BackendError, match=f"{wrong}: GET /health: HTTP 404.* dgpo eval --endpoint"),
    ):
        look(server.address, wrong)


def test_a_name_that_nobody_has_ends_the_wait_at_once() -> None:
    error = fails_at_once("http://nowhere.invalid:8000")
    assert error.startswith("http://nowhere.invalid:8000: unknown host (")


def test_what_speaks_no_http_or_no_tls_ends_the_wait_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def greet() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                connection.recv(1000)
                connection.close()

        threading.Thread(target=greet, daemon=True).start()
        assert "the answer is not HTTP" in fails_at_once(f"http://127.0.0.1:{port}")
        assert "not a TLS server (http:// instead?); set rollout.backend.urls" in fails_at_once(
            f"https://127.0.0.1:{port}"
        )
        listener.shutdown(socket.SHUT_RDWR)


def test_a_certificate_that_is_not_trusted_is_named() -> None:
    from dgpo_cli.samplers.http_json import _gone

    error = ssl.SSLCertVerificationError()
    error.verify_message = "self-signed certificate"
    said = _gone(error)
    assert (str(said), said.may_pass) == (
        "certificate not trusted (self-signed certificate)",
        False,
    )


def test_a_key_that_is_missing_or_wrong_ends_the_wait_and_says_whose(
    server: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DGPO_VLLM_API_KEY", "wrong")
    error = fails_at_once(server.address)
    assert "GET /v1/models: HTTP 401: " in error
    assert error.endswith("; the key in DGPO_VLLM_API_KEY is not the server's")
    monkeypatch.delenv("DGPO_VLLM_API_KEY")
    file = key_file(server.address)
    file.write_text("stale")
    assert f"the key in {file} is not the server's: set DGPO_VLLM_API_KEY" in fails_at_once(
        server.address
    )
    file.unlink()
    assert "it needs a key: set DGPO_VLLM_API_KEY to" in fails_at_once(server.address)


def test_one_of_several_servers_that_cannot_come_is_named_while_others_may(
    server: FakeVllm,
) -> None:
    with fake_servers() as (gone,):
        nobody = gone.address
    with answering(lambda path: (404, b"")) as wrong:
        assert fails_at_once(nobody, server.address, wrong).startswith(f"{wrong}: GET /health")


def test_a_server_that_starts_is_waited_for_and_each_reason_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vllm_server, "_POLL_S", 0.02)
    with fake_servers() as (server,):
        url = server.address
        server.down()

        def start() -> None:
            time.sleep(0.3)
            server.up()

        threading.Thread(target=start).start()
        assert wait(url) == [
            f"waiting for {url} (connection refused) up to 60 s (rollout.backend.startup_timeout_s)"
        ]


def test_a_proxy_that_says_not_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "_POLL_S", 0.02)
    asked: list[str] = []

    def answer(path: str) -> tuple[int, bytes]:
        asked.append(path)
        if len(asked) < 4:
            return 503, b"starting"
        return 200, json.dumps({"data": [{"id": "m", "parent": None}]}).encode()

    with answering(answer) as url:
        (said,) = wait(url)
    assert said.startswith(f"waiting for {url} (GET /health: HTTP 503: starting) up to 60 s")


def test_silence_is_told_within_seconds_and_waited_for_until_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vllm_server, "_POLL_S", 0.02)
    monkeypatch.setattr(vllm_server, "_LOOK_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(BackendError, match=rf"{url}: .* after 0\.5 s \(no answer within 0\.2"):
            wait(url, within_s=0.5)


def test_another_name_of_the_model_is_said(server: FakeVllm) -> None:
    assert wait(server.address, model="org/other") == [
        f"{server.address} serves base-model; the model of this run is org/other"
    ]
    assert wait(server.address, model="/data/Base-Model") == []


def test_another_name_is_refused_where_nothing_compares_weights(server: FakeVllm) -> None:
    url = server.address
    backend = VllmServerBackend(urls=(url,), startup_timeout_s=5)

    def start(another: vllm_server.Another, model: str = "org/other") -> list[str]:
        told = Recorder()
        SharedServers(backend, model=model, another=another).start(told)
        return told.notes

    said = rf"^{url} serves base-model, not org/other; start it with dgpo serve --model org/other"
    with pytest.raises(BackendError, match=said):
        start("refused")
    assert start("refused", "/data/Base-Model") == []
    (note,) = start("given ours")
    assert note.startswith(f"{url} serves base-model; the model of this run is")
    server.faults.no_updates = True
    with pytest.raises(BackendError, match=said):
        start("given ours")


def test_a_server_that_was_ready_may_lose_its_name_for_a_while(
    server: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_server, "_POLL_S", 0.02)
    servers = SharedServers(VllmServerBackend(urls=(server.address,), startup_timeout_s=20))
    real, failures = socket.getaddrinfo, [1, 1]

    def flaky(*arguments: Any, **rest: Any) -> Any:
        if failures:
            failures.pop()
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(*arguments, **rest)

    monkeypatch.setattr(socket, "getaddrinfo", flaky)
    servers.bring_back(servers.clients[0], ConnectionError("gone"))
    assert failures == []


def test_a_wait_that_is_called_off_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        backend = VllmServerBackend(urls=(f"http://127.0.0.1:{mute.getsockname()[1]}",))
        servers = SharedServers(backend)
        threading.Timer(0.2, servers.wait_no_more).start()
        started = time.monotonic()
        with pytest.raises(CalledOff):
            servers.start(Recorder())
        assert time.monotonic() - started < 2


# Real processes.


def settings(url: str) -> list[str]:
    pairs = (
        *("model.device=cpu", "rollout.backend.kind=vllm-server"),
        *(f'rollout.backend.urls=["{url}"]', "reward.workers=1", "train.threads=1"),
        *("prompts.max_prompt_tokens=64", "rollout.max_completion_tokens=8"),
    )
    return [part for pair in pairs for part in ("--set", pair)]


COMMANDS: dict[str, Sequence[str]] = {
    "train": ("train", "--preset", "tiny", "--out", "OUT"),
    "train ahead": ("train", "--preset", "tiny", "--out", "OUT", "--set", "rollout.overlap=1"),
    "eval": ("eval", "--bench", "sums-easy", "--k", "1", "--preset", "tiny", "--out", "OUT"),
}


@pytest.mark.parametrize(
    ("command", "number", "silent"),
    [
        ("train", signal.SIGTERM, True),
        ("train ahead", signal.SIGINT, False),
        ("eval", signal.SIGINT, True),
    ],
)
def test_a_signal_ends_a_wait_at_once(
    tmp_path: Path, command: str, number: signal.Signals, silent: bool
) -> None:
    """One signal, whether nobody is there or somebody who says nothing."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        if silent:
            holder.listen()
        url = f"http://127.0.0.1:{holder.getsockname()[1]}"
        words = [str(tmp_path / "out") if word == "OUT" else word for word in COMMANDS[command]]
        process = subprocess.Popen(
            [sys.executable, "-m", "dgpo_cli", *words, *settings(url)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {"NO_COLOR": "1"},
        )
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if "waiting for" in line:
                break
        assert f"waiting for {url} (" in lines[-1], "".join(lines)
        started = time.monotonic()
        process.send_signal(number)
        rest = process.communicate(timeout=60)[1]
        assert time.monotonic() - started < 20  # on a busy machine; the wait is for 900
        expected = {signal.SIGINT: (130,), signal.SIGTERM: (143, -signal.SIGTERM)}[number]
        assert process.returncode in expected, "".join(lines) + rest
        assert "Traceback" not in rest
