"""A tracker never ends a run, and is told all of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from dgpo_cli.config.load import resolve
from dgpo_cli.core.events import NOBODY, Diagnosed, Ended, EndState, StepDone
from dgpo_cli.core.types import Diagnosis
from dgpo_cli.runs.history import FILE
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.trackers.protocol import TrackedRun
from dgpo_cli.train import tracking, train
from dgpo_cli.train.tracking import Tracking
from tests.recorder import Notes
from tests.trackers.test_trackers import float32, in_event_files
from tests.train.test_train import SMALL


class Notebook:
    """A tracker that writes down what it is told, and breaks where it is told to."""

    replaces_steps = False
    place = "here"

    def __init__(self, run: TrackedRun, *, breaks: str = "") -> None:
        self.run, self.breaks = run, breaks
        self.told: list[tuple[int, str]] = []
        self.closed: list[bool] = []
        self._break("start")

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._break(f"step {step}")
        self.told += [(step, name) for name in values]

    def words(self, step: int, name: str, text: str) -> None:
        self.told.append((step, name))

    def close(self, *, failed: bool) -> None:
        self.closed.append(failed)
        self._break("close")

    def _break(self, where: str) -> None:
        if self.breaks == where:
            raise OSError(28, "No space left\non device")


class Desk:
    """Opens notebooks in place of trackers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **breaks: str) -> None:
        self.opened: dict[str, list[Notebook]] = {}
        self.events: list[str] = []

        def open_tracker(name: str, run: TrackedRun) -> Notebook:
            notebook = Notebook(run, breaks=breaks.get(name, ""))
            self.opened.setdefault(name, []).append(notebook)
            return notebook

        monkeypatch.setattr(tracking, "open_tracker", open_tracker)

    def part(self, out: Path, *, after: int, to: int, state: EndState = "done") -> None:
        out.mkdir(exist_ok=True)
        resolved = resolve(preset="tiny", overrides=['track.to=["wandb", "trackio"]'])
        folder, notes = RunFolder(out), Notes(self.events)
        run = Tracking(resolved, folder=folder, step=after, observer=notes)
        for step in range(after + 1, to + 1):
            run.on(StepDone(step, {"reward/mean": 0.5}))
        run.on(Ended(state))


@pytest.mark.parametrize("where", ["start", "step 2", "close"])
def test_a_tracker_that_breaks_is_told_once_and_the_other_hears_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    desk = Desk(monkeypatch, wandb=where)
    desk.part(tmp_path, after=0, to=4)
    broken = [event for event in desk.events if "is off" in event]
    (line,) = broken
    assert line.startswith("wandb failed while ")
    assert line.endswith("OSError: [Errno 28] No space left on device")
    (whole,) = desk.opened["trackio"]
    assert whole.told == [(step, "reward/mean") for step in (1, 2, 3, 4)]
    assert whole.closed == [False]
    before = {"start": [], "step 2": [1], "close": [1, 2, 3, 4]}[where]
    told = [step for notebook in desk.opened.get("wandb", []) for step, _ in notebook.told]
    assert told == before


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_a_run_that_ends_early_closes_its_trackers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: EndState
) -> None:
    desk = Desk(monkeypatch)
    desk.part(tmp_path, after=0, to=1, state=state)
    assert [notebook.closed for (notebook,) in desk.opened.values()] == [[True], [True]]


def test_a_resumed_run_keeps_its_id_and_tells_no_step_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(monkeypatch)
    desk.part(tmp_path, after=0, to=5)
    desk.part(tmp_path, after=3, to=7)
    first, second = desk.opened["wandb"]
    assert (first.run.id, first.run.resumes, second.run.resumes) == (second.run.id, False, True)
    assert [step for step, _ in first.told + second.told] == [1, 2, 3, 4, 5, 6, 7]
    (other, _) = desk.opened["trackio"]
    assert other.run.id != first.run.id


def test_a_change_is_told_once_at_its_first_step_and_stands_in_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(monkeypatch)
    desk.part(tmp_path, after=0, to=4)
    (tmp_path / FILE).write_text('{"step": 4, "setting": "optim.lr", "old": 0.1, "new": 0.2}\n')
    for to in (4, 6):  # the first of the two ends before a step
        desk.part(tmp_path, after=4, to=to)
    desk.part(tmp_path, after=6, to=7)
    first, *later = desk.opened["wandb"]
    assert "changed" not in first.run.config
    assert all(each.run.config["changed"] == ["optim.lr 0.1 -> 0.2 after step 4"] for each in later)
    told = [each for notebook in later for each in notebook.told]
    assert [step for step, name in told if name == "settings/changed"] == [5]
    assert told[0] == (5, "settings/changed")


def test_a_diagnosis_is_told_when_it_comes_and_when_it_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(monkeypatch)
    resolved = resolve(preset="tiny", overrides=['track.to=["wandb"]'])
    run = Tracking(resolved, folder=RunFolder(tmp_path), step=0, observer=NOBODY)
    for step, ill in ((1, True), (2, True), (3, False), (4, True)):
        found = (Diagnosis("flat", step, "a", "b", "c"),) if ill else ()
        run.on(Diagnosed(step, found))
    (notebook,) = desk.opened["wandb"]
    assert notebook.told == [(1, "diagnosis/flat"), (4, "diagnosis/flat")]


def test_marks_that_cannot_be_kept_do_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(monkeypatch)
    (tmp_path / ".trackers.json.partial").mkdir()  # nothing can be written there
    desk.part(tmp_path, after=0, to=3)
    assert len([event for event in desk.events if "trackers.json" in event]) == 1
    (notebook,) = desk.opened["wandb"]
    assert [step for step, _ in notebook.told] == [1, 2, 3]


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    run = Tracking(resolve(preset="tiny"), folder=RunFolder(tmp_path), step=0, observer=NOBODY)
    run.on(StepDone(1, {"reward/mean": 0.5}))
    run.on(Ended("done"))
    assert list(tmp_path.iterdir()) == []


def test_a_real_run_is_in_tensorboard_as_it_is_in_its_folder(tmp_path: Path) -> None:
    overrides = [*SMALL, "eval.every=2", "eval.k=1", 'track.to=["tensorboard"]']
    for steps in (2, 3):
        train.run(
            resolve(preset="tiny", overrides=[*overrides, f"train.steps={steps}"]),
            out=tmp_path,
            resume="auto",
            observer=NOBODY,
        )
    found = in_event_files(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    for name in lines[0].keys() - {"step"}:
        values = [value for _, value in found[name]]
        measured = [line for line in lines if name in line]  # the noise is not at every step
        assert [step for step, _ in found[name]] == [line["step"] for line in measured]
        for value, line in zip(values, measured, strict=True):
            assert (
                not math.isfinite(value) if line[name] is None else value == float32(line[name])
            ), name
    assert all(len(found[name]) == 3 for name in ("reward/mean", "loss/value", "optim/lr"))
    evals = [json.loads(line) for line in (tmp_path / "evals.jsonl").read_text().splitlines()]
    assert found["eval/avg_at_k"] == [(e["step"], float32(e["avg_at_k"])) for e in evals]
    assert [e["step"] for e in evals] == [0, 2, 3]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"wandb": 3}', "wandb=3: must be an object"),
        ('{"wandb": {"id": ["x"]}}', "wandb.id=[...]: must be text"),
        (
            '{"wandb": {"id": "x", "told": {"step": true}}}',
            "told.step=true: must be a whole",
        ),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_damaged_marks_begin_a_new_run_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    desk = Desk(monkeypatch)
    (tmp_path / "trackers.json").write_text(text)
    desk.part(tmp_path, after=2, to=3)
    assert said in desk.events[0] and "begin a new run" in desk.events[0]
    (notebook,) = desk.opened["wandb"]
    assert not notebook.run.resumes and [step for step, _ in notebook.told] == [3]
