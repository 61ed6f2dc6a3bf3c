"""Requests to a server: what comes back, and which failures are told apart."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dgpo_cli.samplers.http_json import Address, ServerGone, ServerSaysNo, ServerSlow


@contextmanager
def listening(
    answer: Callable[[socket.socket], None], *, path: Path | None = None
) -> Iterator[str]:
    """A server that hands every connection to `answer`, one after the other."""
    family = socket.AF_UNIX if path else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.bind(str(path) if path else ("127.0.0.1", 0))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    answer(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield f"unix:{path}" if path else f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def whole_request(connection: socket.socket) -> bytes:
    """Read head and body, which may come in two pieces; nothing from who sends nothing."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    (length,) = re.findall(rb"Content-Length: (\d+)", head)
    while len(body) < int(length):
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def says(status: str, body: bytes, seen: list[bytes] | None = None) -> Callable[..., None]:
    def answer(connection: socket.socket) -> None:
        request = whole_request(connection)
        if not request:
            return
        if seen is not None:
            seen.append(request)
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        connection.sendall(head + body)

    return answer


def get(url: str, *, timeout_s: float = 5.0, key: str | None = None) -> object:
    connection = Address(url, key).connect()
    try:
        return connection.request("POST", "/p?q=1", {"a": [1]}, timeout_s=timeout_s)
    finally:
        connection.close()


def test_json_goes_and_comes_on_a_port_and_on_a_unix_socket(tmp_path: Path) -> None:
    for path in (None, tmp_path / "s"):
        seen: list[bytes] = []
        with listening(says("200 OK", b'{"x": 1.5}', seen), path=path) as url:
            assert get(url, key="k3y") == {"x": 1.5}
        (request,) = seen
        assert request.startswith(b"POST /p?q=1 HTTP/1.1\r\n")
        assert b"Authorization: Bearer k3y\r\n" in request


def test_an_addresss_own_path_comes_before_the_requests() -> None:
    seen: list[bytes] = []
    with listening(says("200 OK", b"", seen)) as url:
        assert get(f"{url}/prefix/") is None
    assert seen[0].startswith(b"POST /prefix/p?q=1 ")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "too\\nlong"}}', "too long"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b"<html>\nbad gateway</html>", ""),
        (b"\n<!DOCTYPE html><html><head><title>502 Bad\nGateway</title>", "502 Bad Gateway"),
        (b"bad\ngateway", "bad gateway"),
        (b"x" * 5000, "x" * 300 + "..."),
        (b"", ""),
    ],
)
def test_a_refusal_carries_the_servers_words_on_one_line(body: bytes, message: str) -> None:
    with listening(says("422 No", body)) as url, pytest.raises(ServerSaysNo) as caught:
        get(url)
    assert str(caught.value) == (f"HTTP 422: {message}" if message else "HTTP 422")
    assert caught.value.status == 422


@pytest.mark.parametrize(("status", "may"), [(400, False), (404, False), (429, True), (503, True)])
def test_only_some_refusals_may_pass(status: int, may: bool) -> None:
    assert ServerSaysNo(status, "").may_pass is may


def test_nobody_there_and_a_broken_answer_are_a_server_that_is_gone(tmp_path: Path) -> None:
    with listening(lambda connection: None) as url, pytest.raises(ServerGone):
        get(url)
    with pytest.raises(ServerGone):
        get(url)
    with pytest.raises(ServerGone):
        get(f"unix:{tmp_path / 'absent'}")

    def half(connection: socket.socket) -> None:
        whole_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")

    with listening(half) as url, pytest.raises(ServerGone):
        get(url)


def test_no_answer_in_time_is_a_server_that_is_slow() -> None:
    slow = pytest.raises(ServerSlow, match=r"no answer within 0\.05 s")
    with listening(lambda connection: time.sleep(0.5)) as url, slow:
        get(url, timeout_s=0.05)


def test_closing_ends_a_request_that_another_thread_waits_for() -> None:
    with listening(lambda connection: time.sleep(3.0)) as url:
        connection = Address(url).connect()
        errors: list[Exception] = []

        def ask() -> None:
            try:
                connection.request("GET", "/", timeout_s=60.0)
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.1)
        connection.close()
        thread.join(timeout=2.0)
        assert not thread.is_alive()
        assert [type(error) for error in errors] == [ServerGone]


@pytest.mark.parametrize("moment", ["before", "while it opens", "after"])
def test_a_connection_that_is_given_up_sends_nothing_and_is_closed(moment: str) -> None:
    seen: list[bytes] = []
    with listening(says("200 OK", b"{}", seen)) as url:
        connection = Address(url).connect()
        if moment == "before":
            connection.abandon()
        elif moment == "after":
            connection.request("POST", "/early", {}, timeout_s=5)
            connection.abandon()
        else:
            opens = connection._http.connect

            def slowly() -> None:
                connection.abandon()  # in the other thread, which sees no socket yet
                opens()

            connection._http.connect = slowly  # type: ignore[method-assign]
        for _ in range(2):
            with pytest.raises(ServerGone):
                connection.request("POST", "/late", {}, timeout_s=5)
        assert connection._http.sock is None
    assert not [request for request in seen if b"/late" in request]
