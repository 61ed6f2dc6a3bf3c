"""A model of the hub, asked for before it is loaded: from a hub that is dead in several ways."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.core.errors import BackendError, ModelError, NoModelError
from dgpo_cli.hub import calls as hub_calls
from dgpo_cli.hub.model import reach_model
from dgpo_cli.policy.config_file import find_config
from dgpo_cli.policy.settings import EMBEDDED_TINY, ModelSettings
from dgpo_cli.prompts.hub_dataset import fetch_split, resolve_revision
from dgpo_cli.prompts.settings import HubPrompts
from tests.recorder import Notes

COMMIT = "ab" * 20


@contextmanager
def answering(status: int, code: str = "") -> Iterator[str]:
    """A hub that answers everything with one status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", '"0"')
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *arguments: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def silent() -> Iterator[str]:
    """A hub that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        yield f"http://127.0.0.1:{mute.getsockname()[1]}"


@contextmanager
def absent() -> Iterator[str]:
    """A port that is held and on which nobody listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{holder.getsockname()[1]}"


DEAD = {
    "absent": (absent, "refused"),
    "silent": (silent, "timed out"),
    "503": (lambda: answering(503), "503"),
}
dead = pytest.mark.parametrize("kind", ["absent", "silent", "503"])


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network, an empty cache, and short waits; returns the folder of the cache."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub_calls, "_offline_reason", "")
    monkeypatch.setattr(hub_calls, "_WAIT_S", 0.01)
    monkeypatch.setattr("dgpo_cli.hub.model.TIMEOUT_S", 0.2)
    monkeypatch.setattr("dgpo_cli.prompts.hub_dataset.TIMEOUT_S", 0.2)
    return tmp_path


def put_into_cache(folder: Path, *, cache: Path) -> None:
    """Lay a model's files where huggingface_hub would."""
    repository = cache / "models--org--m"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, repository / "snapshots" / COMMIT)


def reach(path: str = "org/m", **more: Any) -> list[str]:
    told: list[str] = []
    reach_model(ModelSettings(path=path, **more), observer=Notes(told))
    return told


@dead
def test_a_dead_hub_ends_in_one_line_with_the_reason_and_the_way_around(
    network: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    open_hub, reason = DEAD[kind]
    with open_hub() as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        with pytest.raises(BackendError) as caught:
            reach()
    said = str(caught.value)
    assert said.startswith("model.path=org/m could not be fetched (") and "\n" not in said
    assert reason in said and said.endswith(f"or give the folder of a model; asked {url}")


@dead
def test_a_cached_model_is_taken_where_the_hub_is_dead_and_nobody_is_asked_again(
    network: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path, kind: str
) -> None:
    from huggingface_hub import constants

    put_into_cache(model_folder, cache=network)
    open_hub, reason = DEAD[kind]
    with open_hub() as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        first, second = reach()
        assert first == f"org/m: asking {url}"
        assert second.startswith("org/m: the hub does not answer (") and reason in second
        assert second.endswith("); using the cached copy")
        assert constants.is_offline_mode() and os.environ["HF_HUB_OFFLINE"] == "1"
        assert reach() == []
        with pytest.raises(BackendError, match=r"model\.path=org/other is not in the cache and the "
                           r"hub does not answer \("):  # fmt: skip
            reach("org/other")


def test_a_hub_that_says_no_is_believed_at_once_unless_the_cache_has_a_copy(
    network: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    from huggingface_hub import constants

    with answering(401, "GatedRepo") as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        with pytest.raises(BackendError, match=r"model\.path=org/m is gated: .* set HF_TOKEN"):
            reach()
        put_into_cache(model_folder, cache=network)
        assert reach()[1:] == ["org/m: the hub refuses it; using the cached copy"]
        assert not constants.is_offline_mode()
    with answering(404, "RepoNotFound") as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        with pytest.raises(BackendError, match=r"org/n is private or does not exist"):
            reach("org/n")


def test_a_hub_that_answers_is_left_to_whoever_loads_the_model(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    for status, code in ((200, ""), (404, "EntryNotFound")):
        with answering(status, code) as url:
            monkeypatch.setenv("HF_ENDPOINT", url)
            assert reach() == [f"org/m: asking {url}"]
    assert not constants.is_offline_mode()


def test_a_model_in_a_folder_asks_nobody(network: Path, model_folder: Path) -> None:
    assert reach(str(model_folder)) == reach(EMBEDDED_TINY) == []
    for absent in ("./absent", "/absent"):
        with pytest.raises(ModelError, match=f"model.path={absent}: no such folder"):
            reach(absent)


def test_a_model_that_is_a_file_is_refused_and_nobody_is_asked(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "m").write_bytes(b"\0\xff")
    for refuses in (reach, lambda path: find_config(ModelSettings(path=path))):
        with pytest.raises(NoModelError, match=r"model\.path=org/m: is a file; give the folder"):
            refuses("org/m")


def test_offline_without_a_copy_is_said_at_once(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BackendError, match="org/m is not in the cache and HF_HUB_OFFLINE is set"):
        reach()


@dead
def test_data_of_a_dead_hub_are_given_up_as_soon(
    network: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    open_hub, reason = DEAD[kind]
    with open_hub() as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        with pytest.raises(BackendError, match=rf"org/data at .*{reason}"):
            resolve_revision("org/data", None)


@dead
def test_data_in_the_cache_are_read_where_the_hub_is_dead_and_nobody_is_asked_again(
    network: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from huggingface_hub import constants

    folder = network / "datasets--org--data" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("{}")
    open_hub, _ = DEAD[kind]
    with open_hub() as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        commit, (note,) = resolve_revision("org/data", None)
        assert commit == COMMIT and "the hub does not answer" in note
        assert constants.is_offline_mode()
        assert fetch_split(HubPrompts(dataset="org/data", revision=COMMIT)).names == (
            "train.jsonl",
        )


BENCHMARK = """
import sys
from dgpo_cli.__main__ import main
try:
    main()
finally:
    print("torch" in sys.modules)
"""


def test_a_benchmark_that_cannot_be_fetched_is_told_before_anything_slow_is_imported(
    tmp_path: Path,
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    with absent() as url:
        ended = subprocess.run(
            [sys.executable, "-c", BENCHMARK, "eval", "--bench", "aime2025", "--preset", "tiny"],
            env=environment | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
        )
    first, last = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout) == (1, "False\n")
    assert first.startswith("note: ") and first.endswith(f": asking {url}")
    assert last.startswith("error: ") and "refused" in last


def test_the_patience_with_a_dead_network_ends_even_while_a_name_is_looked_up(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look-up knows no timeout: it goes on in its thread."""
    monkeypatch.setattr(hub_calls, "_PATIENCE_S", 0.3)
    free = threading.Event()
    started = time.monotonic()
    with pytest.raises(hub_calls.Unreached, match=r"no answer within 0\.3 s"):
        hub_calls.probe(lambda: free.wait(60))
    assert time.monotonic() - started < 5
    free.set()


def test_all_attempts_and_waits_fit_into_fifteen_seconds() -> None:
    assert hub_calls._PATIENCE_S + hub_calls.TIMEOUT_S <= 15


def test_a_command_says_whom_it_asks_and_samples_from_the_cache_beside_a_silent_hub(
    tmp_path: Path, model_folder: Path
) -> None:
    put_into_cache(model_folder, cache=tmp_path / "home" / "hub")
    command = ("rollout", "--prompts", "sums", "--limit", "1", "--model", "org/m")
    sets = ("model.device=cpu", "reward.workers=1", "rollout.max_completion_tokens=4")
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    with socket.create_server(("127.0.0.1", 0), backlog=64) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        ended = subprocess.run(
            [sys.executable, "-m", "dgpo_cli", *command, "--out", str(tmp_path / "r.jsonl")]
            + [part for pair in sets for part in ("--set", pair)],
            env=environment | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ended.returncode == 0, ended.stderr
        lines = ended.stderr.splitlines()
        assert lines[0] == f"note: org/m: asking {url}"
        assert "using the cached copy" in lines[1]
        mute.settimeout(0.2)
        asked = 0
        with pytest.raises(TimeoutError):
            while True:
                mute.accept()[0].close()
                asked += 1
        assert 1 <= asked <= 3  # those before the first line; none of the loading
