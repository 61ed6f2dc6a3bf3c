"""benchmarks/gpu.py runs without a GPU, every section of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_every_section_runs_on_a_cpu_and_its_numbers_are_right(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--small", "--json", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rows = {row["case"]: row for row in json.loads(out.read_text(encoding="utf-8"))}
    sections = {case.split()[0].rstrip(",") for case in rows}
    assert sections == {"pass", "lora", "trl", "full", "long", "resume", "memory"}
    errors = rows["pass 512 tokens torch.float32: errors"]
    assert max(errors["logprob"], errors["d_relative"], errors["entropy"]) < 1e-5
    assert errors["d_of_equals"] == 0
    equal = rows["resume steps that are equal to the bit"]
    assert equal["equal"] == equal["of"] == 4
