"""Sends a run to its trackers; a tracker that fails never ends the run.

trackers.json in the run folder keeps, for each tracker, the id of its run and the last step that it
got: a run that resumes also resumes the tracker's, with no step in it twice.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dgpo_cli.config.changes import change_text
from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.tree import flatten, spread
from dgpo_cli.core import io
from dgpo_cli.core.codec import encoded, parsed
from dgpo_cli.core.errors import DataError, without_logins
from dgpo_cli.core.events import Diagnosed, Ended, Evaluated, Event, Observer, StepDone, tell
from dgpo_cli.core.formats import TRACKERS, TrackerMark
from dgpo_cli.runs.history import read_changes
from dgpo_cli.trackers.open import open_tracker
from dgpo_cli.trackers.protocol import TrackedRun

if TYPE_CHECKING:
    from dgpo_cli.config.load import Resolved
    from dgpo_cli.core.types import Diagnosis
    from dgpo_cli.runs.run_folder import RunFolder
    from dgpo_cli.trackers.protocol import Tracker
    from dgpo_cli.trackers.settings import TrackerName


@dataclass(slots=True)
class _OpenTracker:
    """A tracker and its marks: the last step that it got, by kind."""

    name: TrackerName
    tracker: Tracker
    id: str
    marks: dict[str, int]


class Tracking:
    """The trackers of one run, as one observer; a tracker that fails is dropped."""

    def __init__(
        self, resolved: Resolved, *, folder: RunFolder, step: int, observer: Observer
    ) -> None:
        """Open the trackers.

        step: finished steps.
        observer: gets a note on where each tracker keeps the run, and on those that fail.
        """
        self._resolved, self._folder, self._observer = resolved, folder, observer
        self._settings = resolved.settings.track
        self._file = folder.path / "trackers.json"
        self._open: list[_OpenTracker] = []
        self._sent: set[str] = set()
        self._step = step
        self._changes = read_changes(folder.path)
        kept = self._read()
        for name in dict.fromkeys(self._settings.to):
            mine = kept.get(name)
            run_id = (mine and mine.id) or secrets.token_hex(4)
            marks = {} if mine is None else dict(mine.told)
            try:
                tracker = open_tracker(name, self._run(run_id, resumes=mine is not None))
            except Exception as error:  # third-party code, and no network is no reason to stop
                self._lost(name, error, while_="starting")
                continue
            self._open.append(_OpenTracker(name, tracker, run_id, marks))
            tell(self._observer, f"{name}: {without_logins(tracker.place)}")
        self._write()
        self._send_changes()

    def on(self, event: Event) -> None:
        """Send what trackers record; close them when the run ends."""
        match event:
            case StepDone(step, metrics):
                self._send("step", step, lambda tracker: tracker.numbers(step, metrics))
            case Evaluated(step, _, curve):
                values = _eval_numbers(curve[-1])
                self._send("eval", step, lambda tracker: tracker.numbers(step, values))
            case Diagnosed(_, diagnoses):
                self._diagnosed(diagnoses)
            case Ended(state):
                self._close(failed=state != "done")

    def _close(self, *, failed: bool) -> None:
        for each in self._open:
            try:
                each.tracker.close(failed=failed)
            except Exception as found:
                self._lost(each.name, found, while_="closing")
        self._open = []

    def _send_changes(self) -> None:
        """Send the settings that changed for this part of the run, at its first step."""
        text = "\n".join(change_text(each) for each in self._changes if each.step == self._step)
        if text:
            kind, step = "settings/changed", self._step + 1
            self._send(kind, step, _words(step, kind, text))

    def _diagnosed(self, diagnoses: Sequence[Diagnosis]) -> None:
        """Send every new diagnosis, as text."""
        for each in diagnoses:
            if each.key not in self._sent:
                text = f"{each.headline}\n{each.evidence}\n{each.advice}"
                name, step = f"diagnosis/{each.key}", each.step
                self._send(name, step, _words(step, name, text))
        self._sent = {each.key for each in diagnoses}

    def _send(self, kind: str, step: int, send: Callable[[Tracker], None]) -> None:
        if not self._open:
            return
        for each in tuple(self._open):
            if not each.tracker.replaces_steps and step <= each.marks.get(kind, -1):
                continue
            try:
                send(each.tracker)
            except Exception as error:
                self._open.remove(each)
                self._lost(each.name, error, while_=f"recording step {step}")
                continue
            each.marks[kind] = step
        self._write()

    def _lost(self, name: str, error: Exception, *, while_: str) -> None:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        reason = without_logins(reason)[:300]
        tell(self._observer, f"{name} failed while {while_} and is off from here on: {reason}")

    def _run(self, run_id: str, *, resumes: bool) -> TrackedRun:
        return TrackedRun(
            folder=self._folder.path,
            project=self._settings.project,
            name=self._settings.name or self._folder.path.resolve().name,
            id=run_id,
            resumes=resumes,
            step=self._step,
            mode=self._settings.mode,
            config={
                key: json.loads(without_logins(json.dumps(value)))
                for key, value in spread(flatten(self._resolved.settings)).items()
            }
            | ({"changed": list(map(change_text, self._changes))} if self._changes else {}),
            text=dump_toml(self._resolved),
        )

    def _read(self) -> dict[str, TrackerMark]:
        if not self._settings.to or not self._file.exists():
            return {}
        try:
            where = str(self._file)
            return TRACKERS.read(parsed(io.read_bytes(self._file), where=where), where=where)
        except DataError as error:
            tell(self._observer, f"{error}; the trackers begin a new run")
            return {}

    def _write(self) -> None:
        if not self._settings.to:
            return
        kept = self._read()
        kept |= {each.name: TrackerMark(each.id, each.marks) for each in self._open}
        try:
            io.write(self._file, encoded(TRACKERS.dump(kept)))
        except OSError as error:
            self._settings = self._settings.model_copy(update={"to": ()})  # noted once
            tell(
                self._observer,
                f"{self._file}: {error.strerror or error}; a resumed run may be recorded twice",
            )


def _words(step: int, name: str, text: str) -> Callable[[Tracker], None]:
    return lambda tracker: tracker.words(step, name, text)


def _eval_numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a line of evals.jsonl, intervals by end."""
    flat = dict(line)
    for name in ("rerun_95", "problems_95"):
        flat |= {f"{name}_{end}": value for end, value in (flat.get(name) or {}).items()}
    return {
        f"eval/{name}": float(value)
        for name, value in flat.items()
        if isinstance(value, int | float) and name != "step"
    }
