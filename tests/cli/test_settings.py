"""Laws of dgpo settings: one setting in full, several in a line each, values with their source."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.load import resolve
from dgpo_cli.config.tree import known_leaves
from tests.cli.helpers import in_process as dgpo
from tests.cli.helpers import on_terminal, without_escapes


def test_one_setting_is_told_in_full() -> None:
    assert dgpo("settings", "credit.tau").stdout.splitlines() == [
        "credit.tau",
        "  How strongly scores turn into weights; larger is closer to GRPO. "
        "Ignored with target_ess.",
        "",
        "  type       number, above 0",
        "  default    0.5",
        "  presets    0.5 in all",
        "  used by    train, inspect",
        "  on resume  needs --allow-change for another value: it affects what the run learns",
        "  only with  credit.rule=dgpo",
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("optim.micro_batch_size", "may change: it moves weights by rounding at most"),
        ("model.path", "cannot change once the run has a checkpoint: start another run"),
        ("prompts.path", "none: it must be set"),
        ("adapter.kind", "lora: LoRA through peft"),
        ("optim.lr", "0.0002 in tiny"),
    ],
)
def test_what_else_there_is_to_say(name: str, said: str) -> None:
    assert said in dgpo("settings", name).stdout


def test_the_value_is_told_with_its_source() -> None:
    text = dgpo("settings", "tau", "--preset", "tiny", "--set", "credit.tau=0.7").stdout
    assert "  value      0.7, from --set\n" in text
    unset = dgpo("settings", "credit.target_ess", "--preset", "tiny").stdout
    assert "  value      unset, the default\n" in unset
    uniform = ("--preset", "tiny", "--set", "credit.rule=uniform")
    assert (
        "  value      none: it needs credit.rule=dgpo\n" in dgpo("settings", "tau", *uniform).stdout
    )
    refused = dgpo("settings", "target", *uniform)
    assert (refused.exit_code, refused.stdout) == (2, "")


def test_a_run_tells_its_own_values_and_where_they_came_from(tmp_path: Path) -> None:
    resolved = resolve(preset="tiny", overrides=["credit.tau=0.25"])
    (tmp_path / "settings.toml").write_text(dump_toml(resolved), encoding="utf-8")

    def value(name: str, *more: str) -> str:
        text = dgpo("settings", name, "--run", str(tmp_path), *more).stdout
        return text.partition("  value      ")[2].partition("\n")[0]

    assert value("credit.tau") == "0.25, from --set"
    assert value("optim.lr") == "0.0002, from preset tiny"
    assert value("credit.target_ess") == "unset, the default"
    assert value("loss.mask_truncated") == "false, from preset tiny"
    assert value("optim.lr", "--set", "optim.lr=1e-3") == "0.001, from --set"
    listed = dgpo("settings", "--run", str(tmp_path)).stdout
    here = ("--preset", "tiny", "--set", "credit.tau=0.25")
    assert listed == dgpo("settings", *here).stdout


def test_a_comment_of_the_users_is_not_a_source(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[optim]\nlr = 0.1 # try this\n[loss]\nmask_truncated = true # from --set\n")
    text = dgpo("settings", "optim.lr", "--run", str(tmp_path)).stdout
    assert f"  value      0.1, from file {file}\n" in text
    text = dgpo("settings", "loss.mask_truncated", "--run", str(tmp_path)).stdout
    assert "  value      true, from --set\n" in text


def test_all_settings_are_listed_a_line_each_under_their_section() -> None:
    lines = dgpo("settings").stdout.splitlines()
    names = [line.split()[0] for line in lines if line.startswith("  ")]
    assert sorted(names) == sorted(known_leaves())
    assert "credit  How credit is spread over tokens." in lines


def test_settings_and_a_dry_run_print_the_same() -> None:
    given = ("--preset", "tiny", "--set", "optim.lr=1e-5")
    assert dgpo("settings", *given).stdout == dgpo("train", *given, "--dry-run").stdout


def test_a_line_is_cut_to_the_terminal() -> None:
    ended = on_terminal(sys.executable, "-m", "dgpo_cli", "settings", "optim", columns=60)
    lines = without_escapes(ended.out).splitlines()
    assert len(lines) == 14 and max(map(len, lines)) <= 60


def test_json_has_everything_of_the_settings() -> None:
    told = json.loads(dgpo("settings", "rollout.temperature", "--json").stdout)
    (temperature,) = told["settings"]
    assert told["version"] == 1
    assert temperature["meanings"][0]["schema"] == {
        "maximum": 10,
        "minimum": 0,  # greedy
        "type": "number",
    }
    assert temperature["on_resume"] == "learnt"


@pytest.mark.parametrize(
    "arguments",
    [
        ["optim.lrr"],
        ["credit.tau", "--preset", "tiny", "--run", "runs/tiny"],
        ["credit.tau", "--run", "absent"],
        ["credit.tau", "--set", "credit.tau=0"],
        ["credit.tau", "credit.kappa"],
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line(arguments: list[str]) -> None:
    ended = dgpo("settings", *arguments)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1
