"""The panel of `dgpo eval` on a terminal; elsewhere bars, and a line now and then."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.text import Text

from dgpo_cli.core.events import Event, Judged, Note, Observer, Observers, Progress, Requests
from dgpo_cli.live.bars import Bars
from dgpo_cli.live.evaluating.layout import Moment, panel
from dgpo_cli.live.evaluating.lines import Pace
from dgpo_cli.live.screen import Live
from dgpo_cli.live.state import Phase
from dgpo_cli.ui import console
from dgpo_cli.ui.ramp import depth_of

LEAST_COLUMNS, LEAST_ROWS = 70, 10  # of a terminal that gets the panel
_WHOLE = "evaluation"  # the phase that the panel itself is


@dataclass(slots=True)
class _Open:
    """A phase that is going on, and when it began."""

    phase: Progress
    since: float


class EvalPanel:
    """An observer of evaluations; leaving it as a context clears the panel."""

    def __init__(self) -> None:
        self.live = Live("the panel", self._lines)
        self._judged: Judged | None = None
        self._pace = Pace(0.0, 0.0)
        self._phases: dict[int, _Open] = {}  # by the key of the phase
        self._requests: Requests | None = None
        self._over = False

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.live.stop()
        self._over = True
        self.live.frame(last=True)

    def on(self, event: Event) -> None:
        """Take an event."""
        match event:
            case Judged():
                self._take(event)
            case Requests():
                self._requests = event
            case Progress(key=key, over=True):
                self._phases.pop(key, None)
            case Progress(key=key):
                known = self._phases.get(key)
                since = time.monotonic() if known is None else known.since
                self._phases[key] = _Open(event, since)
            case Note(text):
                self.live.say(console.noted(text))

    def _take(self, judged: Judged) -> None:
        now, last = time.monotonic(), self._judged
        if last is None or (last.bench, last.model) != (judged.bench, judged.model):
            self._pace = Pace(now, now)
            self._requests = None
        self._pace = Pace(self._pace.began, now)
        self._judged = judged

    def _lines(self, last: bool) -> Sequence[Text]:
        if self._over:
            return ()
        now = time.monotonic()
        phases = tuple(
            Phase(
                each.phase.name,
                each.phase.done,
                each.phase.total,
                each.phase.unit,
                now - each.since,
            )
            for each in tuple(self._phases.values())
            if each.phase.name != _WHOLE
        )
        width, height = self.live.console.size
        return panel(
            Moment(self._judged, phases, self._pace, now, self._requests),
            width=max(1, width - 1),
            height=max(1, height - 2),
            depth=depth_of(self.live.console),
            ascii_only=self.live.console.options.ascii_only,
        )


@contextmanager
def evaluating(*, quiet: bool = False) -> Iterator[Observer]:
    """Show how far evaluations have come, and notes, while the context is open.

    quiet: no lines where there is no panel.
    """
    size = console.stderr().size
    fits = size.width >= LEAST_COLUMNS and size.height >= LEAST_ROWS
    shown = EvalPanel() if console.can_animate() and fits else Bars(with_status=not quiet)
    with shown:
        yield Observers([shown])
