"""Laws of the commands: usage, defaults, how failures end, train and preset."""

from __future__ import annotations

import errno
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from dgpo_cli.cli import options
from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.load import resolve
from dgpo_cli.config.presets import list_presets, preset_text
from dgpo_cli.core.errors import CheckpointError, NonFiniteError
from dgpo_cli.runs.run_folder import RunFolder
from tests.cli.conftest import Install
from tests.cli.helpers import in_process as dgpo

COMMANDS = (
    ["train"],
    ["rollout"],
    ["eval"],
    ["compare"],
    ["check"],
    ["regrade"],
    ["plan"],
    ["doctor"],
    ["inspect"],
    ["report"],
    ["view"],
    ["serve"],
    ["merge"],
    ["push"],
    ["preset", "copy"],
)


def test_help_names_every_command() -> None:
    result = dgpo("--help")
    assert result.exit_code == 0
    commands = [command for command, *_ in COMMANDS]
    for command in commands:
        assert re.search(rf"^  {command} ", result.stdout, re.MULTILINE)
    assert "2605.03327" in result.stdout


def test_no_arguments_show_the_help() -> None:
    assert dgpo().stdout == dgpo("--help").stdout
    assert dgpo().exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["frob"],
        ["train", "--nonsense"],
        ["train", "--preset"],
        ["train", "--preset", "tiny", "--resume", "perhaps"],
        ["train", "--preset", "tiny", "--steps", "many"],
        ["train"],
        ["train", "--preset", "tiny", "--config", "x.toml"],
        ["train", "--preset", "nope"],
        ["merge", "absent-run", "--out", "m"],
        ["merge", "run"],
        ["merge", "run", "--out", "m", "--dtype", "int8"],
        ["push", "absent-run", "me/model"],
        ["push", "run"],
        ["train", "--config", "absent.toml"],
        ["rollout", "--prompts", "sums", "--model", "m"],
        ["rollout", "--prompts", "sums", "--out", "x.jsonl"],
        ["rollout", "--prompts", "sums", "--out", "x.jsonl", "--model", "m", "--limit", "0"],
        ["eval", "--bench", "sums"],
        ["eval", "--bench", "sums,", "--preset", "tiny"],
        ["eval", "--bench", "sums", "--preset", "tiny", "--k", "0"],
        ["eval", "--bench", "sums", "--run", "absent"],
        ["eval", "--bench", "sums", "--preset", "tiny", "--protocol", "boxd"],
        ["eval", "--bench", "sums", "--preset", "tiny", "--columns", "problem"],
        ["eval", "--bench", "sums", "--preset", "tiny", "--columns", "question=problem"],
        ["eval", "--bench", "sums", "--preset", "tiny", "--columns", "answer=a,answer=b"],
        ["eval", "--bench", "sums", "--preset", "tiny", "--min-score", "60"],
        ["eval", "--bench", "sums", "--preset", "tiny", "--min-score", "nan"],
        ["eval", "--bench", "sums", "--preset", "tiny", "--min-score", "0.5", "--k", "1"],
        ["regrade"],
        ["regrade", "absent"],
        ["inspect", "a", "--rollouts", "b"],
        ["inspect", "a", "--tau", "0"],
        ["inspect", "a", "--tau", "nan"],
        ["inspect", "a", "--kappa", "-1"],
        ["report", "absent"],
        ["report", "--out", "."],
        ["report", "--png", "absent/a.png"],
        ["report", "--out", "same", "--png", "same"],
        ["report", *"abcdefghi"],
        ["view", "absent"],
        ["view", "."],
        ["view", "--out", "."],
        ["view", "absent", "--limit-text", "0"],
        ["preset"],
        ["preset", "show", "nope"],
    ],
    ids=" ".join,
)
def test_usage_errors_exit_with_2_in_one_line(arguments: list[str]) -> None:
    result = dgpo(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert re.fullmatch(r"error: .+\n", result.stderr)


def test_a_missing_choice_says_what_to_give() -> None:
    message = "error: give --preset, --config or --model to say what to sample from\n"
    assert dgpo("rollout", "--prompts", "sums", "--out", "x.jsonl").stderr == message


def test_eval_takes_the_newest_run_and_without_one_shows_the_three_ways(
    workflow: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = dgpo("eval", "--bench", "aime2025", "--k", "32")
    assert refused.exit_code == 2 and refused.stdout == ""
    assert all(way in refused.stderr for way in ("--model MODEL", "--run RUN", "--preset NAME"))
    for age, name in ((20, "old"), (10, "new")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text("{}\n")
        os.utime(folder / "metrics.jsonl", (time.time() - age,) * 2)
    taken = dgpo("eval", "--bench", "aime2025", "--k", "32")
    assert taken.stderr.startswith("note: evaluating runs/new, the newest run; ")


@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [
        (NonFiniteError("3 steps in a row"), 1, "error: 3 steps in a row\n"),
        (CheckpointError("line one\nline two"), 1, "error: line one\nerror: line two\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x"),
            1,
            "error: no space left on the disk: runs/x; make room and run it again\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "x"),
            1,
            "error: permission denied: x\n",
        ),
        (ValueError("bad\nvalue"), 1, "error: ValueError: bad (--debug shows where)\n"),
        (AssertionError(), 1, "error: AssertionError (--debug shows where)\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (KeyboardInterrupt("stopped at step 7"), 130, "stopped at step 7\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_a_failed_run_is_explained_without_a_traceback(
    workflow: Install, failure: BaseException, code: int, said: str
) -> None:
    workflow("train", raises=failure)
    result = dgpo("train", "--preset", "tiny")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", said)


def test_debug_shows_where_an_unexpected_error_is_from(workflow: Install) -> None:
    workflow("train", raises=ValueError("bad"))
    result = dgpo("train", "--preset", "tiny", "--debug")
    assert result.exit_code == 1
    assert "ValueError: bad" in result.stderr
    assert "conftest.py" in result.stderr  # where the stand-in raised it


def test_train_hands_over_settings_folder_and_listeners(
    workflow: Install, trained: SimpleNamespace
) -> None:
    calls = workflow("train", returns=trained)
    flags = ("--steps", "3", "--seed", "4", "--set", "seed=5")
    result = dgpo("train", "--preset", "tiny", *flags, "--out", "runs/tiny", "--allow-change")
    (call,) = calls
    resolved = call["resolved"]
    assert (resolved.settings.train.steps, resolved.settings.seed) == (3, 4)
    assert (resolved.sources["train.steps"], resolved.sources["seed"]) == ("--steps", "--seed")
    assert (call["out"], call["resume"]) == (Path("runs/tiny"), "auto")
    assert call["allow_change"]
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "trained to step 3: reward 0.250 at its first step, 0.500 at its last",
        "eval        sums Avg@8 25.0% after step 0, 50.0% after step 3",
        "run         runs/tiny",
        "checkpoint  runs/tiny/checkpoints/step-000003",
    ]


def test_a_reward_that_is_not_the_first_steps_is_not_said_to_be(
    workflow: Install, trained: SimpleNamespace
) -> None:
    trained.first |= {"step": 2.0}
    workflow("train", returns=trained)
    told = dgpo("train", "--preset", "tiny", "--steps", "3").stdout.splitlines()[0]
    assert told == "trained to step 3: reward 0.250 at step 2, 0.500 at its last"


def test_train_names_the_run_folder_after_the_file(
    workflow: Install, trained: SimpleNamespace, tmp_path: Path
) -> None:
    calls = workflow("train", returns=trained)
    config = tmp_path / "mine.toml"
    config.write_text("seed = 1\noptim.micro_batch_size = 2\n")
    assert dgpo("train", "--config", str(config)).exit_code == 0
    assert dgpo("train", "--config", str(config), "--out", "elsewhere").exit_code == 0
    assert [call["out"] for call in calls] == [Path("runs/mine"), Path("elsewhere")]


def test_the_folder_of_a_run_says_how_it_differs_from_its_recipe(
    workflow: Install, trained: SimpleNamespace, tmp_path: Path
) -> None:
    calls = workflow("train", returns=trained)
    config = tmp_path / "mine.toml"
    config.write_text("[optim]\nlr = 1e-4\n[prompts]\nkind = 'file'\n")  # not whole by itself
    dgpo("train", "--preset", "tiny", "--set", "credit.rule=uniform", "--steps", "5")
    dgpo("train", "--preset", "tiny", "--seed", "4", "--view", "lines")
    dgpo("train", "--config", str(config), "--set", "prompts.path=a/b.jsonl")
    folders = [call["out"] for call in calls]
    assert folders[:2] == [Path("runs/tiny-uniform"), Path("runs/tiny-seed4")]
    assert folders[2] == Path("runs/mine-file-b.jsonl-lr0.0001")


def test_another_run_is_refused_before_anything_is_drawn(workflow: Install, tmp_path: Path) -> None:
    calls = workflow("train")
    folder = RunFolder(tmp_path)
    folder.settings_file.write_text(dump_toml(resolve(preset="tiny")), encoding="utf-8")
    folder.write_metrics(1, {"reward/mean": 0.5})
    changed = ("--set", "optim.lr=1e-4", "--set", "optim.micro_batch_size=8")
    result = dgpo("train", "--preset", "tiny", *changed, "--out", str(tmp_path))
    assert (result.exit_code, result.stdout, calls) == (2, "", [])
    first, last = result.stderr.splitlines()
    assert first == f"error: optim.lr: 0.0002 in {tmp_path}, now 0.0001"
    assert "another --out" in last and "--allow-change" in last


def test_another_model_than_the_runs_is_refused_before_the_hub_is_asked(
    workflow: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = workflow("train")
    asked: list[object] = []
    monkeypatch.setattr(options, "reach", asked.append)
    folder = RunFolder(tmp_path)
    folder.settings_file.write_text(dump_toml(resolve(preset="tiny")), encoding="utf-8")
    folder.write_metrics(1, {"reward/mean": 0.5})
    other = ("--set", "model.path=org/other", "--out", str(tmp_path))
    result = dgpo("train", "--preset", "tiny", *other)
    assert (result.exit_code, calls, asked) == (2, [], [])
    assert result.stderr.startswith("error: model.path: ")


def test_a_change_is_allowed_for_a_folder_that_is_named() -> None:
    result = dgpo("train", "--preset", "tiny", "--allow-change", "--set", "optim.lr=1e-4")
    assert result.exit_code == 2
    assert "--allow-change: needs --out with the folder of the run to resume" in result.stderr


def test_a_run_with_nothing_left_to_do_says_so(workflow: Install, trained: SimpleNamespace) -> None:
    trained.trained = 0
    workflow("train", returns=trained)
    result = dgpo("train", "--preset", "tiny")
    told, *rest = result.stdout.splitlines()
    assert (result.exit_code, told) == (
        0,
        "all 3 steps are done already; --set train.steps=6 trains more",
    )
    assert "checkpoint  runs/tiny/checkpoints/step-000003" in rest


def test_dropped_values_are_noted_on_stderr(workflow: Install, trained: SimpleNamespace) -> None:
    workflow("train", returns=trained)
    result = dgpo("train", "--preset", "tiny", "--set", "credit.rule=uniform")
    assert "note: credit.tau, credit.kappa, " in result.stderr
    assert "note" not in result.stdout


def test_a_dry_run_prints_every_setting_with_its_source_and_stops(workflow: Install) -> None:
    calls = workflow("train")
    result = dgpo("train", "--preset", "tiny", "--dry-run", "--set", "optim.lr=1e-5", "--seed", "3")
    lines = [re.split(r" {2,}", line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert calls == []
    assert ["optim.lr", "1e-05", "--set"] in lines
    assert ["seed", "3", "--seed"] in lines
    assert ["credit.tau", "0.5", "preset tiny"] in lines
    assert ["model.revision", "(unset)", "default"] in lines
    assert len(lines) == len({line[0] for line in lines}) > 50


def test_a_dry_run_needs_no_gpu() -> None:
    assert dgpo("train", "--preset", "qwen32b-full", "--dry-run").exit_code == 0


def test_a_dry_run_refuses_what_cannot_train() -> None:
    result = dgpo("train", "--preset", "tiny", "--dry-run", "--set", "rollout.group_size=1")
    assert (result.exit_code, result.stdout) == (2, "")


def test_preset_list_has_a_line_for_every_preset_under_the_device_it_needs() -> None:
    needs, found = "", {}
    for line in dgpo("preset", "list").stdout.splitlines():
        if line.startswith(" "):
            name, purpose = re.split(r" {2,}", line.strip())
            found[name] = (purpose, needs)
        elif line:
            needs = line
    listed = {p.name: p for p in list_presets()}
    assert {name: purpose for name, (purpose, _) in found.items()} == {
        p.name: p.description for p in listed.values()
    }
    told = {
        (None, 1): "A CPU, or any GPU",
        ("3060", 1): "A GPU of 12 GB",
        ("4090", 1): "A GPU of 24 GB",
        ("l40s", 1): "A GPU of 48 GB",
        ("h100", 1): "A GPU of 80 GB",
        ("h100", 8): "8 GPUs of 80 GB",
        ("h100", 32): "32 GPUs of 80 GB",
    }
    assert [told[p.hardware, p.gpus] for p in map(listed.get, found) if p] == [
        needs for _, needs in found.values()
    ]
    assert list(dict.fromkeys(needs for _, needs in found.values())) == list(told.values())


def test_preset_show_prints_the_file_as_it_is() -> None:
    assert dgpo("preset", "show", "tiny").stdout == preset_text("tiny")


def test_preset_copy_writes_a_file_that_train_takes(tmp_path: Path) -> None:
    target = tmp_path / "mine.toml"
    assert dgpo("preset", "copy", "tiny", str(target)).exit_code == 0
    assert dgpo("train", "--config", str(target), "--dry-run").exit_code == 0
    assert dgpo("preset", "copy", "tiny", str(target)).exit_code == 2


def test_a_ctrl_c_while_a_run_ends_keeps_what_the_first_one_said() -> None:
    from dgpo_cli.cli.commands import Interrupted, last_words

    with pytest.raises(Interrupted, match="stopped at step 3; checkpoint here"), last_words():
        try:
            raise KeyboardInterrupt("stopped at step 3; checkpoint here")
        finally:
            raise KeyboardInterrupt
