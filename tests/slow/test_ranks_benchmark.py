"""benchmarks/ranks.py counts what ranks send, and it is what `dgpo plan` expects."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "ranks.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    file = tmp_path_factory.mktemp("ranks") / "ranks.json"
    cases = ["full, shard, checkpointing", "full, hybrid", "full, shard, rows shared"]
    command = [sys.executable, str(SCRIPT), "--only", *cases, "--rounds=1", f"--json={file}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    results: dict[str, dict[str, Any]] = json.loads(file.read_text())
    return results


def test_a_plan_counts_what_ranks_send_within_a_tenth(found: dict[str, dict[str, Any]]) -> None:
    for case, by_count in found.items():
        for count, figures in by_count.items():
            sent, planned = figures["sent"], figures["predicted"]
            assert (count == "1") == (sent == {}) == (planned == {})
            small = 0.01 * sum(sent.values())  # objects have a few kilobytes around them
            large = {name for name, size in sent.items() if size > small}
            assert large == {name for name, size in planned.items() if size > small}, case
            for name in large:
                assert planned[name] == pytest.approx(sent[name], rel=0.1), (case, count, name)


def test_a_rank_of_many_holds_its_share(found: dict[str, dict[str, Any]]) -> None:
    held = {n: figures["held"] for n, figures in found["full, shard, checkpointing"].items()}
    assert held["2"] == pytest.approx(held["1"] / 2, rel=0.02)
    assert held["4"] == pytest.approx(held["1"] / 4, rel=0.02)
