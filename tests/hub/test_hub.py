"""Files of the hub arrive whole or not at all, against a server that fails in every way."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dgpo_cli.core.errors import BackendError, DataError, DgpoError
from dgpo_cli.hub.files import HubFile, fetch
from tests.hub.hub_server import Hub, serving
from tests.recorder import Recorder

REVISION = "0123456789abcdef0123456789abcdef01234567"
CONTENT = "".join(f'{{"id": {n}, "problem": "{n}+1?"}}\n' for n in range(500)).encode()
FILE = HubFile("someone/some-data", REVISION, "test.jsonl")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, a network, and no waiting between attempts."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("dgpo_cli.hub.calls._offline_reason", "")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return tmp_path / "cache"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub(FILE.dataset, REVISION, {FILE.name: CONTENT, "README.md": b"hello"})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def failure(kind: type[DgpoError]) -> str:
    """Fetch, and return the error's message, which is one line that names a way out."""
    with pytest.raises(kind) as caught:
        fetch(FILE)
    message = str(caught.value)
    assert "\n" not in message
    assert str(FILE) in message
    assert "--data FILE" in message
    return message


def kept(cache: Path) -> list[Path]:
    """The files and links of data in the cache, whole or in parts."""
    folders = ("blobs", "snapshots")
    return [
        path
        for folder in folders
        for path in cache.glob(f"*/{folder}/**/*")
        if path.is_symlink() or path.is_file()
    ]


@pytest.mark.parametrize("large", [False, True])
def test_a_file_arrives_with_progress_and_is_asked_for_once(hub: Hub, large: bool) -> None:
    hub.large = large
    recorder = Recorder()
    path, notes = fetch(FILE, observer=recorder)
    assert path.read_bytes() == CONTENT
    assert notes == ()
    assert recorder.phases == [("download test.jsonl", len(CONTENT), "B", len(CONTENT))]
    before = len(hub.requests)
    assert fetch(FILE) == (path, ())
    assert len(hub.requests) == before


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("breaks", [1, 2])
def test_a_broken_connection_is_taken_up_again_without_a_word(
    hub: Hub,
    breaks: int,
    reset: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    hub.breaks, hub.reset = breaks, reset
    path, notes = fetch(FILE)
    assert caplog.records == []
    assert path.read_bytes() == CONTENT
    assert notes == ()
    assert len([1 for method, *_ in hub.requests if method == "GET"]) == breaks + 1


def test_after_a_break_only_the_rest_is_asked_for(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.breaks = 1
    recorder = Recorder()
    assert fetch(FILE, observer=recorder)[0].read_bytes() == CONTENT
    there = len(CONTENT) // 2 // 1000 * 1000
    ranges = [wanted for method, _, wanted in hub.requests if method == "GET"]
    assert ranges == [None, f"bytes={there}-"]
    assert [done for *_, done in recorder.phases] == [len(CONTENT)]


@pytest.mark.parametrize("reset", [False, True])
def test_connections_that_always_break_end_with_an_error_and_no_file(
    hub: Hub, cache: Path, reset: bool
) -> None:
    hub.breaks, hub.reset = 10**6, reset
    assert hub.url in failure(BackendError)
    assert kept(cache) == []


def test_a_file_that_ends_early_is_refused_and_removed(hub: Hub, cache: Path) -> None:
    hub.announce = len(CONTENT) - 100
    assert f"{len(CONTENT) - 100} bytes" in failure(DataError)
    assert kept(cache) == []
    assert len([1 for method, *_ in hub.requests if method == "GET"]) == 2


def test_a_file_shorter_than_the_size_of_its_record_is_refused(hub: Hub, cache: Path) -> None:
    hub.large, hub.announce = True, len(CONTENT) - 100
    assert f"size {len(CONTENT)}" in failure(BackendError)
    assert kept(cache) == []


@pytest.mark.parametrize("large", [False, True])
def test_a_wrong_checksum_is_mended_by_fetching_again(hub: Hub, large: bool) -> None:
    hub.large, hub.wrong = large, 1
    path, notes = fetch(FILE)
    assert path.read_bytes() == CONTENT
    (note,) = notes
    assert "fetched again" in note


@pytest.mark.parametrize("large", [False, True])
def test_a_checksum_that_stays_wrong_is_an_error_and_no_file(
    hub: Hub, cache: Path, large: bool
) -> None:
    hub.large, hub.wrong = large, 10**6
    assert hub.checksum(CONTENT)[:8] in failure(DataError)
    assert kept(cache) == []
    assert len([1 for method, *_ in hub.requests if method == "GET"]) == 2


def test_a_plain_sha1_serves_as_checksum(hub: Hub) -> None:
    hub.etag = hashlib.sha1(CONTENT).hexdigest()
    assert fetch(FILE)[1] == ()
    hub.etag = hashlib.sha1(CONTENT + b" ").hexdigest()
    assert fetch(FILE)[1] == ()  # from the cache: the first checksum still holds


def test_without_a_checksum_the_file_is_taken_with_a_note(hub: Hub) -> None:
    hub.etag = "v1-of-a-mirror"
    path, notes = fetch(FILE)
    assert path.read_bytes() == CONTENT
    (note,) = notes
    assert "no checksum" in note


def test_the_cache_serves_when_the_server_is_gone(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = fetch(FILE)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens on discard
    assert fetch(FILE) == (path, ())
    hub.status = 503
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert fetch(FILE) == (path, ())


def test_the_cache_serves_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    path, _ = fetch(FILE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(FILE) == (path, ())


def test_offline_without_a_cached_copy_says_so(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = failure(BackendError)
    assert "not in the cache" in message
    assert "HF_HUB_OFFLINE" in message
    assert hub.requests == []


def damage(path: Path) -> None:
    content = path.read_bytes()
    path.resolve().chmod(0o644)
    path.resolve().write_bytes(content.replace(b"7", b"8", 1))


def test_a_cached_file_that_was_damaged_is_fetched_again(hub: Hub) -> None:
    path, _ = fetch(FILE)
    damage(path)
    again, notes = fetch(FILE)
    assert again.read_bytes() == CONTENT
    assert "was damaged" in notes[0]
    assert fetch(FILE) == (path, ())


def test_a_damaged_copy_is_never_used_offline(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    path, _ = fetch(FILE)
    damage(path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "damaged" in failure(BackendError)
    assert kept(cache) == []


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ({"revision": "f" * 40}, "commit is unknown"),
        ({"dataset": "someone/else"}, "private or does not exist"),
        ({"gated": "Bearer hf_secret"}, "HF_TOKEN"),
        ({"status": 503}, "HTTP status 503"),
        ({"status": 403}, "HTTP status 403"),
        ({"files": {"README.md": b""}}, "though the commit does"),
        ({"files": {"a.csv": b"", "b.csv": b""}}, "though the commit does"),
    ],
)
def test_what_the_hub_refuses_is_explained(hub: Hub, trouble: dict[str, object], said: str) -> None:
    for name, value in trouble.items():
        setattr(hub, name, value)
    message = failure(BackendError)
    assert said in message
    assert hub.url in message


def test_a_server_that_is_not_there_is_explained(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    message = failure(BackendError)
    assert "refused" in message.lower()
    assert "http://127.0.0.1:9" in message


def test_without_a_network_it_is_said_within_seconds(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    failure(BackendError)
    assert waited == [1.0, 2.0]


def test_a_token_opens_what_is_gated(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated = "Bearer hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "HF_TOKEN" in failure(BackendError)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert fetch(FILE)[0].read_bytes() == CONTENT


def test_an_error_of_the_server_in_passing_is_survived(hub: Hub) -> None:
    hub.failures = 2
    assert fetch(FILE)[0].read_bytes() == CONTENT


def test_the_only_data_file_is_read_where_the_named_one_is_missing(hub: Hub) -> None:
    hub.files = {"README.md": b"", "data/all.csv": CONTENT}
    path, (note,) = fetch(FILE)
    assert path.read_bytes() == CONTENT
    assert note == "someone/some-data has no test.jsonl; data/all.csv is read instead"


def run_python(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_the_environment_names_endpoint_and_cache(tmp_path: Path) -> None:
    from dgpo_cli.prompts.catalog import load_manifest
    from dgpo_cli.prompts.manifests import HubManifest

    manifest = load_manifest("aime2025")
    assert isinstance(manifest, HubManifest)
    rows = [
        {"id": str(n), "problem": f"Number {n}?", "answer": str(answer)}
        for n, answer in enumerate(manifest.answers.values())
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    code = (
        "from dgpo_cli.prompts.benchmarks import load_benchmark\n"
        "b = load_benchmark('aime2025')\n"
        "print(b.prompts[29].id, b.prompts[29].answer, b.dataset, b.revision, b.notes)"
    )
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    with serving(Hub(manifest.dataset, manifest.revision, {manifest.file: content})) as hub:
        first = run_python(code, HF_ENDPOINT=hub.url, **environment)
    assert first.startswith(f"2025-II-15 240 math-ai/aime25 {manifest.revision} ")
    assert "30 of 30 answers agree with the key (by number)" in first
    environment["HF_HUB_OFFLINE"] = "1"
    assert run_python(code, **environment) == first


def test_nothing_of_the_hub_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys\n"
        "from dgpo_cli.prompts.benchmarks import load_benchmark\n"
        "load_benchmark('sums')\n"
        "print(sorted({'huggingface_hub', 'torch', 'pyarrow'} & set(sys.modules)))"
    )
    assert run_python(code).strip() == "[]"
