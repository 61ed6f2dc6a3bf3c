"""Evaluations during training: the numbers of dgpo eval, and a run that does not notice them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dgpo_cli.config.load import resolve
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.events import NOBODY, Evaluated
from dgpo_cli.engine import setup
from dgpo_cli.evals import evaluate
from dgpo_cli.evals.eval_folder import EvalFolder
from dgpo_cli.evals.request import EvalRequest
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.train import interrupt, train, train_eval
from tests.evals.evaluations import problems, stored
from tests.recorder import Recorder
from tests.train.test_train import SMALL, numbers, run_tiny, weights

EVERY = ("eval.every=2", "eval.k=3")


@pytest.fixture
def bench(tmp_path: Path) -> str:
    return str(problems(tmp_path))


def evals(out: Path) -> list[dict[str, Any]]:
    return RunFolder(out).read_evals()


def seen(out: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["avg_at_k"]) for line in evals(out)]


def test_the_first_and_every_nth_and_the_last_weights_are_evaluated(
    tmp_path: Path, bench: str
) -> None:
    result, _ = run_tiny(tmp_path / "run", *EVERY, f"eval.bench={bench}", steps=5)
    assert [step for step, _ in seen(tmp_path / "run")] == [0, 2, 4, 5]
    assert result.curve == tuple(evals(tmp_path / "run"))
    for line in result.curve:
        samples = stored(tmp_path / "run" / line["out"])
        right = sum(sample["outcome"] == "correct" for sample in samples)
        assert len(samples) == 3 * 3
        assert line["avg_at_k"] == pytest.approx(right / 9)


def test_an_evaluation_is_that_of_the_checkpoint(tmp_path: Path, bench: str) -> None:
    """The samples are those that dgpo eval draws from the saved weights, byte for byte."""
    more = (*EVERY, f"eval.bench={bench}", "train.checkpoint_every=2", "eval.temperature=0.7")
    run_tiny(tmp_path / "run", *more, steps=2)
    checkpoint = RunFolder(tmp_path / "run").checkpoint_dir(2)
    overrides = [*SMALL, f"model.path={checkpoint}", "rollout.temperature=0.7"]
    evaluate.run(
        resolve(preset="tiny", overrides=overrides),
        request=EvalRequest(bench=bench, k=3, name="c", out=tmp_path / "e", second_opinion=False),
        observer=NOBODY,
    )
    inside = (tmp_path / "run" / "evals" / "step-000002" / "samples.jsonl").read_bytes()
    outside = (tmp_path / "e" / "samples.jsonl").read_bytes()
    assert inside == outside


def test_a_run_with_evaluations_learns_what_the_run_without_does(
    tmp_path: Path, bench: str
) -> None:
    with_them, lines = run_tiny(tmp_path / "a", *EVERY, f"eval.bench={bench}", steps=3)
    without, plain = run_tiny(tmp_path / "b", steps=3)
    assert numbers(lines) == numbers(plain)
    one, other = weights(with_them.checkpoint), weights(without.checkpoint)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_evaluation_that_was_cut_short_goes_on_where_it_stopped(
    tmp_path: Path, bench: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = (*EVERY, f"eval.bench={bench}", "rollout.backend.batch_size=4")
    run_tiny(tmp_path / "straight", *more, steps=2)
    out = tmp_path / "cut"
    asked = [0]

    def third(self: Any) -> bool:
        asked[0] += 1
        return asked[0] > 2

    with monkeypatch.context() as patch:
        patch.setattr(interrupt.Interrupt, "requested", property(third))
        patch.setattr(
            interrupt.Interrupt, "end", lambda self, told: (_ for _ in ()).throw(SystemExit(130))
        )
        with pytest.raises(SystemExit):
            run_tiny(out, *more, steps=2)
    assert evals(out) == []
    assert 0 < len(stored(out / "evals" / "step-000000")) < 9
    run_tiny(out, *more, steps=2)
    assert seen(out) == seen(tmp_path / "straight")
    for step in (0, 2):
        name = f"evals/step-{step:06d}/samples.jsonl"
        assert (out / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_a_resumed_run_repeats_no_evaluation_and_forgets_those_it_does_again(
    tmp_path: Path, bench: str
) -> None:
    more = (*EVERY, f"eval.bench={bench}", "train.checkpoint_every=2")
    run_tiny(tmp_path / "run", *more, steps=3)
    first = evals(tmp_path / "run")
    for path in RunFolder(tmp_path / "run").checkpoints()[1:]:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    card = tmp_path / "run" / "evals" / "step-000002" / "card.json"
    before = card.stat().st_mtime_ns
    run_tiny(tmp_path / "run", *more, steps=3)
    assert evals(tmp_path / "run") == first  # step 3 was done again, with the same samples
    assert card.stat().st_mtime_ns == before


def test_damaged_samples_of_an_evaluation_cost_the_evaluation_and_not_the_run(
    tmp_path: Path, bench: str
) -> None:
    more = (*EVERY, f"eval.bench={bench}")
    out = tmp_path / "run"
    run_tiny(out, *more, steps=2)
    last = out / "evals" / "step-000002"
    whole, line = (last / "samples.jsonl").read_bytes(), (out / "evals.jsonl").read_bytes()
    for damaged in (whole.replace(b'"outcome":"', b'"outcome" :"', 1), b"\0" * 80 + b"\n" + whole):
        (last / "samples.jsonl").write_bytes(damaged)
        (out / "evals.jsonl").write_bytes(line.splitlines(keepends=True)[0])
        events: list[str] = []
        run_tiny(out, *more, steps=2, events=events)
        assert any("evaluating again after step 2" in event for event in events)
        assert (last / "samples.jsonl").read_bytes() == whole
        assert (out / "evals.jsonl").read_bytes() == line


def test_the_section_eval_goes_above_the_protocol_and_the_protocol_above_the_run() -> None:
    own = ["eval.protocol=dapo", "eval.temperature=0.3", "rollout.temperature=0.9"]
    resolved, protocol = train_eval.eval_settings(resolve(preset="tiny", overrides=own))
    assert protocol is not None and protocol.name == "dapo"
    rollout = resolved.settings.rollout
    assert (rollout.temperature, rollout.top_p, rollout.max_completion_tokens) == (0.3, 0.7, 20480)
    assert resolved.sources["rollout.temperature"] == "section eval"
    assert resolved.sources["rollout.top_p"] == "protocol dapo"
    assert resolved.sources["rollout.top_k"] == "protocol dapo"
    assert resolved.sources["model.path"] == "preset tiny"
    assert protocol.changed(resolved) == {"rollout.temperature": 0.3}


def test_without_a_protocol_the_run_is_evaluated_as_it_samples() -> None:
    resolved, protocol = train_eval.eval_settings(resolve(preset="tiny"))
    assert protocol is None
    assert resolved.settings.rollout == resolve(preset="tiny").settings.rollout


def test_an_unknown_benchmark_ends_the_run_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "load_policy", None)
    with pytest.raises(ConfigError, match="sumz: no such benchmark"):
        run_tiny(tmp_path / "run", *EVERY, "eval.bench=sumz")


def test_the_card_says_which_weights_were_evaluated(tmp_path: Path, bench: str) -> None:
    recorder = Recorder()
    train.run(
        resolve(
            preset="tiny",
            overrides=[*SMALL, *EVERY, f"eval.bench={bench}", "train.steps=2"],
        ),
        out=tmp_path / "run",
        resume="auto",
        observer=recorder,
    )
    assert [event.step for event in recorder.of(Evaluated)] == [0, 2]
    folders = [tmp_path / "run" / "evals" / f"step-{step:06d}" for step in (0, 2)]
    cards = [EvalFolder(folder).read_card() for folder in folders]
    assert [card.subject["trained"]["step"] for card in cards] == [0, 2]
    assert len({card.subject["trained"]["sha256"] for card in cards}) == 2
    reports = [json.loads((folder / "report.json").read_text()) for folder in folders]
    assert [report["card"]["subject"] for report in reports] == [card.subject for card in cards]


def test_resuming_with_other_evaluations_is_allowed(tmp_path: Path, bench: str) -> None:
    run_tiny(tmp_path / "run", steps=1)
    run_tiny(tmp_path / "run", "eval.every=1", "eval.k=1", f"eval.bench={bench}", steps=2)
    assert [step for step, _ in seen(tmp_path / "run")] == [1, 2]
