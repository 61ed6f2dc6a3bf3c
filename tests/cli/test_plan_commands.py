"""dgpo plan and dgpo doctor as a user runs them: exit codes, JSON, narrow and plain terminals."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from dgpo_cli.core.types import Finding
from dgpo_cli.doctor import table as doctor_report
from dgpo_cli.ui import ramp
from tests.cli.helpers import ESCAPE, Ended, dgpo, in_process, on_terminal, without_escapes

FULL = ("plan", "--preset", "qwen32b-full", "--gpus", "16")
LORA = ("plan", "--preset", "qwen7b-lora", "--gpu", "4090")


def test_a_run_that_fits_ends_with_0_and_one_that_does_not_with_3() -> None:
    assert in_process("plan", "--preset", "qwen7b-lora", "--gpu", "h200").exit_code == 0
    assert in_process(*LORA).exit_code == 3


def test_the_json_holds_every_part_and_the_verdict() -> None:
    small = ("--set", "rollout.backend.gpu_memory_utilization=0.5")
    data = json.loads(in_process(*LORA, *small, "--json").stdout)
    assert data["version"] == 1
    assert data["fits"] is False
    when = (data["peak_phase"], "always")
    parts = sum(part["bytes"] for part in data["memory"]["parts"] if part["when"] in when)
    assert data["peak_bytes"] == parts
    assert data["after_peak_bytes"] <= data["device"]["memory"]
    assert data["step_seconds"] is None  # the sampler could not even start
    data = json.loads(in_process(*LORA[:-1], "h200", "--json").stdout)
    assert data["fits"] is True
    assert data["step_seconds"] == pytest.approx(sum(t["seconds"] for t in data["times"]))


def test_a_preset_is_planned_for_the_hardware_it_is_meant_for_unless_gpu_says_otherwise() -> None:
    meant = in_process("plan", "--preset", "qwen7b-qlora", "--json")
    assert json.loads(meant.stdout)["device"]["name"] == "RTX 4090"
    assert "planned for RTX 4090, which qwen7b-qlora is meant for" in meant.stderr
    other = in_process("plan", "--preset", "qwen7b-qlora", "--gpu", "l4", "--json")
    assert json.loads(other.stdout)["device"]["name"] == "L4" and "meant for" not in other.stderr
    here = in_process("plan", "--preset", "tiny", "--json")
    assert json.loads(here.stdout)["device"]["free"] is not None


def test_the_presets_of_several_gpus_fit_the_gpus_that_they_are_meant_for() -> None:
    for preset, count in (("qwen7b-full", 8), ("qwen32b-full", 32)):
        done = in_process("plan", "--preset", preset)
        assert done.exit_code == 0
        assert f"{count} x H100" in done.stdout and "✓ fits" in done.stdout
    four = in_process("plan", "--preset", "qwen7b-lora", "--gpus", "4")
    assert "next: dgpo train --preset qwen7b-lora --gpus 4" in four.stderr


def test_gpus_shard_the_weights() -> None:
    def weights(*more: str) -> int:
        done = in_process("plan", "--preset", "qwen7b-full", "--gpu", "h100", *more, "--json")
        parts = json.loads(done.stdout)["memory"]["parts"]
        return next(part["bytes"] for part in parts if part["name"] == "weights")

    assert weights("--gpus", "4") == 2 * weights("--gpus", "8")


def test_applied_settings_train_where_they_were_planned_for(tmp_path: Path) -> None:
    file = tmp_path / "fits.toml"
    assert in_process(*LORA, "--apply", str(file)).exit_code == 3
    again = in_process("plan", "--config", str(file), "--gpu", "4090")
    assert again.exit_code == 0
    assert in_process(*LORA, "--apply", str(file)).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("plan",), "give --preset NAME"),
        (("plan", "--model", "embedded:tiny"), "give --data too"),
        (("plan", "--preset", "tiny", "--gpu", "h1000"), "--gpu=h1000"),
        (("plan", "--preset", "tiny", "--set", "rollout.group_size=1"), "group_size=1"),
        (("doctor", "--set", "seed=1"), "needs --preset or --config"),
    ],
)
def test_a_usage_error_is_one_line(arguments: tuple[str, ...], words: str) -> None:
    done = in_process(*arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_pipe_gets_no_escape_codes() -> None:
    done = dgpo(*LORA)
    assert ESCAPE not in done.out
    assert "does not fit" in done.out


@pytest.mark.parametrize("arguments", [LORA, FULL])
@pytest.mark.parametrize("columns", [100, 80, 40])
def test_no_line_is_wider_than_the_terminal(columns: int, arguments: tuple[str, ...]) -> None:
    done: Ended = on_terminal(sys.executable, "-m", "dgpo_cli", *arguments, columns=columns)
    assert done.code == 3
    lines = without_escapes(done.out).splitlines()
    assert max(map(len, lines)) <= columns
    assert any(line.lstrip().startswith("peak") and "GiB" in line for line in lines)


def test_findings_show_their_fix_and_hide_nothing_from_a_terminal() -> None:
    findings = [Finding("torch", "fail", "bad \x1b[31m [red]", "pip install 'a[b]'")]
    board = Console(file=io.StringIO(), width=50)
    board.print(doctor_report.render(findings, color=ramp.depth_of(board)))
    file = board.file
    assert isinstance(file, io.StringIO)
    text = file.getvalue()
    assert "\x1b" not in text
    assert "\\x1b[31m [red]" in text
    assert "fix: pip install 'a[b]'" in text
    assert doctor_report.to_json(findings)["ok"] is False


def test_several_devices_are_compared_and_one_on_request() -> None:
    many = in_process("plan", "--preset", "qwen32b-full").stdout
    assert "Best use: " in many and "at 400 Gb/s" in many
    one = ("plan", "--preset", "qwen7b-lora", "--json")
    assert json.loads(in_process(*one).stdout)["choices"] == []
    found = json.loads(in_process(*one, "--compare-gpus").stdout)["choices"]
    assert [each["gpus"] for each in found] == [2**n for n in range(11)]
    assert sum(each["best"] for each in found) == 1
    assert found[0]["kind"] == "single" and found[3]["kind"] == "replicate"
