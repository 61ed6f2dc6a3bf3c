"""Users and passwords in addresses reach the connection and nothing that is written or shown."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.config.changes import differences
from dgpo_cli.config.dump import describe, dump_toml
from dgpo_cli.config.layers import set_layers
from dgpo_cli.config.load import Resolved, layered, resolve
from dgpo_cli.core.errors import BackendError, ConfigError, without_logins
from dgpo_cli.core.events import NOBODY
from dgpo_cli.doctor import machine
from dgpo_cli.hub.files import HubFile, fetch
from dgpo_cli.samplers.settings import ServerUrl, VllmServerBackend
from dgpo_cli.samplers.vllm.server import SharedServers
from tests.cli.helpers import dgpo
from tests.hub.hub_server import Hub, serving

SECRET = "s3cret"
BASIC = "Basic " + base64.b64encode(f"me:{SECRET}/@".encode()).decode()
LOGIN = f"me:{SECRET}%2F%40"
ADDRESSES = {
    f"http://me:{SECRET}@host:8000/a": "http://host:8000/a",
    f"https://{SECRET}@host": "https://host",
    f"http://me:p@{SECRET}@[::1]:8000": "http://[::1]:8000",
    "http://host:8000/a@b": "http://host:8000/a@b",
    "http://[::1]:80/a@b": "http://[::1]:80/a@b",
    "unix:/run/a@b": "unix:/run/a@b",
}
BACKEND = "rollout.backend.kind=vllm-server"


def resolved(url: str, *more: str) -> Resolved:
    return resolve(
        preset="tiny", overrides=[BACKEND, f'rollout.backend.urls=["{url}"]', "seed=3", *more]
    )


def urls_of(settings: Resolved) -> tuple[ServerUrl, ...]:
    backend = settings.settings.rollout.backend
    assert isinstance(backend, VllmServerBackend)
    return backend.urls


@pytest.mark.parametrize(("address", "shown"), ADDRESSES.items())
def test_an_address_is_shown_without_its_login(address: str, shown: str) -> None:
    assert str(ServerUrl(address)) == shown
    assert without_logins(f"asked '{address}' (x), me@here") == f"asked '{shown}' (x), me@here"
    assert str(BackendError(f"{address}: gone")) == f"{shown}: gone"


@pytest.mark.parametrize("at", ["me:pw/x", "me:pw1/x", "me:/"])
def test_a_password_with_a_slash_is_not_shown_either(at: str) -> None:
    assert without_logins(f"http://{at}{SECRET}@host/a") == "http://host/a"


def test_settings_keep_a_login_for_the_connection_alone() -> None:
    found = resolved(f"http://{LOGIN}@127.0.0.1:1")
    again = layered(found, *set_layers(["seed=4"]))
    for each in (found, again):
        (url,) = urls_of(each)
        assert (url, url.login) == ("http://127.0.0.1:1", LOGIN)
        shown = dump_toml(each) + str(describe(each)) + each.settings.model_dump_json() + repr(each)
        assert "127.0.0.1:1" in shown and SECRET not in shown
    assert differences(found, resolved("http://127.0.0.1:1")) == ()


@pytest.mark.parametrize("url", ["ftp://me:{}@host", "http://me:{}/x@host", "{}@host", "http://@"])
def test_an_address_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"rollout\.backend\.urls: an address must be") as caught:
        resolved(url.format(SECRET))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://me:{}@bad host/",
        "http://me:{}@host/a b",
        r"http://me:{}@ho\tst",
        r"http://me:{}@host\n",
        r"http://me:{}@host\u007f",
        r"http://me:{}@host/\u00e9",
        "http://me:{}@host:99999",
        "http://me:{}@:80",
    ],
)
def test_an_address_that_cannot_be_sent_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"rollout\.backend\.urls: an address must be") as caught:
        resolved(url.replace("{}", SECRET))
    assert SECRET not in str(caught.value)


@pytest.fixture
def seen() -> Iterator[tuple[str, list[str | None]]]:
    """A server that refuses everybody, and what it was sent as authorization."""
    sent: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent.append(self.headers["Authorization"])
            self.send_response(401)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"{LOGIN}@127.0.0.1:{server.server_port}", sent
        server.shutdown()


def test_a_connection_sends_the_login_of_its_address(
    seen: tuple[str, list[str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, sent = seen
    monkeypatch.setenv("DGPO_VLLM_API_KEY", "k3y")
    backend = resolved(f"http://{address}").settings.rollout.backend
    assert isinstance(backend, VllmServerBackend)
    servers = SharedServers(backend)
    (client,) = servers.clients
    with pytest.raises(
        BackendError, match=r"401.*user and password in its address .* wrong$"
    ) as no:
        servers.start(NOBODY)
    assert set(sent) == {BASIC}
    shown = f"{no.value} {client} {client.address!r}"
    assert SECRET not in shown and "k3y" not in shown


def test_the_doctor_asks_the_hub_with_its_login_and_shows_none(
    seen: tuple[str, list[str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, sent = seen
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", f"http://{address}")
    found = machine.hub()
    assert found.state == "ok" and sent == [BASIC]
    monkeypatch.setenv("HF_ENDPOINT", f"http://{LOGIN}@127.0.0.1:9")
    assert SECRET not in f"{found} {machine.hub()}"


def test_a_hub_is_asked_with_its_login_and_errors_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    file = HubFile("someone/some-data", "0" * 40, "test.jsonl")
    with serving(Hub(file.dataset, file.revision, {file.name: b"{}\n"}, gated=BASIC)) as hub:
        address = hub.url.removeprefix("http://")
        monkeypatch.setenv("HF_ENDPOINT", f"http://{LOGIN}@{address}")
        assert fetch(file)[0].read_bytes() == b"{}\n"
        hub.gated = "Basic other"
        with pytest.raises(BackendError, match=f"asked http://{address}") as caught:
            fetch(HubFile(file.dataset, file.revision, "other.jsonl"))
    assert SECRET not in str(caught.value)


def test_a_run_that_reaches_nobody_leaves_and_prints_no_password(tmp_path: Path) -> None:
    """Nobody listens at the port; HF_ENDPOINT is one of those whose errors are not ours."""
    url = f"http://{LOGIN}@127.0.0.1:9"
    ended = dgpo(
        *("train", "--preset", "tiny", "--out", str(tmp_path / "run"), "--view", "lines"),
        *("--set", BACKEND, "--set", f'rollout.backend.urls=["{url}"]'),
        *("--set", "rollout.backend.startup_timeout_s=0.1", "--debug"),
        env={"HF_ENDPOINT": url},
    )
    assert ended.code == 1 and "127.0.0.1:9" in ended.err
    shown = dgpo(
        "train",
        "--preset",
        "tiny",
        "--dry-run",
        "--set",
        BACKEND,
        "--set",
        f'rollout.backend.urls=["{url}"]',
    )
    assert shown.code == 0 and "127.0.0.1:9" in shown.out
    assert SECRET not in ended.out + ended.err + shown.out + shown.err
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert files and not any(SECRET.encode() in path.read_bytes() for path in files)
