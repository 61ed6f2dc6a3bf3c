"""Laws of rollout and inspect: what they hand to the workflows and what they print."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from dgpo_cli.types import Inspection
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


def test_inspect_shows_one_completion_but_exports_all(workflow: Install) -> None:
    nothing = Inspection(
        model="m", reference="r", rule="dgpo", tau=0.5, kappa=1.0, vocab_size=9, completions=()
    )
    calls = workflow("inspect", returns=nothing)
    assert dgpo("inspect", "a").exit_code == 0
    assert dgpo("inspect", "a", "--prompt", "2").exit_code == 0
    exported = dgpo("inspect", "--json", "--tau", "0.1")
    found = [(call["source"], call["prompt"], call["one"]) for call in calls]
    assert found == [(Path("a"), None, True), (Path("a"), 2, True), (None, None, False)]
    assert calls[2]["tau"] == 0.1
    assert json.loads(exported.stdout)["completions"] == []
