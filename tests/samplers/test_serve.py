"""dgpo serve around a server that is none: addresses, signals, ends. No vLLM here."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.samplers.http_json import ServerSaysNo
from dgpo_cli.samplers.settings import VllmServerBackend
from dgpo_cli.samplers.vllm import serve
from dgpo_cli.samplers.vllm.command import ServerFlags
from dgpo_cli.samplers.vllm.server import SharedServers
from tests.processes import left_behind, with_mark

SERVE = """
import sys
from dgpo_cli.samplers.vllm import process as vllm_process
from dgpo_cli.samplers.vllm.command import ServerFlags
from dgpo_cli.__main__ import main as dgpo
from dgpo_cli.cli import options
from dgpo_cli.config import checks
vllm_process.GRACE_S = 0.2
checks.has_vllm = lambda: True
options.reach = lambda model: None
mode = sys.argv.pop(1)
ServerFlags.command = lambda self, *, host, port: [
    sys.executable, "-m", "tests.samplers.fake_engine", str(port), mode
]
dgpo()
"""


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    mark = f"DGPO_TEST_MARK={uuid.uuid4().hex}"
    monkeypatch.setenv(*mark.split("="))
    yield mark
    for pid in with_mark(mark):
        if pid != os.getpid():
            os.kill(pid, signal.SIGKILL)


def start(mode: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SERVE, mode, "serve", "--model", "org/m", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(*, port: int, sync_dir: Path | None = None) -> None:
    with serve.serving(
        ServerFlags("m"),
        host="127.0.0.1",
        port=port,
        api_key=None,
        sync_dir=sync_dir,
        startup_timeout_s=1.0,
    ) as server:
        server.wait()


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
)
def test_it_says_where_it_serves_and_ends_with_everything(
    mark: str, number: signal.Signals, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    own = set(with_mark(mark))
    process = start("ok", "--max-num-seqs", "5")
    assert process.stdout is not None
    first, second = process.stdout.readline(), process.stdout.readline()
    assert first.startswith("serving org/m at http://127.0.0.1:")
    url = first.split()[-1]
    assert second == (
        "use it with: --set rollout.backend.kind=vllm-server "
        f"--set 'rollout.backend.urls=[\"{url}\"]' --set rollout.backend.max_num_seqs=5\n"
    )
    (key,) = tmp_path.glob("dgpo/serve/*.key")
    assert process.stdout.readline().startswith(f"the key is in {key}: dgpo finds it there")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{url}/v1/models", timeout=5)
    (client,) = SharedServers(VllmServerBackend(urls=(url,))).clients
    assert client.served().model == "base-model"  # a trainer of this user finds the key
    assert len(set(with_mark(mark)) - own) == 4  # dgpo, the guard, the server, its child
    process.send_signal(number)
    assert process.wait(timeout=30) == code
    assert set(left_behind(mark, within_s=15)) <= own
    assert key.exists() == (number == signal.SIGKILL)  # and opens nothing then


@linux
def test_the_key_of_the_user_is_the_only_one(
    mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("DGPO_VLLM_API_KEY", "s3cret")
    process = start("ok", "--api-key-env", "DGPO_VLLM_API_KEY")
    assert process.stdout is not None
    url = process.stdout.readline().split()[-1]
    (client,) = SharedServers(VllmServerBackend(urls=(url,))).clients
    assert client.served().model == "base-model"
    monkeypatch.setenv("DGPO_VLLM_API_KEY", "other")
    (client,) = SharedServers(VllmServerBackend(urls=(url,))).clients
    with pytest.raises(ServerSaysNo, match="401"):
        client.served()
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert "the key is in" not in out and "s3cret" not in out + err
    assert list(tmp_path.rglob("*.key")) == []


def test_a_key_that_cannot_be_written_is_named_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"file/dgpo/serve/.*\.key: .*--api-key-env"):
        run(port=0)


def test_a_folder_of_weights_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--sync-dir .*absent: no such folder"):
        run(port=0, sync_dir=tmp_path / "absent")


@linux
def test_a_server_that_does_not_start_is_an_error_of_one_line(mark: str) -> None:
    own = set(with_mark(mark))
    process = start("broken")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and out == ""
    assert "ValueError: head size 8 is not supported" in err  # the server's own words
    assert err.splitlines()[-1].startswith("error: vLLM exited with code 1 during startup")
    assert set(left_behind(mark, within_s=15)) <= own


def test_what_it_prints_can_be_given_to_set() -> None:
    from dgpo_cli.config.load import resolve

    settings = resolve(
        overrides=[
            "rollout.backend.kind=vllm-server",
            'rollout.backend.urls=["http://127.0.0.1:8000"]',
            "rollout.backend.max_num_seqs=5",
        ]
    ).settings
    assert settings.rollout.backend.urls == ("http://127.0.0.1:8000",)  # type: ignore[union-attr]


def test_a_port_that_is_taken_is_refused_before_anything_starts() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: .*choose another --port"):
            run(port=port)


def test_room_for_an_adapter_is_its_largest_rank(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 8, "rank_pattern": {"q": 24}}')
    assert serve.with_room(ServerFlags("m", adapter=tmp_path, lora_rank=4)).lora_rank == 24
    assert serve.with_room(ServerFlags("m", adapter=tmp_path, lora_rank=64)).lora_rank == 64
    with pytest.raises(ConfigError, match=r"--adapter .*absent: no adapter_config\.json"):
        serve.with_room(ServerFlags("m", adapter=tmp_path / "absent"))
