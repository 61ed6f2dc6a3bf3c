"""Draws how far the engine has come: bars on a terminal, one line a step elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dgpo_cli.cli import console
from dgpo_cli.cli.evalline import eval_line
from dgpo_cli.cli.stepline import step_line
from dgpo_cli.types import Advance, Diagnosis, Evaluation, Glimpse, StepMetrics

NARROW = 70  # columns; below, the bar itself and the rate are left out


class Bars:
    """Implements `types.Progress`. Use it as a context: leaving it clears the bars."""

    def __init__(self, *, steps: int | None = None) -> None:
        """steps: length of a training run, which then gets a bar of its own."""
        self._console = console.stderr()
        self._steps = steps
        self._run: TaskID | None = None
        self._progress = Progress(
            *_columns(wide=self._console.width >= NARROW),
            console=self._console,
            transient=True,
            speed_estimate_period=3600,  # seconds: steps of a large model take minutes
            redirect_stdout=False,  # results may go down a pipe while bars are on the terminal
            disable=not console.can_animate(),
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    @contextmanager
    def phase(self, name: str, *, total: int, unit: str) -> Iterator[Advance]:
        """Show a bar for a phase of `total` units while the context is open."""
        task = self._progress.add_task(name, total=total, unit=unit)
        try:
            yield lambda amount: self._progress.advance(task, amount)
        finally:
            self._progress.remove_task(task)

    def step(self, step: int, metrics: StepMetrics) -> None:
        """Print the line of a finished step and move the bar of the run."""
        width = self._console.width
        line = step_line(step, metrics, total=self._steps, width=width)
        console.log(line, on=self._console)
        if self._steps is None:
            return
        if self._run is None:
            # A resumed run starts in the middle: what is behind it must not count as speed.
            self._run = self._progress.add_task(
                "train", total=self._steps, completed=step, unit="steps"
            )
        else:
            self._progress.update(self._run, completed=step)

    def evaluated(
        self, step: int, evaluation: Evaluation, curve: Sequence[Mapping[str, Any]]
    ) -> None:
        """Print the line of an evaluation during training, and the curve so far."""
        line = eval_line(
            curve, width=self._console.width, ascii_only=self._console.options.ascii_only
        )
        console.log(line, on=self._console)

    def glimpse(self, glimpse: Glimpse) -> None:
        """Completions are not shown between the lines."""

    def diagnosed(self, diagnoses: Sequence[Diagnosis]) -> None:
        """What appears and what goes is a note of its own."""

    def event(self, text: str) -> None:
        """Print a note above the bars."""
        console.note(text, on=self._console)


class _Rate(ProgressColumn):
    """Units of a task that are finished each second."""

    def render(self, task: Task) -> Text:
        if not task.speed:
            return Text("")
        if task.speed < 1:
            return Text(f"{1 / task.speed:.1f} s each", style="cyan")
        return Text(f"{task.speed:,.0f} {task.fields['unit']}/s", style="cyan")


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
