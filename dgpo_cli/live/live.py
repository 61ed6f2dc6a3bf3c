"""The live panel of `dgpo train`: takes what a run tells, and draws it some times a second.

What tells it anything only puts it down; a thread of its own draws, so that no signal handler
and no hot loop ever waits for a terminal.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.text import Text

from dgpo_cli.core.events import (
    Credited,
    Diagnosed,
    Evaluated,
    Event,
    Note,
    Progress,
    Sampled,
    StepDone,
)
from dgpo_cli.core.text import plain
from dgpo_cli.core.types import Interval, StepMetrics
from dgpo_cli.live import usage
from dgpo_cli.live.evalline import eval_line
from dgpo_cli.live.glimpse import glimpse
from dgpo_cli.live.keys import Keys
from dgpo_cli.live.layout import DrawnParts, panel
from dgpo_cli.live.pace import Pace
from dgpo_cli.live.screen import INTERVAL_S, Live
from dgpo_cli.live.state import Doing, PanelState, Phase, Score
from dgpo_cli.ui import console
from dgpo_cli.ui.ramp import depth_of

_RECENT = 40  # steps that can be shown
LEAST_COLUMNS, LEAST_ROWS = 60, 20  # of a terminal that gets the panel unasked
_DAY_S = 86_400.0

Lines = Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class _Open:
    """A phase that is going on."""

    name: str
    total: int
    unit: str
    since: float
    done: int = 0


class RunPanel:
    """An observer of a run; use it as a context."""

    def __init__(
        self,
        *,
        name: str,
        out: Path,
        steps: int,
        eval_every: int,
        start: int = 0,
        past: tuple[Lines, Lines] = ((), ()),
    ) -> None:
        """start: steps that are finished already. past: their metrics and evaluations, as the run
        folder has them; what lies behind `start` is done again and left out."""
        self.live = Live(
            "the panel",
            self._lines,
            before=lambda: self._press(self._keys.pressed()),
            resumed=lambda: self._keys.listen(),
        )
        self._console = self.live.console
        self._changing = threading.Lock()  # keys change the state too, in the thread that draws
        self._state = PanelState(name=name, folder=str(out), total=steps, step=start)
        self._pace = Pace(total=steps, eval_every=eval_every)
        self._reward: list[tuple[float, float]] = []
        self._entropy: list[tuple[float, float]] = []
        self._effective: list[tuple[float, float]] = []
        self._distance: list[tuple[float, float]] = []
        self._recent: deque[tuple[int, StepMetrics]] = deque(maxlen=_RECENT)
        self._phases: dict[int, _Open] = {}  # by the key of the phase
        self._shown: tuple[Phase, ...] = ()
        self._began = time.monotonic()
        self._keys = Keys()
        self._pausing = self._waits = False
        self._turn = 0  # of the completions that are shown
        self._drawn: Sampled | None = None
        self._memory = DrawnParts()
        self._take_up(*past)

    def __enter__(self) -> Self:
        self._keys.__enter__()
        self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.live.stop()
        self._keys.__exit__(None, None, None)
        self._phases.clear()
        doing: Doing = "done" if kind is None else "stopped"
        if kind is not None and issubclass(kind, Exception):
            doing = "failed"
        self._change(doing=doing)
        self.live.frame(last=True)

    def on(self, event: Event) -> None:
        """Take an event. While the user pauses, the end of a step returns late."""
        match event:
            case Progress():
                self._phase(event)
            case Sampled() | Credited():
                self._drawn = Sampled(event.step, event.groups)
                self._change(glimpse=glimpse(event, turn=self._turn))
            case StepDone(step, metrics):
                self._step(step, metrics)
                self._pause()
            case Evaluated(step, _, curve):
                self._evaluated(step, curve)
            case Diagnosed(_, diagnoses):
                self._change(diagnoses=diagnoses)
            case Note(text):
                self.live.say(console.noted(text))

    def _change(self, **changes: Any) -> None:
        with self._changing:
            self._state = replace(self._state, **changes)

    def _phase(self, phase: Progress) -> None:
        if phase.over:
            del self._phases[phase.key]
        elif phase.key in self._phases:
            self._phases[phase.key].done = phase.done
        else:
            now = time.monotonic()
            self._phases[phase.key] = _Open(phase.name, phase.total, phase.unit, since=now)

    def _step(self, step: int, metrics: StepMetrics) -> None:
        self._pace.step(step, seconds=metrics.get("time/step_s", 0.0), now=time.monotonic())
        self._extend(step, metrics)
        self._recent.append((step, metrics))
        glimpse = self._state.glimpse
        self._change(
            step=step,
            metrics=dict(metrics),
            completions=glimpse.completions if glimpse is not None else None,
            groups=glimpse.groups if glimpse is not None else None,
            floor=metrics.get("noise/floor", self._state.floor),
            recent=tuple(self._recent),
            memory=usage.memory(),
            **self._courses(),
        )

    def _extend(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Add the numbers of a step to the curves."""
        for series, name in (
            (self._reward, "reward/mean"),
            (self._entropy, "policy/entropy"),
            (self._effective, "credit/effective_fraction"),
            (self._distance, "policy/hellinger_sq_mean"),
        ):
            while series and series[-1][0] >= step:  # it is done again
                series.pop()
            if metrics.get(name) is not None:
                series.append((float(step), metrics[name]))

    def _courses(self) -> dict[str, Any]:
        return {
            "reward": tuple(self._reward),
            "entropy": tuple(self._entropy),
            "effective": tuple(self._effective),
            "distance": tuple(self._distance),
        }

    def _pause(self) -> None:
        """Wait while the user pauses the run; a signal ends the pause."""
        start = time.monotonic()
        self._waits = True
        while self._pausing and not self._stopped():
            time.sleep(INTERVAL_S / 5)
        self._waits = self._pausing = False
        self._pace.skip(time.monotonic() - start)

    def _stopped(self) -> bool:
        return self.live.signals.interrupted or self.live.ended.is_set()

    def _evaluated(self, step: int, curve: Lines) -> None:
        """Take an evaluation, and say it in a line that stays."""
        self._pace.evaluation(step, since=self._began, now=time.monotonic())
        self._change(scores=tuple(map(_score, curve)))
        options = self._console.options
        line = eval_line(curve, width=self._console.width, ascii_only=options.ascii_only)
        self.live.say(plain(line))

    def _take_up(self, lines: Lines, evals: Lines) -> None:
        """Draw the curves of a run that goes on from where they were."""
        start = self._state.step
        for line in lines:
            if line["step"] <= start:
                self._extend(line["step"], line)
                self._recent.append((line["step"], dict(line)))
        scores = [_score(line) for line in evals if line["step"] <= start]
        if scores:
            self._pace.evaluated(scores[-1].step)
        self._change(
            recent=tuple(self._recent),
            scores=tuple(scores),
            **self._courses(),
        )

    def _press(self, keys: str) -> None:
        for key in keys.lower():
            if key in "h?":
                self._change(help=not self._state.help)
            elif key == "p":
                self._pausing = not self._pausing
            elif key == "n":
                self._turn += 1
                if self._drawn is not None:
                    shown = glimpse(self._drawn, turn=self._turn)
                    self._change(glimpse=shown)
            elif key == "q":
                os.kill(os.getpid(), signal.SIGINT)

    def _lines(self, last: bool) -> Sequence[Text]:
        width, height = self._console.size
        try:
            return panel(
                self._state if last else self._now(),
                width=max(1, width - 1),
                height=max(1, height - 2),
                depth=depth_of(self._console),
                ascii_only=self._console.options.ascii_only,
                memory=self._memory,
            )
        except Exception:
            self._pausing = False  # nobody would see that the run waits
            raise

    def _now(self) -> PanelState:
        """The state with what changes by the moment."""
        now = time.monotonic()
        state = self._state
        left = self._pace.left(now=now)
        doing: Doing = "training" if self._phases or state.step else "starting"
        if self._phases and self._pace.due(state.step):
            doing = "evaluating"
        if self._pausing:
            doing = "paused" if self._waits else "pausing"
        phases = [
            Phase(each.name, each.done, each.total, each.unit, now - each.since)
            for each in tuple(self._phases.values())
        ]
        if phases:  # between two phases the last one stays, so that no line comes and goes
            self._shown = tuple(phases)
        return replace(
            state,
            doing=doing,
            phases=self._shown,
            left_s=left,
            ends_at="" if left is None else _clock(left),
        )


def _score(line: Mapping[str, Any]) -> Score:
    return Score(
        step=line["step"],
        bench=str(line["bench"]),
        k=line["k"],
        avg_at_k=line["avg_at_k"],
        rerun_95=_interval(line.get("rerun_95")),
        problems_95=_interval(line.get("problems_95")),
    )


def _interval(ends: Mapping[str, float | None] | None) -> Interval:
    low, high = ((ends or {}).get(name) for name in ("low", "high"))
    return Interval(math.nan if low is None else low, math.nan if high is None else high)


def _clock(left_s: float) -> str:
    """The time of day so many seconds from now, with the day where it is not today."""
    end = time.localtime(time.time() + left_s)
    today = time.localtime()
    if end[:3] == today[:3]:
        return time.strftime("%H:%M", end)
    return time.strftime("%a %H:%M" if left_s < 6 * _DAY_S else "%d %b %H:%M", end)
