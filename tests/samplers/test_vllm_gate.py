"""Who may call a server of `dgpo serve`; over real sockets, before a server that is no vLLM."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import socket
import stat
import tempfile
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.samplers.http_json import Address, ServerSaysNo
from dgpo_cli.samplers.vllm import gate as vllm_gate
from dgpo_cli.samplers.vllm.command import ServerFlags
from dgpo_cli.samplers.vllm.gate import (
    RELOAD,
    Gate,
    GateRules,
    Refused,
    key_file,
    read_key,
    write_key,
)
from tests.samplers.fake_vllm import FILE, FakeVllm, fake_servers
from tests.samplers.gate_cases import Attempt, answer_to, refused, rpc, wrongly_answered

RULES = GateRules("right", folder="/w")
HEAD = ((b"host", b"localhost:8000"), (b"authorization", b"Bearer right"))


def key_of(server: FakeVllm) -> str:
    assert server.rules is not None
    return server.rules.key


def test_what_must_be_refused_is_refused_and_reaches_nothing(
    server: FakeVllm, tmp_path: Path
) -> None:
    attempts = refused(tmp_path / "ours", outside=tmp_path / "outside")
    assert server.rules is not None
    server.rules = replace(server.rules, folder=str(tmp_path / "ours"))
    assert wrongly_answered(server.address, attempts, key=key_of(server)) == []
    assert server.calls == []


def test_health_is_open_and_the_key_opens_what_dgpo_uses(server: FakeVllm, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / FILE).write_text("0.5")
    key = key_of(server)
    for attempt in (
        Attempt("health", 200, "GET", "/health", key=None),
        Attempt("models", 200, "GET", "/v1/models"),
        Attempt("lower case", 200, "GET", "/v1/models", key="bearer KEY"),
        Attempt("by name", 200, "GET", "/v1/models", host=f"LOCALHOST:{server.port}"),
        Attempt("by IPv6", 200, "GET", "/v1/models", host="[::1]:80"),
        Attempt("with a charset", 200, kind="application/json; charset=utf-8"),
        Attempt("weights", 200, path="/collective_rpc", body=rpc(tmp_path / "weights")),
    ):
        assert answer_to(server.address, attempt, key=key)[0] == attempt.status, attempt.name
    assert server.base == 0.5


def test_a_server_that_takes_no_weights_has_no_calls_for_them() -> None:
    closed = replace(RULES, updates=False)
    closed.admit("GET", "/v1/models", HEAD)
    for path in ("/collective_rpc", "/v1/load_lora_adapter", "/update_weights"):
        with pytest.raises(Refused) as caught:
            closed.admit("POST", path, [*HEAD, (b"content-type", b"application/json")])
        assert caught.value.status == 404


@pytest.mark.parametrize(
    ("host", "own"),
    [
        *(("10.1.2.3:8000", True), ("[fd00::1]:8000", True), ("node17:8000", True)),
        *(("localhost", True), ("gpu.example.org", True), ("GPU.example.org.", True)),
        *(("evil.example.org", False), ("0.0.0.0:8000", False), ("gpu.example.org.evil", False)),
    ],
)
def test_a_server_that_others_reach_knows_its_names_and_addresses(host: str, own: bool) -> None:
    rules = replace(RULES, names=("gpu.example.org",))
    head = [(b"host", host.encode()), HEAD[1]]
    if own:
        rules.admit("GET", "/v1/models", head)
    else:
        with pytest.raises(Refused, match="Host is not a name of this server"):
            rules.admit("GET", "/v1/models", head)


def test_two_hosts_or_two_keys_are_none() -> None:
    for double in HEAD:
        with pytest.raises(Refused):
            RULES.admit("GET", "/v1/models", [*HEAD, double])


def test_a_server_without_a_key_lets_nobody_in() -> None:
    with pytest.raises(Refused) as caught:
        replace(RULES, key="").admit("GET", "/v1/models", [HEAD[0], (b"authorization", b"Bearer ")])
    assert caught.value.status == 401


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return hmac.compare_digest(a, b)

    class Spied:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(vllm_gate, "hmac", Spied)
    RULES.admit("GET", "/v1/models", HEAD)
    assert compared == [(b"right", b"right")]


def test_an_owner_is_asked_for_where_anybody_may_write(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    body = json.dumps(rpc(tmp_path / "w")).encode()
    mine = replace(RULES, folder=str(tmp_path), owner=os.getuid())
    assert json.loads(mine.narrowed("/collective_rpc", body)) == rpc(tmp_path / "w")
    with pytest.raises(Refused, match="does not belong to the user"):
        replace(mine, owner=os.getuid() + 1).narrowed("/collective_rpc", body)


def test_what_was_checked_is_what_is_read(tmp_path: Path) -> None:
    """A link that is turned aside between the two would lead elsewhere."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    rules = replace(RULES, folder=str(tmp_path))
    body = rules.narrowed("/collective_rpc", json.dumps(rpc(tmp_path / "link")).encode())
    assert json.loads(body) == rpc((tmp_path / "real").resolve())


# The middleware itself.


def through(
    monkeypatch: pytest.MonkeyPatch, rules: GateRules, scope: dict[str, Any], *pieces: bytes
) -> tuple[list[MutableMapping[str, Any]], list[bytes], list[MutableMapping[str, Any]]]:
    """Return what the gate answers, and the bodies and scopes that reach what is behind it."""
    for name, value in rules.environment().items():
        monkeypatch.setenv(name, value)
    said: list[MutableMapping[str, Any]] = []
    bodies: list[bytes] = []
    scopes: list[MutableMapping[str, Any]] = []
    waiting = list(pieces)

    async def receive() -> MutableMapping[str, Any]:
        piece = waiting.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(waiting)}

    async def send(message: MutableMapping[str, Any]) -> None:
        said.append(message)

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        if scope["type"] == "http":
            bodies.append((await receive())["body"])

    # The browser of the pages' tests keeps a loop running in this thread.
    with ThreadPoolExecutor(1) as other:
        other.submit(asyncio.run, Gate(behind)(scope, receive, send)).result()
    return said, bodies, scopes


def request(path: str, *more: tuple[bytes, bytes], method: str = "POST") -> dict[str, Any]:
    headers = [*HEAD, (b"content-type", b"application/json"), *more]
    return {"type": "http", "method": method, "path": path, "headers": headers}


def test_the_middleware_hands_on_the_folder_as_it_really_is_with_its_length(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "a-link-with-a-long-name").symlink_to(tmp_path / "real")
    body = json.dumps(rpc(tmp_path / "a-link-with-a-long-name")).encode()
    scope = request("/collective_rpc", (b"content-length", str(len(body)).encode()))
    rules = replace(RULES, folder=str(tmp_path))
    said, bodies, scopes = through(monkeypatch, rules, scope, body[:9], body[9:])
    assert said == [] and json.loads(bodies[0]) == rpc((tmp_path / "real").resolve())
    lengths = [value for name, value in scopes[0]["headers"] if name == b"content-length"]
    assert lengths == [str(len(bodies[0])).encode()] != [str(len(body)).encode()]


def test_the_middleware_answers_what_it_refuses_and_lets_the_rest_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said, bodies, _ = through(monkeypatch, replace(RULES, key="else"), request("/v1/completions"))
    assert (said[0]["status"], bodies) == (401, [])
    assert "key is missing or wrong" in json.loads(said[1]["body"])["error"]["message"]
    said, bodies, _ = through(monkeypatch, RULES, request("/v1/completions"), b"{}")
    assert (said, bodies) == ([], [b"{}"])


def test_the_middleware_closes_web_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    scope = {"type": "websocket", "path": "/v1/realtime", "headers": list(HEAD)}
    said, _, scopes = through(monkeypatch, RULES, scope)
    assert said == [{"type": "websocket.close", "code": 1008}] and scopes == []


def test_the_middleware_does_not_start_without_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RULES.environment():
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(KeyError):
        Gate(None)  # type: ignore[arg-type]


def test_the_key_is_in_the_environment_and_not_on_the_command_line() -> None:
    flags = ServerFlags("m", rules=replace(RULES, key="s3cret"))
    assert "--middleware=dgpo_cli.samplers.vllm.gate.Gate" in flags.command()
    assert "s3cret" not in " ".join(flags.command())
    assert "s3cret" in " ".join(flags.environment().values())
    assert not any("middleware" in word for word in ServerFlags("m").command())


# The file of a key.


def test_a_key_is_new_each_time_and_its_users_alone(keys_folder: Path) -> None:
    old_mask = os.umask(0)
    try:
        path = key_file("http://127.0.0.1:8000")
        first, second = write_key(path), write_key(path)
    finally:
        os.umask(old_mask)
    assert len(first) >= 43 and first != second == read_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.is_relative_to(keys_folder)


def test_a_key_that_others_can_read_or_that_is_a_link_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_key(path)
    (tmp_path / "link").symlink_to(path)
    assert read_key(tmp_path / "link") is None
    path.chmod(0o640)
    assert read_key(path) is None
    assert read_key(tmp_path / "absent") is None


def test_one_servers_key_is_found_under_each_of_its_names() -> None:
    own = key_file("http://127.0.0.1:8000")
    assert own == key_file("http://localhost:8000/") == key_file("http://[::1]:8000")
    assert own == key_file(f"http://{socket.gethostname()}:8000")
    others = ("http://127.0.0.1:8001", "http://gpu7:8000", "http://10.0.0.5:8000")
    assert len({own, *map(key_file, others)}) == 4


def test_every_server_is_sent_its_own_key(keys_folder: Path) -> None:
    from functools import partial

    with fake_servers(2) as servers:
        for server in servers:
            read = partial(read_key, key_file(server.address))
            Address(server.address, read).connect().request("GET", "/v1/models", timeout_s=5)
        assert len({key_of(server) for server in servers}) == 2
        assert [server.keys for server in servers] == [{f"Bearer {key_of(s)}"} for s in servers]


def test_a_server_that_is_started_anew_is_sent_its_new_key(server: FakeVllm) -> None:
    from functools import partial

    address = Address(server.address, partial(read_key, key_file(server.address)))
    before = key_of(server)
    server.down()
    server.up()
    assert key_of(server) != before
    address.connect().request("GET", "/v1/models", timeout_s=5)
    key_file(server.address).unlink()
    with pytest.raises(ServerSaysNo, match="key is missing"):
        address.connect().request("GET", "/v1/models", timeout_s=5)


def test_rules_come_through_the_environment_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for rules in (RULES, GateRules("k", folder=tempfile.gettempdir(), owner=3, names=("a", "b"))):
        for name, value in rules.environment().items():
            monkeypatch.setenv(name, value)
        assert GateRules.from_environment() == rules


def test_the_method_that_is_open_is_the_workers_reload() -> None:
    assert RELOAD == "dgpo_reload_weights"
