"""A run folder is read whatever state it is in; what cannot be read is told, not hidden."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.load import resolve
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.types import RunRecord
from dgpo_cli.report import report
from dgpo_cli.runs.run_folder import RunFolder
from tests.report.records import evaluation, line
from tests.train.test_train import run_tiny

TOKENS = ["[UNK]", "6", "7", " ", "<b>"]


def make(path: Path, steps: int = 6, *overrides: str) -> RunFolder:
    """A run folder without rollouts and checkpoints."""
    folder = RunFolder(path)
    path.mkdir(parents=True)
    resolved = resolve(preset="tiny", overrides=overrides)
    folder.settings_file.write_text(dump_toml(resolved), encoding="utf-8")
    for step in range(1, steps + 1):
        values = line(step)
        del values["step"]
        folder.write_metrics(step, {k: float("nan") if v is None else v for k, v in values.items()})
    return folder


def read(*folders: RunFolder) -> tuple[RunRecord, ...]:
    return report.run([folder.path for folder in folders])


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def rollout(prompt: str, outcome: str, **changes: Any) -> dict[str, Any]:
    count = 4
    numbers = dict.fromkeys(("logprobs", "entropy", "hellinger_sq", "scores"), [0.25] * count)
    return {
        "version": 1,
        "prompt_id": prompt,
        "prompt": "6*7?",
        "answer": "42",
        "index": 0,
        "completion": "67 6",
        "token_ids": [1, 2, 3, 4],
        "sampling_logprobs": [-0.5] * count,
        "finish_reason": "stop",
        "outcome": outcome,
        "reward": float(outcome == "correct"),
        "advantage": 0.5,
        "vocab_size": len(TOKENS),
        "credit": {"rule": "dgpo", "tau": 0.25, "kappa": 1.0},
        **numbers,
        "weights": [0.5, 0.5, 1.0, 2.0],
        **changes,
    }


def with_rollouts(folder: RunFolder, *lines: dict[str, Any], step: int = 6) -> None:
    from tokenizers import Tokenizer, models

    folder.tokenizer_dir.mkdir(exist_ok=True)
    vocabulary = {text: at for at, text in enumerate(TOKENS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.save(str(folder.tokenizer_dir / "tokenizer.json"))
    folder.rollouts_dir.mkdir(exist_ok=True)
    text = "".join(json.dumps(each) + "\n" for each in lines)
    folder.rollout_file(step).write_text(text, encoding="utf-8")


def test_a_run_is_read_whole(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", 6, "train.steps=6", "credit.tau=0.1")
    folder.write_eval(0, {k: v for k, v in evaluation(0, 0.5).items() if k != "step"})
    folder.checkpoint_dir(6).mkdir(parents=True)
    (folder.checkpoint_dir(6) / "weights").write_bytes(b"x" * 1234)
    folder.bad_batches_dir.mkdir()
    (folder.bad_batches_dir / "step-000003.jsonl").write_text("{}\n")
    (found,) = read(folder)
    assert (found.name, found.state, found.total, found.notes) == ("a", "finished", 6, ())
    assert [each["step"] for each in found.metrics] == [1, 2, 3, 4, 5, 6]
    assert [each["avg_at_k"] for each in found.evals] == [0.5]
    assert [(each.step, each.size) for each in found.checkpoints] == [(6, 1234)]
    assert found.bad_batches == (3,)
    settings = {each.key: (each.value, each.source, each.default) for each in found.settings}
    assert settings["credit.tau"] == ("0.1", "--set", "0.5")
    assert settings["optim.lr"] == ("0.0002", "preset tiny", "1e-06")
    assert settings["reward.minimum"][2] == "(unset)"


def test_a_run_that_was_killed_is_read_up_to_the_cut_line(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    append(folder.metrics_file, '{"step": 7, "reward/me')
    append(folder.evals_file, '{"step": 5')
    (found,) = read(folder)
    assert (len(found.metrics), found.evals, found.notes, found.state) == (6, (), (), "stopped")


def test_a_run_in_progress_is_told_from_one_that_stopped(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    with folder.lock():
        assert read(folder)[0].state == "running"
    assert read(folder)[0].state == "stopped"


def test_reading_a_run_does_not_keep_it_from_training(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    with folder.lock():
        pass
    read(folder)
    with folder.lock():
        pass


def test_a_step_done_again_counts_once_and_its_last_line_counts(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", 4)
    folder.write_metrics(3, {"reward/mean": 0.9})
    (found,) = read(folder)
    assert [each["step"] for each in found.metrics] == [1, 2, 3, 4]
    assert found.metrics[2]["reward/mean"] == 0.9


def test_what_is_no_finite_number_is_unknown(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", 0)
    append(folder.metrics_file, '{"step": 1, "a/b": NaN, "a/c": "x", "a/d": null, "a/e": [1]}\n')
    append(folder.metrics_file, '{"step": 2, "a/b": Infinity, "a/f": 2}\n')
    (found,) = read(folder)
    known = {k: v for each in found.metrics for k, v in each.items() if v is not None}
    assert known == {"step": 2.0, "a/f": 2.0}


@pytest.mark.parametrize(
    ("name", "text", "note"),
    [
        ("metrics.jsonl", "{broken\n{}\n", "lines 1, 2 of metrics.jsonl cannot be read and are"),
        ("metrics.jsonl", "[1]\n[2]\n", "lines 1, 2 of metrics.jsonl cannot be read and are"),
        ("evals.jsonl", "{broken\n{}\n", "lines 1, 2 of evals.jsonl cannot be read and are"),
        ("settings.toml", "= broken", "settings.toml cannot be read: Invalid statement (at line 1"),
        ("settings.toml", "[future]\nsetting = 1\n", "not diagnosed"),
    ],
)
def test_a_broken_file_costs_no_other_and_is_told(
    tmp_path: Path, name: str, text: str, note: str
) -> None:
    folder = make(tmp_path / "a")
    (folder.path / name).write_text(text, encoding="utf-8")
    (found,) = read(folder)
    assert any(each.startswith(note) for each in found.notes)
    assert all("\n" not in each for each in found.notes)
    if name != "metrics.jsonl":
        assert len(found.metrics) == 6
    if text.startswith("[future]"):  # of another version: shown as it is
        assert [(each.key, each.value, each.default) for each in found.settings] == [
            ("future.setting", "1", None)
        ]


def test_a_broken_line_costs_only_itself(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", 12)
    lines = folder.metrics_file.read_bytes().splitlines(keepends=True)
    lines[5] = b'{"step": 6, "reward/me{"step": 7}\n'
    lines[7:7] = [b"[1]\n", b"\n", b'{"step": "x"}\n', b"\xff\xfe\n", b'{"step": true}\n']
    folder.metrics_file.write_bytes(b"".join(lines))
    folder.write_eval(0, evaluation(0, 0.5))
    append(folder.evals_file, "broken\n")
    folder.write_eval(6, evaluation(6, 0.75))
    (found,) = read(folder)
    assert [each["step"] for each in found.metrics] == [*range(1, 6), *range(7, 13)]
    assert [each["step"] for each in found.evals] == [0, 6]
    assert found.notes == (
        "lines 6, 8, 10, 11, 12 of metrics.jsonl cannot be read and are left out",
        "metrics of step 6 are missing",
        "line 2 of evals.jsonl cannot be read and is left out",
    )


def test_a_step_beyond_the_end_of_the_run_is_a_broken_line(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", 4, "train.steps=6")
    folder.write_metrics(999_999_999, {})
    (found,) = read(folder)
    assert (found.state, len(found.metrics)) == ("stopped", 4)
    assert found.notes == ("line 5 of metrics.jsonl cannot be read and is left out",)


def test_a_metric_that_is_no_number_is_told_once_with_its_line(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", 0)
    lines = ['{"step": 2, "a/b": 1, "a/c": NaN}', '{"step": 1, "a/b": null, "a/c": "x"}']
    folder.metrics_file.write_text("\n".join(lines) + "\n")
    told = "line 2 of metrics.jsonl: a/c is not a number and is left out"
    assert read(folder)[0].notes == (told,)
    append(folder.metrics_file, '{"step": 3, "a/b": true, "a/c": [1]}\n')
    assert read(folder)[0].notes == (f"{told}, and 2 more like it",)


def test_samples_are_a_right_and_a_wrong_one_of_a_prompt(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    with_rollouts(folder, rollout("old", "correct"), step=1)
    with_rollouts(
        folder,
        rollout("p", "wrong"),
        rollout("p", "wrong", index=1),
        rollout("q", "wrong", index=2),
        rollout("q", "correct", index=3),
    )
    samples = read(folder)[0].samples
    assert samples is not None and samples.step == 6
    found = [(each.prompt_id, each.index) for each in samples.inspection.completions]
    assert found == [("q", 3), ("q", 2), ("p", 0)]
    shown = samples.inspection.completions[0]
    # This tokenizer puts a space between two tokens.
    assert [token.text for token in shown.tokens] == ["6", " 7", "  ", " <b>"]
    assert [token.weight for token in shown.tokens] == [0.5, 0.5, 1.0, 2.0]
    assert shown.effective_fraction == pytest.approx(16 / (4 * 5.5))
    assert (samples.inspection.tau, samples.lengths) == (0.25, (4, 4, 4))


def test_rollouts_that_cannot_be_shown_are_told(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    with_rollouts(folder, rollout("p", "wrong", weights=[1.0]))
    (found,) = read(folder)
    assert found.samples is None
    (note,) = found.notes
    assert note.startswith("no samples shown") and "weights has 1 numbers for 4 tokens" in note


def test_diagnoses_are_those_of_the_run(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", 0)
    for step in range(1, 9):
        cut = {"outcome/correct": 0.0, "outcome/truncated": 1.0, "reward/mean": 0.0}
        folder.write_metrics(step, {**cut, "groups/no_signal": 1.0})
    assert [each.key for each in read(folder)[0].diagnoses] == ["truncated"]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    first, second = make(tmp_path / "x" / "run"), make(tmp_path / "y" / "run")
    assert [each.name for each in read(first, second)] == ["x/run", "y/run"]


def test_without_a_name_the_newest_run_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for at, name in enumerate(("new", "old")):
        folder = make(tmp_path / "runs" / name)
        os.utime(folder.metrics_file, (10**9 - at, 10**9 - at))
    assert [each.name for each in report.run([])] == ["new"]


def test_what_is_no_run_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    for paths, words in (
        ([tmp_path / "none"], "no such folder"),
        ([folder.metrics_file], "is a file; name a run folder"),
        ([tmp_path / "empty"], "not a run folder"),
        ([folder.path, folder.path], "given twice"),
        ([], "no run under ./runs"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            report.run(paths)
        assert "\n" not in str(caught.value)


def test_a_real_run_is_on_its_page(tmp_path: Path) -> None:
    from dgpo_cli.report.run_page import report_page

    out = tmp_path / "run"
    run_tiny(out, "train.rollouts_every=1", "train.checkpoint_every=2", "optim.lr=1e-3", steps=3)
    (found,) = report.run([out])
    assert (found.state, found.total, found.notes) == ("finished", 3, ())
    assert [each.step for each in found.checkpoints] == [2, 3]
    assert found.samples is not None and found.samples.step == 3
    stored = [json.loads(raw) for raw in RunFolder(out).rollout_file(3).read_text().splitlines()]
    for shown in found.samples.inspection.completions:
        (written,) = [
            each
            for each in stored
            if (each["prompt_id"], each["index"]) == (shown.prompt_id, shown.index)
        ]
        assert [token.weight for token in shown.tokens] == written["weights"]
        assert "".join(token.text for token in shown.tokens).startswith(written["completion"])
    page = report_page([found])
    for key in ("reward", "outcomes", "split", "lengths", "effective", "distance", "phases"):
        assert f'data-chart="{key}"' in page
