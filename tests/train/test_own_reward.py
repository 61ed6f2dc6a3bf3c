"""Runs whose reward is added up from terms, one of them a function of the user's."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.config.changes import SettingDifference
from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.schema import Change
from dgpo_cli.prompts.sums import sample_problem
from dgpo_cli.runs.history import read_changes
from dgpo_cli.train.collect import is_stale
from tests.train.test_train import numbers, run_tiny

SCORE = """
def short(completion, problem):
    print(problem)
    if sum(completion.token_ids) % 4 == 0:
        raise ValueError("four fours")
    return -len(completion.token_ids) / 100
"""

JUDGE = """
def ends(completion, level):
    assert level == 1
    return completion.text.endswith("{" + completion.answer + "}")
"""


@pytest.fixture
def data(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "mine.py").write_text(SCORE)
    rng = random.Random(1)
    sums = [sample_problem(rng, operations=3) for _ in range(24)]
    rows = [{"problem": each.question, "answer": each.answer, "level": 1} for each in sums]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    terms = f"""[
        {{kind = "integer"}},
        {{kind = "python", path = "{tmp_path}/mine.py:short", weight = 0.5}},
    ]""".replace("\n", " ")
    return (
        "prompts.kind=file",
        f"prompts.path={tmp_path}/sums.jsonl",
        "reward.kind=terms",
        f"reward.terms={terms}",
        "reward.workers=1",
        "rollout.temperature=1.5",
        "train.rollouts_every=1",
        "train.checkpoint_every=1",
    )


def lines_of(run: Path) -> list[dict[str, Any]]:
    files = sorted((run / "rollouts").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_run_of_terms_leaves_out_what_is_unscored_and_goes_on_as_it_would_have(
    tmp_path: Path, data: tuple[str, ...]
) -> None:
    events: list[str] = []
    each = (*data, "advantage.normalize=each", "rollout.dynamic_sampling=true")
    _, metrics = run_tiny(tmp_path / "run", *each, steps=2, events=events)
    lines = lines_of(tmp_path / "run")
    failed = [line for line in lines if sum(line["token_ids"]) % 4 == 0]
    scored = [line for line in lines if sum(line["token_ids"]) % 4]
    assert failed and scored
    for line in failed:
        assert (line["outcome"], line["reward"], line["advantage"]) == ("error", None, 0.0)
        assert line["note"].endswith("mine.py, line 5: ValueError: four fours")
        assert line["terms"]["short"] is None and line["terms"]["integer"] in (0.0, 1.0)
    for line in scored:
        own = line["terms"]
        assert own["short"] == -len(line["token_ids"]) / 100
        assert line["reward"] == pytest.approx(own["integer"] + 0.5 * own["short"])
        assert line["outcome"] == "correct" or own["integer"] == 0.0
    assert any(line["advantage"] for line in scored)
    told = [text for text in events if "are unscored" in text]
    assert len(told) == 1 and "do not train, most often: short: " in told[0]
    log = (tmp_path / "run" / "reward.log").read_text().splitlines()
    assert {f"{line['prompt']}" for line in lines} <= {f"{text}" for text in log}
    for step in metrics:
        assert step["reward/unscored"] == pytest.approx(step["outcome/error"])
        assert math.isfinite(step["reward/short_mean"]) and math.isfinite(step["loss/value"])

    run_tiny(tmp_path / "again", *each, steps=1)
    _, rest = run_tiny(tmp_path / "again", *each, steps=2)
    assert numbers(rest) == numbers(metrics[1:])


def test_a_function_is_loaded_and_its_columns_are_looked_for_before_anything_is_sampled(
    tmp_path: Path, data: tuple[str, ...]
) -> None:
    own = tmp_path / "mine.py"
    own.write_text("def short(completion, unit): return 1")
    with pytest.raises(DataError, match="24 of 24 problems have no column 'unit', which the rew"):
        run_tiny(tmp_path / "run", *data)
    own.write_text("import nothing_of_that_name")
    with pytest.raises(ConfigError, match="ModuleNotFoundError"):
        run_tiny(tmp_path / "other", *data, "model.path=no/model")


def test_problems_need_no_answer_if_no_term_reads_one(
    tmp_path: Path, data: tuple[str, ...]
) -> None:
    (tmp_path / "sums.jsonl").write_text("\n".join(f'{{"problem": "{n}+1?"}}' for n in range(20)))
    (tmp_path / "mine.py").write_text("def short(completion): return len(completion.text)")
    own = ("reward.kind=python", f"reward.path={tmp_path}/mine.py:short")
    kept = [each for each in data if not each.startswith("reward.")]
    _, metrics = run_tiny(tmp_path / "run", *kept, *own, "rollout.dynamic_sampling=true", steps=1)
    assert metrics[0]["outcome/scored"] == 1.0
    assert metrics[0]["dynamic/groups_trained"] >= 1
    assert "short" in lines_of(tmp_path / "run")[0]["terms"]


def test_a_changed_function_is_refused_on_resume_or_scores_from_then_on(
    tmp_path: Path, data: tuple[str, ...]
) -> None:
    run_tiny(tmp_path / "run", *data, steps=1)
    own = tmp_path / "mine.py"
    own.write_text(own.read_text().replace("/ 100", "/ 50"))
    with pytest.raises(ConfigError, match=r"mine\.py: has changed since .* began with it"):
        run_tiny(tmp_path / "run", *data, steps=2)
    run_tiny(tmp_path / "run", *data, steps=2, allow_change=True)
    (change,) = read_changes(tmp_path / "run")
    assert change.setting.startswith("reward.code ") and change.step == 1
    # Groups that wait for the next step were judged by the other code.
    found = SettingDifference(change.setting, change.old, change.new, Change.LEARNT, True)
    assert is_stale([found])
    lines = [line for line in lines_of(tmp_path / "run") if line["policy_version"] == 1]
    known = [line for line in lines if line["terms"]["short"] is not None]
    assert known
    assert all(line["terms"]["short"] == -len(line["token_ids"]) / 50 for line in known)


def test_evaluations_of_a_run_ask_the_term_that_judges_with_the_columns_of_its_file(
    tmp_path: Path, data: tuple[str, ...]
) -> None:
    (tmp_path / "mine.py").write_text(SCORE + JUDGE)
    judge = f'{{kind = "python", path = "{tmp_path}/mine.py:ends"}}'
    kept = [each for each in data if not each.startswith("reward.terms")]
    short = f'{{kind = "python", path = "{tmp_path}/mine.py:short", group = false}}'
    own = (f"reward.terms=[{judge}, {short}]", "eval.every=1", "eval.k=1", "eval.protocol=settings")
    run_tiny(tmp_path / "run", *kept, *own, f"eval.bench={tmp_path}/sums.jsonl", steps=1)
    (line, _) = (tmp_path / "run" / "evals.jsonl").read_text().splitlines()
    folder = tmp_path / "run" / json.loads(line)["out"]
    samples = [json.loads(each) for each in (folder / "samples.jsonl").read_text().splitlines()]
    right = [each["completion"].endswith(f"{{{each['answer']}}}") for each in samples]
    assert [each["outcome"] == "correct" for each in samples] == right
    assert json.loads(line)["avg_at_k"] == pytest.approx(sum(right) / 24)
    checker = json.loads((folder / "card.json").read_text())["protocol"]["checker"]
    assert [each["name"] for each in checker["terms"]] == ["ends"]
    assert list(checker["code"]) == [f"{tmp_path}/mine.py"]
