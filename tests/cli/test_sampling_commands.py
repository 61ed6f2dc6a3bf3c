"""Laws of rollout, eval and inspect: what they hand to the workflows and what they print."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.load import resolve
from dgpo_cli.types import Evaluation, Inspection
from tests.cli.conftest import Install
from tests.cli.helpers import in_process as dgpo


def test_rollout_may_sample_one_completion_and_cut_the_tail(workflow: Install) -> None:
    outcome = SimpleNamespace(
        out=Path("x.jsonl"),
        completions=4,
        mean_reward=0.75,
        outcomes={"correct": 0.75, "wrong": 0.25},
    )
    calls = workflow("rollout", returns=outcome)
    result = dgpo(
        *["rollout", "--prompts", "sums", "--model", "some/model", "--group-size", "1"],
        *["--out", "x.jsonl", "--set", "rollout.top_p=0.9", "--limit", "4", "--adapter", "a"],
    )
    (call,) = calls
    settings = call["resolved"].settings
    assert (settings.model.path, settings.rollout.group_size) == ("some/model", 1)
    assert (call["source"], call["out"], call["limit"]) == ("sums", Path("x.jsonl"), 4)
    assert call["adapter"] == Path("a")
    assert result.stdout.splitlines() == [
        "4 completions  mean reward 0.750  correct 75.0%  wrong 25.0%",
        "written to x.jsonl",
    ]


def test_eval_of_a_preset_writes_and_prints_the_report(
    workflow: Install, evaluation: Evaluation, tmp_path: Path
) -> None:
    calls = workflow("evaluate", returns=evaluation)
    command = ["eval", "--bench", "sums", "--k", "2", "--preset", "tiny", "--out", str(tmp_path)]
    shown, data = dgpo(*command), dgpo(*command, "--json")
    assert (calls[0]["bench"], calls[0]["k"], calls[0]["out"]) == ("sums", 2, tmp_path)
    assert "50.0" in shown.stdout and str(tmp_path) in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) < 200  # rules do not fill a pipe's width
    parsed = json.loads(data.stdout)
    assert (parsed["avg_at_k"], parsed["pass_at_k"]) == (0.5, {"1": 0.5, "2": 1.0})
    assert json.loads((tmp_path / "report.json").read_text()) == parsed


@pytest.mark.parametrize(
    ("subject", "folder"),
    [
        (["--preset", "tiny"], "evals/sums-tiny-32"),
        (["--model", "Qwen/Qwen2.5-7B"], "evals/sums-Qwen2.5-7B-32"),
    ],
)
def test_eval_names_its_folder_after_benchmark_model_and_k(
    workflow: Install,
    evaluation: Evaluation,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    subject: list[str],
    folder: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(folder).mkdir(parents=True)
    calls = workflow("evaluate", returns=evaluation)
    dgpo("eval", "--bench", "sums", *subject)
    assert [call["out"] for call in calls] == [Path(folder)]


def run_folder(folder: Path, *overrides: str) -> Path:
    """Make a run folder with settings and two checkpoints; returns the newer one."""
    for step in (1, 2):
        (folder / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    settings = dump_toml(resolve(preset="tiny", overrides=overrides))
    (folder / "settings.toml").write_text(settings, encoding="utf-8")
    return folder / "checkpoints" / "step-000002"


def test_eval_of_a_run_takes_its_settings_and_newest_checkpoint(
    workflow: Install, evaluation: Evaluation, tmp_path: Path
) -> None:
    newest = run_folder(tmp_path, "rollout.temperature=0.5")
    calls = workflow("evaluate", returns=evaluation)
    result = dgpo("eval", "--bench", "sums", "--run", str(tmp_path), "--out", str(tmp_path))
    assert result.exit_code == 0, result.stderr
    settings = calls[0]["resolved"].settings
    assert (settings.model.path, settings.rollout.temperature) == (str(newest), 0.5)
    assert calls[0]["adapter"] is None


def test_eval_of_a_lora_run_puts_the_checkpoint_on_the_base_model(
    workflow: Install, evaluation: Evaluation, tmp_path: Path
) -> None:
    newest = run_folder(tmp_path, "adapter.kind=lora")
    calls = workflow("evaluate", returns=evaluation)
    dgpo("eval", "--bench", "sums", "--run", str(tmp_path), "--out", str(tmp_path))
    assert calls[0]["resolved"].settings.model.path == "embedded:tiny"
    assert calls[0]["adapter"] == newest


def test_eval_refuses_an_adapter_on_a_run_without_one(workflow: Install, tmp_path: Path) -> None:
    run_folder(tmp_path)
    calls = workflow("evaluate")
    result = dgpo("eval", "--bench", "sums", "--run", str(tmp_path), "--adapter", "a")
    assert (result.exit_code, calls) == (2, [])


def test_inspect_shows_one_completion_but_exports_all(workflow: Install) -> None:
    nothing = Inspection(model="m", reference="r", rule="dgpo", tau=0.5, kappa=1.0, completions=())
    calls = workflow("inspect", returns=nothing)
    assert dgpo("inspect", "a").exit_code == 0
    assert dgpo("inspect", "a", "--prompt", "2").exit_code == 0
    exported = dgpo("inspect", "--json", "--tau", "0.1")
    found = [(call["source"], call["prompt"], call["one"]) for call in calls]
    assert found == [(Path("a"), None, True), (Path("a"), 2, True), (None, None, False)]
    assert calls[2]["tau"] == 0.1
    assert json.loads(exported.stdout)["completions"] == []
