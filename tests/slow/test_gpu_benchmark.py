"""benchmarks/gpu.py runs without a GPU, every section of it."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
sys.path.insert(0, str(SCRIPT.parent))
Rows = dict[tuple[str, str], dict[str, Any]]


def run(out: Path, *more: str) -> tuple[int, Rows]:
    command = [sys.executable, str(SCRIPT), "--device=cpu", "--small", f"--json={out}", *more]
    got = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    return got.returncode, rows_of(out)


def rows_of(out: Path) -> Rows:
    found = json.loads(out.read_text(encoding="utf-8"))
    return {(row["section"], row["case"]): row for row in found}


@pytest.mark.slow
def test_every_section_runs_on_a_cpu_and_its_numbers_are_right(tmp_path: Path) -> None:
    from gpu import SECTIONS

    code, rows = run(tmp_path / "gpu.json", "--minutes=9")
    ends = {section: row["end"] for (section, case), row in rows.items() if case == "section"}
    assert ends == dict.fromkeys(SECTIONS, "ok")
    assert code == 0
    for row in rows.values():
        assert all(math.isfinite(v) for v in row.values() if isinstance(v, float)), row
    for kind in ("one head", "two heads", "two heads, bias and soft-cap"):
        errors = rows["pass", f"pass float32, {kind}"]
        assert max(v for v in errors.values() if isinstance(v, float)) < 1e-5
    assert rows["pass", "pass: d of equal models"]["value"] == 0
    assert rows["policy", "equal models: d"]["value"] == 0
    assert rows["policy", "sampler: log-probability to a plain pass"]["value"] < 1e-5
    for kind, most in (("stored full", 0), ("stored selective", 0), ("bfloat16", 0.03)):
        assert rows["policy", f"gradient {kind}: to float32"]["value"] <= most
    assert rows["lora", "DGPO"]["d"] > 0
    assert rows["lora", "uniform credit, no reference"]["d"] == 0
    assert rows["tests", "tests"]["passed"] > 0 == rows["tests", "tests"]["failed"]
    parts = [row["share"] for row in rows.values() if "share" in row and "kernel" not in row]
    assert math.isclose(sum(parts), 1.0, rel_tol=1e-6)
    assert rows["resume", "steps that are equal to the bit"]["equal"] == 4
    for case in ("snapshot", "checkpoint", "generators"):
        assert all(v is True for v in rows["resume", case].values() if isinstance(v, bool))
    lent = rows["ipc", "lent to another process"]
    assert lent["read"] and lent["changed"] and lent["others_unchanged"]
    assert rows["compare", "update over TRL's"]["value"] > 0


@pytest.mark.slow
def test_a_section_that_hangs_or_crashes_ends_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that it had sent are kept, what it had started is gone, and the next ones run."""
    import gpu
    import gpu_bench  # noqa: F401  # once, and not in every section

    (tmp_path / "gpu_faults.py").write_text(
        "import os, signal, subprocess, time\n"
        "def hangs(bench):\n"
        "    child = subprocess.Popen(['sleep', '600'])\n"
        "    bench.say('begun', child=child.pid)\n"
        "    time.sleep(600)\n"
        "def crashes(bench):\n"
        "    os.kill(os.getpid(), signal.SIGSEGV)\n"
        "def raises(bench):\n"
        "    raise ValueError('no')\n"
        "def goes(bench):\n"
        "    bench.goal('a goal', 1.0, least=2.0)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("hangs", "crashes", "raises", "goes")
    faults = {name: gpu.Section(f"gpu_faults:{name}", 4, "") for name in names}
    monkeypatch.setattr(gpu, "SECTIONS", faults)
    out = tmp_path / "rows.json"
    runner = gpu.Runner(
        device="cpu", small=True, out=out, deadline=time.monotonic() + 60, method="fork"
    )
    runner.run(names)
    ends = [each.outcome for each in runner.results]
    assert ends == ["too slow", "failed", "failed", "ok"]
    rows = rows_of(out)
    child = rows["hangs", "begun"]["child"]
    status = Path(f"/proc/{child}/stat")
    assert not status.exists() or status.read_text().split()[2] == "Z"
    assert rows["goes", "a goal"]["reached"] is None


@pytest.mark.slow
def test_without_time_left_a_section_is_skipped_and_said_to_be(tmp_path: Path) -> None:
    code, rows = run(tmp_path / "gpu.json", "--minutes=0", "--only", "pass")
    assert code == 0
    assert rows["pass", "section"]["end"] == "skipped: no time left"


@pytest.mark.slow
def test_a_call_that_is_ended_leaves_a_whole_file_and_no_process(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    command = [sys.executable, str(SCRIPT), "--device=cpu", "--small", f"--json={out}"]
    call = subprocess.Popen([*command, "--only", "resume"], stdout=subprocess.DEVNULL)
    try:
        while call.poll() is None and not (out.exists() and ("resume", "snapshot") in rows_of(out)):
            time.sleep(0.1)
        deadline = time.monotonic() + 60
        own = psutil.Process(call.pid)
        while not (started := own.children(recursive=True)[1:]) and time.monotonic() < deadline:
            time.sleep(0.1)
        call.terminate()
        assert call.wait(timeout=30) == 128 + signal.SIGTERM
    finally:
        call.kill()
    assert started
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive
    assert rows_of(out)["resume", "snapshot"]["given_back"] is True
