"""Draws how far the engine has come: bars on a terminal, one line a step elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

from dgpo_cli.core.events import (
    Evaluated,
    Event,
    Judged,
    Line,
    Note,
    Observer,
    Observers,
    Progress,
    StepDone,
)
from dgpo_cli.core.numbers import rate
from dgpo_cli.core.types import StepMetrics
from dgpo_cli.live.evalline import eval_line
from dgpo_cli.live.evaluating.lines import StatusLines
from dgpo_cli.live.stepline import step_line
from dgpo_cli.ui import console

NARROW = 70  # columns; below, the bar itself and the rate are left out


class Bars:
    """An observer; use it as a context: leaving it clears the bars."""

    def __init__(self, *, steps: int | None = None, with_status: bool = True) -> None:
        """
        Args:
            steps: length of a training run, which then gets a bar of its own.
            with_status: print a line of a long evaluation now and then.
        """
        self._status = StatusLines() if with_status else None
        self._console = console.stderr()
        self._steps = steps
        self._run: TaskID | None = None
        self._tasks: dict[int, TaskID] = {}  # by the key of the phase
        self._bars = Bar(
            *_columns(wide=self._console.width >= NARROW),
            console=self._console,
            transient=True,
            speed_estimate_period=3600,  # seconds: steps of a large model take minutes
            redirect_stdout=False,  # results may go down a pipe while bars are on the terminal
            disable=not console.can_animate(),
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def on(self, event: Event) -> None:
        """Move the bars; print notes, steps and evaluations above them."""
        match event:
            case Progress():
                self._phase(event)
            case StepDone(step, metrics):
                self._step(step, metrics)
            case Evaluated(curve=curve):
                ascii_only = self._console.options.ascii_only
                line = eval_line(curve, width=self._console.width, ascii_only=ascii_only)
                console.log(line, on=self._console)
            case Judged() if self._status is not None:
                status = self._status.take(event, width=self._console.width)
                if status is not None:
                    console.log(status, on=self._console)
            case Line(text):
                console.log(text, on=self._console)
            case Note(text):
                console.note(text, on=self._console)

    def _phase(self, phase: Progress) -> None:
        if phase.over:
            self._bars.remove_task(self._tasks.pop(phase.key))
        elif phase.key in self._tasks:
            self._bars.update(self._tasks[phase.key], completed=phase.done)
        else:
            task = self._bars.add_task(phase.name, total=phase.total, unit=phase.unit)
            self._tasks[phase.key] = task

    def _step(self, step: int, metrics: StepMetrics) -> None:
        width = self._console.width
        line = step_line(step, metrics, total=self._steps, width=width)
        console.log(line, on=self._console)
        if self._steps is None:
            return
        if self._run is None:
            # A resumed run starts in the middle: what is behind it must not count as speed.
            self._run = self._bars.add_task(
                "train", total=self._steps, completed=step, unit="steps"
            )
        else:
            self._bars.update(self._run, completed=step)


@contextmanager
def bars() -> Iterator[Observer]:
    """Show how far a command has come, and its notes, while the context is open."""
    with Bars() as shown:
        yield Observers([shown])


class _Rate(ProgressColumn):
    """Units of a task that are finished each second."""

    def render(self, task: Task) -> Text:
        return Text(rate(task.speed, task.fields["unit"]) if task.speed else "", style="cyan")


def _columns(*, wide: bool) -> list[ProgressColumn]:
    columns: list[ProgressColumn] = [
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
    ]
    if wide:
        columns.append(BarColumn())
    columns.append(MofNCompleteColumn())
    if wide:
        columns.append(_Rate())
    columns.append(TimeRemainingColumn(compact=True))
    return columns
