"""Laws of rollout and inspect: what they hand to the workflows and what they print."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from dgpo_cli.cli.main import app
from dgpo_cli.core.types import Inspection
from dgpo_cli.inspect.request import Selection, Values, WhatIf
from tests.cli.conftest import Install
from tests.cli.helpers import in_process as dgpo

NOTHING = Inspection(
    model="m", reference="r", rule="dgpo", tau=0.5, kappa=1.0, vocab_size=9, completions=()
)


SAMPLED = SimpleNamespace(
    out=Path("x.jsonl"),
    completions=4,
    mean_reward=0.75,
    outcomes={"correct": 0.75, "wrong": 0.25},
    terms={},
    failure="",
)


@pytest.mark.parametrize(
    ("given", "against"), [((), "--reference OTHER"), (("--adapter", "a"), "--adapter a")]
)
def test_rollout_ends_with_an_inspect_that_has_something_to_compare_with(
    workflow: Install, given: tuple[str, ...], against: str
) -> None:
    workflow("rollout", returns=SAMPLED)
    result = dgpo("rollout", "--prompts", "sums", "--model", "m", "--out", "x.jsonl", *given)
    assert result.stderr == f"next: dgpo inspect --model m {against} --rollouts x.jsonl\n"


def test_rollout_may_sample_one_completion_and_cut_the_tail(workflow: Install) -> None:
    calls = workflow("rollout", returns=SAMPLED)
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


def test_rollout_tells_the_terms_of_a_reward_and_why_completions_are_unscored(
    workflow: Install,
) -> None:
    own = {"terms": {"integer": 0.5, "steps": -0.25}, "failure": "steps: no good"}
    workflow("rollout", returns=SimpleNamespace(**{**vars(SAMPLED), **own}))
    result = dgpo("rollout", "--prompts", "sums", "--model", "m", "--out", "x.jsonl")
    assert "terms: integer 0.500  steps -0.250\n" in result.stdout
    assert "note: unscored, most often because of steps: no good\n" in result.stderr


def test_inspect_shows_one_completion_but_exports_all(workflow: Install) -> None:
    calls = workflow("inspect", returns=NOTHING)
    assert dgpo("inspect", "a").exit_code == 0
    assert dgpo("inspect", "a", "--group", "2", "--at", "7").exit_code == 0
    exported = dgpo("inspect", "--json", "--tau", "0.1", "--rule", "dgpo")
    found = [(call["resolved"].source, call["choice"], call["at"]) for call in calls]
    assert found == [
        (Path("a"), Selection(one=True), None),
        (Path("a"), Selection(group=2, one=True), 7),
        (None, Selection(one=False), None),
    ]
    assert calls[2]["what_if"] == WhatIf(rule="dgpo", tau=0.1)
    assert json.loads(exported.stdout)["completions"] == []


def test_inspect_parts_settings_of_the_rule_from_those_of_what_estimates(
    workflow: Install,
) -> None:
    calls = workflow("inspect", returns=NOTHING)
    given = ("credit.share=0.3", "rollout.backend.kind=vllm", "reward.kind=math")
    sets = [part for each in given for part in ("--set", each)]
    assert dgpo("inspect", "a", "--value", "16", *sets).exit_code == 0
    assert dgpo("inspect", "a").exit_code == 0
    assert calls[0]["what_if"] == WhatIf(overrides=given[:1])
    assert calls[0]["values"] == Values(16, given[1:])
    assert calls[1]["values"] is None


def test_inspect_reads_texts_from_the_line_from_stdin_and_from_files(
    workflow: Install, tmp_path: Path
) -> None:
    calls = workflow("inspect", returns=NOTHING)
    file = tmp_path / "prompt.txt"
    file.write_text("é\n", encoding="utf-8")
    runner, models = CliRunner(), ("--model", "m", "--reference", "r")
    given = ("inspect", *models, "--prompt", f"@{file}", "--completion", "-")
    assert runner.invoke(app, given, input="from stdin\n").exit_code == 0
    assert dgpo("inspect", *models, "--prompt", "@@x", "--completion", "-1").exit_code == 0
    origins = [(call["resolved"].prompt, call["resolved"].completion) for call in calls]
    assert origins == [("é\n", "from stdin\n"), ("@x", "-1")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompt", "3"], "--prompt=3: give --completion TEXT too; --group 3 chooses a prompt"),
        (["--completion", "1"], "--sample 1 chooses a completion by its number"),
        (["--prompt", "-", "--completion", "-"], "only one of them can be stdin"),
        (["--prompt", "@absent", "--completion", "x"], "--prompt=@absent: cannot be read: No such"),
        (["a", "--prompt", "x"], "a and --prompt: give only one of them"),
        (["a", "--prompt", "x", "--completion", "y"], "a and --prompt: give only one of them"),
        (["a", "--target-ess", "1.5"], "--target-ess=1.5: must be between 0 and 1"),
        (["a", "--target-ess", "0.9", "--tau", "1"], "the second finds tau; give one"),
        (["a", "--at", "-1"], "--at"),
        (["a", "--group", "-1"], "--group"),
        (["a", "--value", "-1"], "--value=-1: must be at least 0"),
        (["a", "--what", "value"], "--what value: goes with --value K"),
        (["a", "--set", "rollout.top_p=0.9"], "rollout.top_p=0.9: goes with --value K"),
        (["a", "--value", "4", "--set", "model.path=m"], "give --model instead"),
        (["a", "--value", "4", "--set", "optim.lr=1"], "--value takes settings of model, rollout"),
        (["--prompt", "x", "--completion", "y", "--value", "4"], "nothing says which answer is"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_inspected_exits_with_2_in_one_line(arguments: list[str], said: str) -> None:
    result = dgpo("inspect", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert said in result.stderr
