"""Laws of eval and regrade: what they hand to the workflows, what they print, how they end."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from dgpo_cli.cli.evaluate.flags import parse_margin, parse_share
from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.load import resolve
from dgpo_cli.config.protocols import protocol_for
from dgpo_cli.core.digests import write_digests
from dgpo_cli.core.formats import TrainerState
from dgpo_cli.core.types import Card, Disagreement, Evaluation, Interval
from dgpo_cli.evals.eval_folder import EvalFolder
from dgpo_cli.evals.request import EvalResult, Flip, RegradeResult
from dgpo_cli.prompts import benchmarks
from tests.cli.conftest import Install
from tests.cli.helpers import in_process as dgpo

CARD = Card({"bench": "sums", "temperature": 1.0}, {"model": "m"}, {"backend": "hf"})
TINY = ["eval", "--bench", "sums", "--preset", "tiny"]


@pytest.fixture
def result(evaluation: Evaluation, tmp_path: Path) -> EvalResult:
    return EvalResult(evaluation=evaluation, card=CARD, out=tmp_path, sampled=2)


def test_the_report_is_printed_with_its_folder(workflow: Install, result: EvalResult) -> None:
    workflow("evaluate", returns=result)
    shown = dgpo(*TINY)
    assert shown.exit_code == 0, shown.stderr
    assert "50.0" in shown.stdout and f"written to {result.out}" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) < 200  # rules do not fill a pipe's width


def test_json_is_the_report_with_its_card(workflow: Install, result: EvalResult) -> None:
    workflow("evaluate", returns=result)
    data = json.loads(dgpo(*TINY, "--json", "--answers").stdout)
    assert (data["avg_at_k"], data["version"], data["card_key"]) == (0.5, 1, CARD.key)
    assert data["card"]["protocol"] == CARD.protocol
    EvalFolder(result.out).write_report(result.evaluation, CARD)
    assert json.loads((result.out / "report.json").read_text()) == data


SECRET = "7919"


def test_no_expected_answer_is_printed_unless_asked_for(
    workflow: Install, result: EvalResult, regraded: RegradeResult
) -> None:
    told = Disagreement("p1", 0, SECRET, None, "wrong", "correct")
    problems = tuple(replace(each, answer=SECRET) for each in result.evaluation.problems)
    secret = replace(result.evaluation, problems=problems, disagreements=(told,))
    workflow("evaluate", returns=replace(result, evaluation=secret))
    flips = (replace(regraded.flips[0], answer=SECRET, new_extracted="1"),)
    workflow("regrade", returns=replace(regraded, evaluation=secret, flips=flips))
    for command in (TINY, ("regrade", "somewhere")):
        for form in ((), ("--json",)):
            assert SECRET not in dgpo(*command, *form).output
            assert SECRET in dgpo(*command, *form, "--answers").stdout


@pytest.mark.parametrize(
    ("flag", "start"),
    [
        ("--markdown", "sums (1 problem)\n\n| model | Avg@2 |"),
        ("--csv", "model,bench,folder,"),
        ("--latex", "% needs \\usepackage{booktabs,textcomp}\n"),
    ],
)
def test_the_table_of_one_evaluation_has_one_row(
    workflow: Install, result: EvalResult, flag: str, start: str
) -> None:
    workflow("evaluate", returns=result)
    shown = dgpo(*TINY, flag)
    assert shown.exit_code == 0 and shown.stdout.startswith(start)
    rows = [line for line in shown.stdout.splitlines() if re.match(r"(\| )?tiny\b", line)]
    assert (len(rows) == 1 and "50.0" in rows[0]) or "0.5" in rows[0]


def test_greedy_decoding_draws_one_sample_of_each_problem(
    workflow: Install, result: EvalResult
) -> None:
    calls = workflow("evaluate", returns=result)
    greedy = [*TINY, "--set", "rollout.temperature=0"]
    assert [dgpo(*each).exit_code for each in (TINY, greedy, [*greedy, "--k", "1"])] == [0, 0, 0]
    assert [call["request"].k for call in calls] == [32, 1, 1]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--k", "2"], "--k 2: greedy samples of a problem (rollout.temperature=0) are all alike"),
        (["--min-score", "60%"], "--min-score 60%: greedy decoding has no error over reruns"),
        (["--stop-when", "2"], "--stop-when 2: greedy decoding has no error over reruns"),
    ],
)
def test_what_greedy_decoding_cannot_give_is_refused(
    workflow: Install, flags: list[str], said: str
) -> None:
    calls = workflow("evaluate")
    ended = dgpo(*TINY, "--set", "rollout.temperature=0", *flags)
    assert (ended.exit_code, calls) == (2, [])
    assert said in ended.stderr and len(ended.stderr.splitlines()) <= 2


def test_a_result_is_printed_in_one_form(workflow: Install) -> None:
    calls = workflow("evaluate")
    ended = dgpo(*TINY, "--csv", "--json")
    assert (ended.exit_code, calls) == (2, [])
    assert "--json and --csv: give only one of them" in ended.stderr


def test_everything_that_was_asked_reaches_the_workflow(
    workflow: Install, result: EvalResult
) -> None:
    calls = workflow("evaluate", returns=result)
    ended = dgpo(
        *["eval", "--bench", "mine.jsonl", "--k", "3", "--model", "some/model", "--adapter", "a"],
        *["--protocol", "dapo", "--set", "rollout.top_p=0.9", "--seed", "7", "--out", "here"],
        *["--data", "copy.csv", "--columns", " problem = question,answer=gold", "--no-strict"],
        *["--fresh", "--no-second-opinion"],
    )
    assert ended.exit_code == 0, ended.stderr
    (call,) = calls
    request, resolved = call["request"], call["resolved"]
    assert (request.bench, request.k, request.name) == ("mine.jsonl", 3, "model")
    assert (request.out, request.adapter, request.data) == (
        Path("here"),
        Path("a"),
        Path("copy.csv"),
    )
    assert request.columns == {"problem": "question", "answer": "gold"}
    assert (request.strict, request.fresh, request.second_opinion) == (False, True, False)
    assert request.protocol.name == "dapo"
    rollout = resolved.settings.rollout
    assert (rollout.top_p, rollout.temperature, resolved.settings.seed) == (0.9, 1.0, 7)
    assert resolved.sources["rollout.top_p"] == "--set"
    assert resolved.sources["rollout.max_completion_tokens"] == "protocol dapo"


def test_what_was_not_asked_is_left_open(workflow: Install, result: EvalResult) -> None:
    calls = workflow("evaluate", returns=result)
    dgpo(*TINY)
    request = calls[0]["request"]
    assert (request.k, request.name, request.out, request.protocol) == (32, "tiny", None, None)
    assert (request.strict, request.fresh, request.second_opinion) == (None, False, True)
    assert (request.data, request.columns, request.adapter) == (None, None, None)
    assert calls[0]["resolved"].sources["rollout.temperature"] == "preset tiny"


def test_the_benchmark_brings_its_protocol_unless_another_is_asked_for(
    workflow: Install, result: EvalResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = workflow("evaluate", returns=result)
    monkeypatch.setattr(benchmarks, "prefetch", lambda name, observer: None)
    for more in ([], ["--protocol", "dapo"], ["--protocol", "settings"]):
        assert dgpo(*TINY, "--bench", "AIME-25", *more).exit_code == 0
    protocols = [call["request"].protocol for call in calls]
    assert [protocol and protocol.name for protocol in protocols] == ["boxed", "dapo", None]
    temperatures = [call["resolved"].settings.rollout.temperature for call in calls]
    assert temperatures == [0.6, 1.0, 1.0]


def test_a_generated_benchmark_and_a_file_are_run_with_the_settings_as_they_are() -> None:
    assert protocol_for("sums", name=None) is None
    assert protocol_for("mine.jsonl", name=None) is None


@pytest.mark.parametrize(
    ("text", "share"), [("0.6", 0.6), ("60%", 0.6), ("60%", 0.6), ("1", 1.0), ("0", 0.0)]
)
def test_min_score_is_a_share_or_percent(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize(
    "text", ["1.5", "±1.5", "+-1.5", "+/-1.5", "1.5%", "±1.5%", " ± 1.5 % ", "1.50"]
)
def test_stop_when_is_in_percentage_points(text: str) -> None:
    assert parse_margin(text) == pytest.approx(0.015)


@pytest.mark.parametrize("text", ["0", "50", "-1.5", "nan", "inf", "1e-2", "x", "", "1.5 points"])
def test_what_is_no_margin_of_error_is_refused(workflow: Install, text: str) -> None:
    calls = workflow("evaluate")
    ended = dgpo(*TINY, f"--stop-when={text}")
    assert (ended.exit_code, calls) == (2, [])
    assert f"--stop-when {text}: give percentage points" in ended.stderr


def test_stop_when_reaches_the_workflow_and_needs_samples_to_leave_out(
    workflow: Install, result: EvalResult
) -> None:
    calls = workflow("evaluate", returns=result)
    assert dgpo(*TINY, "--stop-when", "±2").exit_code == 0
    assert (calls[0]["request"].stop_when, calls[0]["request"].k) == (0.02, 32)
    ended = dgpo(*TINY, "--stop-when", "2", "--k", "3")
    assert ended.exit_code == 2 and "--k 3 leaves nothing to stop" in ended.stderr


@pytest.mark.parametrize(("least", "code"), [("0.303", 0), ("30.3%", 0), ("0.305", 3), ("1", 3)])
def test_min_score_looks_at_the_lower_end_of_the_rerun_interval(
    workflow: Install, result: EvalResult, least: str, code: int
) -> None:
    bounds = replace(result.evaluation, rerun_95=Interval(0.304, 0.696))
    workflow("evaluate", returns=replace(result, evaluation=bounds))
    ended = dgpo(*TINY, "--min-score", least)
    assert ended.exit_code == code
    assert ("the lower end of the 95% interval over reruns is 30.4%" in ended.stderr) == (code == 3)
    assert "50.0" in ended.stdout  # the report comes in any case


def test_min_score_leaves_json_alone(workflow: Install, result: EvalResult) -> None:
    workflow("evaluate", returns=result)
    ended = dgpo(*TINY, "--min-score", "99%", "--json")
    assert (ended.exit_code, json.loads(ended.stdout)["avg_at_k"]) == (3, 0.5)


def run_folder(folder: Path, *overrides: str) -> Path:
    """Make a run folder with settings and two checkpoints; returns the newer one."""
    for step in (1, 2):
        checkpoint = folder / "checkpoints" / f"step-{step:06d}"
        checkpoint.mkdir(parents=True)
        state = asdict(TrainerState(step=step, policy_version=step, bad_streak=0))
        (checkpoint / "state.json").write_text(json.dumps(state), encoding="utf-8")
        write_digests(checkpoint)
    settings = dump_toml(resolve(preset="tiny", overrides=overrides))
    (folder / "settings.toml").write_text(settings, encoding="utf-8")
    return folder / "checkpoints" / "step-000002"


def test_a_run_gives_its_settings_and_newest_checkpoint(
    workflow: Install, result: EvalResult, tmp_path: Path
) -> None:
    newest = run_folder(tmp_path, "rollout.temperature=0.5")
    calls = workflow("evaluate", returns=result)
    ended = dgpo("eval", "--bench", "sums", "--run", str(tmp_path))
    assert ended.exit_code == 0, ended.stderr
    settings = calls[0]["resolved"].settings
    assert (settings.model.path, settings.rollout.temperature) == (str(newest), 0.5)
    assert (calls[0]["request"].adapter, calls[0]["request"].name) == (None, tmp_path.name)


def test_a_run_whose_newest_checkpoint_is_damaged_is_not_evaluated(
    workflow: Install, tmp_path: Path
) -> None:
    newest = run_folder(tmp_path)
    (newest / "state.json").write_text('{"step": 2}', encoding="utf-8")
    calls = workflow("evaluate")
    ended = dgpo("eval", "--bench", "sums", "--run", str(tmp_path))
    assert (ended.exit_code, calls) == (1, [])
    assert f"{newest}/state.json" in ended.stderr and "also has step 1" in ended.stderr


def test_a_protocol_goes_above_the_settings_of_a_run(
    workflow: Install, result: EvalResult, tmp_path: Path
) -> None:
    newest = run_folder(tmp_path, "rollout.temperature=0.5", "prompts.system=Be brief")
    calls = workflow("evaluate", returns=result)
    dgpo("eval", "--bench", "sums", "--run", str(tmp_path), "--protocol", "boxed")
    settings = calls[0]["resolved"].settings
    assert (settings.rollout.temperature, settings.prompts.system) == (0.6, None)
    assert settings.model.path == str(newest)


def test_the_checkpoint_of_a_lora_run_goes_on_the_base_model(
    workflow: Install, result: EvalResult, tmp_path: Path
) -> None:
    newest = run_folder(tmp_path, "adapter.kind=lora")
    calls = workflow("evaluate", returns=result)
    dgpo("eval", "--bench", "sums", "--run", str(tmp_path))
    assert calls[0]["resolved"].settings.model.path == "embedded:tiny"
    assert calls[0]["request"].adapter == newest


def test_an_adapter_on_a_run_without_one_is_refused(workflow: Install, tmp_path: Path) -> None:
    run_folder(tmp_path)
    calls = workflow("evaluate")
    ended = dgpo("eval", "--bench", "sums", "--run", str(tmp_path), "--adapter", "a")
    assert (ended.exit_code, calls) == (2, [])


@pytest.fixture
def regraded(evaluation: Evaluation) -> RegradeResult:
    flip = Flip(
        prompt_id="2024-I-1\x1b[31m",
        index=3,
        answer="204",
        old="wrong",
        new="correct",
        old_extracted=None,
        new_extracted="204",
    )
    return RegradeResult(evaluation=evaluation, card=CARD, samples=64, flips=(flip,))


def test_regrade_lists_every_flip(workflow: Install, regraded: RegradeResult) -> None:
    calls = workflow("regrade", returns=regraded)
    ended = dgpo("regrade", "somewhere", "--answers")
    assert (ended.exit_code, calls[0]["resolved"]) == (0, Path("somewhere"))
    assert "\x1b" not in ended.stdout
    (line,) = [line for line in ended.stdout.splitlines() if "2024-I-1" in line]
    for part in ("3", "204", "wrong -> correct", "nothing -> 204"):
        assert part in line
    assert "1 of 64 samples flipped" in ended.stdout


def test_regrade_as_json(workflow: Install, regraded: RegradeResult) -> None:
    workflow("regrade", returns=regraded)
    data = json.loads(dgpo("regrade", "somewhere", "--json").stdout)
    (flip,) = data["flips"]
    assert (flip["index"], flip["old"], flip["new"]) == (3, "wrong", "correct")
    assert (data["version"], data["report"]["avg_at_k"]) == (1, 0.5)


def test_regrade_without_flips_says_so(workflow: Install, regraded: RegradeResult) -> None:
    workflow("regrade", returns=replace(regraded, flips=()))
    assert "0 of 64 samples flipped" in dgpo("regrade", "somewhere").stdout


def test_a_checker_that_cannot_judge_the_benchmark_is_refused_before_anything_is_fetched(
    workflow: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = workflow("evaluate")
    monkeypatch.setattr(benchmarks, "prefetch", lambda name, observer: pytest.fail("fetched"))
    ended = dgpo("eval", "--bench", "MATH-500", "--preset", "tiny", "--protocol", "settings")
    assert (ended.exit_code, calls) == (2, [])
    assert "math-500: reward.kind='integer' does not judge its answers" in ended.stderr
    assert "--protocol boxed-math" in ended.stderr


def test_a_settings_file_gives_the_model_before_training(
    workflow: Install, result: EvalResult, tmp_path: Path
) -> None:
    calls = workflow("evaluate", returns=result)
    file = tmp_path / "mine.toml"
    file.write_text('[model]\npath = "embedded:tiny"\n[rollout]\ntemperature = 0.5\n')
    ended = dgpo("eval", "--bench", "sums", "--config", str(file))
    assert ended.exit_code == 0, ended.output
    assert calls[0]["request"].name == "mine"
    settings = calls[0]["resolved"].settings
    assert (settings.model.path, settings.rollout.temperature) == ("embedded:tiny", 0.5)
    refused = dgpo("eval", "--bench", "sums", "--endpoint", "http://x", "--config", str(file))
    assert refused.exit_code == 2 and "--endpoint and --config" in refused.output
