"""What the doctor finds: packages that are missing, broken or hang, and a hub that is silent."""

from __future__ import annotations

import http.server
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.core.types import Finding
from dgpo_cli.doctor import doctor, machine, packages
from dgpo_cli.planning import devices
from dgpo_cli.planning.budget import Device

ROOT = Path(__file__).resolve().parents[2]


def test_the_tested_versions_are_those_of_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line and line[0] != "#")
    own = {name: version for name, version in packages.TESTED.items() if name in pinned}
    assert own == {name: pinned[name] for name in own}
    assert packages.TESTED.keys() - own.keys() <= {"vllm"}  # which is not in the project's own


def test_the_extras_that_are_named_exist() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for command in packages.OPTIONAL.values():
        (extra,) = re.findall(r"\[(\w+)\]", command)
        assert re.search(rf"^{extra} = \[", text, flags=re.MULTILINE)


def fake(folder: Path, monkeypatch: pytest.MonkeyPatch, *, torch: str) -> None:
    """Put a torch of our own before the real one, for the process that tries it."""
    (folder / "torch.py").write_text(torch)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(packages, "_version", lambda name: {"torch": "2.13.0"}.get(name))


@pytest.mark.parametrize(
    ("torch", "words"),
    [
        ("raise ImportError('libcudart.so.12: cannot open')", "libcudart"),
        ("import os; os._exit(7)", "code 7"),
        ("import os; os.kill(os.getpid(), 11)", "code -11"),
        ("import time; time.sleep(60)", "did not import within 1 s"),
    ],
)
def test_a_torch_that_breaks_is_told_and_hurts_nothing(
    torch: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, monkeypatch, torch=torch)
    found = {
        f.name: f
        for f in packages.findings(packages.probe(timeout_s=1.0), needed=frozenset({"vllm"}))
    }
    assert found["torch"].state == "fail"
    assert words in found["torch"].found
    assert found["torch"].fix
    assert found["transformers"] == Finding(
        "transformers", "fail", "not installed", "pip install 'transformers==5.19.0'"
    )
    assert found["vllm"].state == "fail"
    assert found["bitsandbytes"].state == "ok"  # not there and not needed


def test_packages_after_one_that_ends_the_process_were_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, monkeypatch, torch="import os; os._exit(7)")
    monkeypatch.setattr(
        packages, "_version", lambda name: "1.0" if name in ("torch", "peft") else None
    )
    errors = packages.probe(timeout_s=5.0).errors
    assert errors["torch"] == "ended the process with code 7"
    assert errors["peft"].startswith("not tried, because torch")


def test_another_version_than_the_tested_one_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {**packages.TESTED, "peft": "0.20.0", "torch": "2.13.0+cpu"}
    torch = {"cuda": [], "mps": False, "built_for": "", "threads": 1}
    probed = packages.Probed(versions, {}, torch)
    found = {f.name: f for f in packages.findings(probed, needed=frozenset())}
    assert found["peft"].state == "warn"
    assert "0.20.0; tested with 0.21.2" in found["peft"].found
    assert found["torch"].state == "ok"


def test_gpus_are_listed_with_their_free_memory() -> None:
    torch = {
        "cuda": [["H100", 70 << 30, 80 << 30], ["H100", 10 << 30, 80 << 30]],
        "mps": False,
        "built_for": "12.8",
    }
    probed = packages.Probed(dict(packages.TESTED), {}, torch)
    found = {f.name: f for f in packages.findings(probed, needed=frozenset())}
    assert found["cuda:0"].state == "ok"
    assert (found["cuda:1"].state, found["cuda:1"].found) == (
        "warn",
        "H100, 10.0 GiB of 80.0 GiB free",
    )


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def answering() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)  # a private hub wants a token, but it is there
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_a_silent_hub_does_not_hold_up_the_doctor(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", silent)
    started = time.perf_counter()
    assert machine.hub(timeout_s=0.3).state == "warn"
    assert time.perf_counter() - started < 3


def test_a_hub_that_answers_is_reachable_even_when_it_wants_a_token(
    answering: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", answering)
    assert machine.hub() == Finding("hub", "ok", f"{answering} answers")


def test_an_offline_flag_is_named_and_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    found = machine.hub()
    assert found.state == "warn"
    assert "HF_HUB_OFFLINE" in found.found


def test_more_threads_than_cores_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = machine.cores_here()
    monkeypatch.setenv("OMP_NUM_THREADS", str(cores + 1))
    assert machine.threads().fix == f"export OMP_NUM_THREADS={cores}"
    monkeypatch.setenv("OMP_NUM_THREADS", str(cores))
    assert machine.threads().state == "ok"


def test_few_open_files_is_a_warning() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
        found = machine.open_files()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (found.state, found.found) == ("warn", "at most 1024")
    assert found.fix.startswith("ulimit -n")


def test_little_room_is_a_warning(tmp_path: Path) -> None:
    assert machine.space("disk", tmp_path, least=1, fix="x").state == "ok"
    full = machine.space("disk", tmp_path / "not" / "there", least=1 << 60, fix="make room")
    assert (full.state, full.fix) == ("warn", "make room")


def states(*overrides: str, preset: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Finding]:
    versions = {name: v for name, v in packages.TESTED.items() if name != "vllm"}
    torch = {"cuda": [], "mps": False, "built_for": ""}
    monkeypatch.setattr(packages, "probe", lambda: packages.Probed(versions, {}, torch))
    monkeypatch.setattr(machine, "findings", lambda: iter(()))

    def changed(changes: dict[str, object]) -> Resolved:
        return resolve(preset=preset, overrides=overrides)

    return {finding.name: finding for finding in doctor.run(changed)}


def test_the_tiny_preset_can_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    found = states("model.device=cpu", preset="tiny", monkeypatch=monkeypatch)
    assert {f.state for f in found.values()} == {"ok"}


def test_a_missing_package_of_the_preset_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    found = states("rollout.backend.kind=vllm", preset="tiny", monkeypatch=monkeypatch)
    assert found["vllm"].state == "fail"
    assert "vllm" in found["vllm"].fix


def test_too_little_memory_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgpo_cli.planning.devices.host_memory", lambda: (1 << 28, 1 << 28))
    found = states("model.device=cpu", preset="tiny", monkeypatch=monkeypatch)
    assert found["memory needed"].state == "fail"


def test_settings_that_cannot_train_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    found = states("rollout.group_size=1", preset="tiny", monkeypatch=monkeypatch)
    assert found["settings"].state == "fail"
    assert "group_size=1" in found["settings"].found


def test_without_torch_the_memory_is_not_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it would raise
    monkeypatch.setattr(
        packages, "probe", lambda: packages.Probed({"torch": "1"}, {"torch": "broken"}, {})
    )
    monkeypatch.setattr(machine, "findings", lambda: iter(()))
    found = {f.name: f for f in doctor.run(lambda changes: resolve(preset="tiny"))}
    assert found["memory needed"].found == "not estimated: torch does not import"


@pytest.mark.parametrize(
    ("gpus", "found", "state", "fix"),
    [
        (8, 8, "ok", ""),
        (2, 8, "ok", ""),
        (32, 8, "warn", "--nodes 4"),
        (8, 3, "fail", "--gpus 3"),
        (8, 0, "fail", "on the CPU"),
    ],
)
def test_devices_that_a_run_lacks_are_told_with_the_flags_that_help(
    gpus: int, found: int, state: str, fix: str
) -> None:
    finding = doctor.devices_for(gpus, found=found)
    assert (finding.name, finding.state) == ("devices", state)
    assert fix in finding.fix and bool(finding.fix) == bool(fix)


def test_ranks_on_one_cpu_share_its_memory_and_speed() -> None:
    cpu = Device("CPU", "cpu", 8000, 4000, {"float32": 8e9}, 8e9, "here")
    found = devices.share_of(cpu, ranks=4)
    assert (found.memory, found.free, found.bandwidth) == (2000, 1000, 2e9)
    assert found.flops == {"float32": 2e9}
    assert devices.share_of(cpu, ranks=1) == cpu
    assert devices.share_of(devices.GPUS["h100"], ranks=4) == devices.GPUS["h100"]
