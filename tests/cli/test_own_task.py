"""--model, --data and --reward: a first run with one's own, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.helpers import in_process as dgpo


@pytest.fixture
def questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a file of sums that the embedded model can read, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    lines = [{"question": f"({a}+7)*2?", "answer": str(2 * (a + 7))} for a in range(10, 30)]
    Path("q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return "q.jsonl"


def rows_of(printed: str) -> dict[str, list[str]]:
    """Return value and source of each setting that --dry-run prints."""
    return {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.strip()}


def test_flags_change_model_data_and_reward_of_a_preset(questions: str) -> None:
    shown = dgpo(
        *["train", "--preset", "smollm2-lora", "--model", "embedded:tiny", "--data", questions],
        *["--reward", "math", "--dry-run"],
    )
    assert shown.exit_code == 0, shown.stderr
    rows = rows_of(shown.stdout)
    assert rows["model.path"] == ["embedded:tiny", "--model"]
    assert rows["prompts.path"] == ["q.jsonl", "--data"]
    assert rows["prompts.problem_column"][0] == "question"
    assert rows["reward.kind"] == ["math", "--reward"]
    assert rows["adapter.kind"] == ["lora", "preset", "smollm2-lora"]


def test_rollout_draws_data_as_training_does(questions: str) -> None:
    done = dgpo(
        *["rollout", "--preset", "tiny", "--data", questions, "--limit", "3", "--group-size", "2"],
        *["--out", "r.jsonl"],
    )
    assert done.exit_code == 0, done.stderr
    lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert len({line["prompt_id"] for line in lines}) == 3
