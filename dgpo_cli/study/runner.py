"""Runs the tasks of a study side by side, each as a process of dgpo in a group of its own.

Ctrl-C and SIGTERM are passed on: a run then stops after its step, with a checkpoint, and a second
signal stops it at once. If this process is killed, the system sends its runs SIGTERM (on Linux).
"""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import IO

from dgpo_cli.core.errors import DgpoError, cannot_write, in_one_line
from dgpo_cli.core.events import Line, Observer, phase
from dgpo_cli.core.numbers import counted, decimal, duration
from dgpo_cli.parallel.guard import die_with_parent
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.study.agenda import Agenda, Task, mean_reward
from dgpo_cli.study.folder import STOPPED, ended_line, error_in, steps_kept
from dgpo_cli.study.outlook import Budget

_POLL_S = 0.2
_LOOK_S = 1.0  # between two looks at the steps of the runs
_GRACE_S = 10.0  # for a process to end after a second signal
_NAME = 36  # columns of a task beside its bar
_FULL = "no space left on the disk"
_ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

DGPO = (sys.executable, "-m", "dgpo_cli")
Slot = Mapping[str, str]  # variables that a task gets, such as the GPU it may use


@dataclass(frozen=True, slots=True)
class Ended:
    """How a study ended. done, total: tasks. failed: by part, why.

    elsewhere: parts that another process runs. signal: the one that stopped it. full: no task was
    started once the disk was full. late: hours that the study needs, if tasks were left out that
    would have ended after its own.
    """

    done: int
    total: int
    failed: Mapping[str, str]
    elsewhere: Sequence[str]
    signal: int | None = None
    full: bool = False
    late: float | None = None


@dataclass(slots=True)
class _Job:
    """A task that runs. seen: steps that the view knows of."""

    task: Task
    slot: int
    log: IO[bytes]
    process: subprocess.Popen[bytes]
    advance: Callable[[int], None]
    view: ExitStack
    started: float = field(default_factory=time.monotonic)
    seen: int = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def signal(self, number: int) -> None:
        """Send a signal to the process and all that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


class Runner:
    """Keeps as many tasks running as there are slots, until none is left."""

    def __init__(
        self,
        agenda: Agenda,
        *,
        slots: Sequence[Slot],
        observer: Observer,
        budget: Budget,
        program: Sequence[str] = DGPO,
    ) -> None:
        """program: what runs the command of a task."""
        self._program = tuple(program)
        self._done, self._total = agenda.size()
        self._agenda, self._slots, self._observer = agenda, slots, observer
        self._jobs: list[_Job] = []
        self._elsewhere: list[str] = []
        self._asked: list[int] = []
        self._passed = 0
        self._full = self._late = False
        self._budget = budget
        self._deadline: float | None = None

    def run(self) -> Ended:
        """Run all tasks; return when none is left, or after a signal."""
        looked = 0.0
        # What was done before must not count as speed.
        left = self._total - self._done
        tasks = phase(self._observer, "study", total=left, unit="tasks")
        with tasks as advance, self._catching():
            try:
                self._fill()
                while self._jobs:
                    time.sleep(_POLL_S)
                    self._pass_on()
                    before = self._done
                    if self._reap():
                        advance(self._done - before)
                        self._fill()
                    if time.monotonic() - looked > _LOOK_S:
                        looked = time.monotonic()
                        self._look()
            finally:
                self._kill_all()
        done, total = self._agenda.size()
        return Ended(
            *(done, total, dict(self._agenda.failed), self._elsewhere),
            signal=self._asked[0] if self._asked else None,
            full=self._full,
            late=self._budget.needed(jobs=len(self._slots)) if self._late else None,
        )

    def _fill(self) -> None:
        """Start tasks in all free slots."""
        tasks = [] if self._asked or self._full else self._agenda.ready()
        for text in self._agenda.news:
            self._observer.on(Line(text))
        self._agenda.news.clear()
        self._elsewhere = []
        running = {job.task.part for job in self._jobs}
        free = [at for at in range(len(self._slots)) if at not in {job.slot for job in self._jobs}]
        for task in tasks:
            if not free or self._asked:
                return
            if task.part in running or self._is_late(task):
                continue
            try:
                job = self._start(task, slot=free[0])
            except (DgpoError, OSError) as error:  # no log, or no more processes
                self._fail(task, in_one_line(error))
                if self._full:
                    return
                continue
            if job is None:
                self._elsewhere.append(task.part)
                continue
            self._jobs.append(job)
            free.pop(0)

    def _is_late(self, task: Task) -> bool:
        """Whether a task would end after the hours of the study.

        After one no run is started: those of shorter variants would be seeds without a pair.
        """
        late = (self._late and task.run is not None) or not self._budget.holds(task)
        self._late |= late
        return late

    def _start(self, task: Task, *, slot: int) -> _Job | None:
        """Start a task; None if another process runs it."""
        if task.run is not None and RunFolder(task.run).is_held():
            return None
        log = _open_log(task)
        if log is None:
            return None
        view, kept = ExitStack(), 0 if task.run is None else steps_kept(task.run)
        advance = view.enter_context(
            phase(self._observer, _brief(task.name), total=task.steps - kept, unit="steps")
            if task.run is not None
            else phase(self._observer, _brief(task.name), total=1, unit="evaluation")
        )
        process = subprocess.Popen(
            [*self._program, *task.command],
            env={**os.environ, **self._slots[slot]},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
            preexec_fn=partial(die_with_parent, signal.SIGTERM),
        )
        return _Job(task, slot, log, process, advance, view, seen=kept)

    def _reap(self) -> bool:
        """Take in the tasks that have ended; return whether one has."""
        ended = [job for job in self._jobs if job.process.poll() is not None]
        for job in ended:
            self._jobs.remove(job)
            self._close(job)
        return bool(ended)

    def _close(self, job: _Job) -> None:
        task, code = job.task, _exit_code(job.process.returncode)
        with suppress(OSError):  # a full disk: what the task itself wrote says so
            job.log.write(ended_line(code, seconds=job.seconds).encode())
        job.log.close()
        job.view.close()
        if code == 0:
            self._done += 1
            self._observer.on(Line(f"{self._count()}  {_account(job)}"))
        elif not (code in STOPPED and self._asked):
            self._fail(task, error_in(task.log) or _died(code))

    def _fail(self, task: Task, why: str) -> None:
        self._agenda.failed[task.part] = why
        self._full |= _FULL in why
        self._observer.on(Line(f"{self._count()}  {task.name}: failed: {why} ({task.log})"))

    def _count(self) -> str:
        return f"{self._done:>{len(str(self._total))}}/{self._total}"

    def _look(self) -> None:
        """Tell the view how far the runs are."""
        for job in self._jobs:
            if job.task.run is None:
                continue
            with suppress(OSError):  # a run in its first moments
                lines = RunFolder(job.task.run).metric_ends(first=0, last=1)
                step = min(job.task.steps, int(lines[-1]["step"] or 0) if lines else 0)
                job.advance(max(0, step - job.seen))
                job.seen = max(step, job.seen)

    @contextmanager
    def _catching(self) -> Iterator[None]:
        def ask(number: int, frame: FrameType | None) -> None:
            self._asked.append(number)

        handlers = {**dict.fromkeys(_ASKED, ask), signal.SIGTSTP: self._pause}
        before = {
            number: signal.signal(number, handler)
            for number, handler in handlers.items()
            if signal.getsignal(number) != signal.SIG_IGN  # as nohup leaves SIGHUP
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pause(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z: stop the runs, which are not in the terminal's group, and this process."""
        for job in self._jobs:
            job.signal(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        for job in self._jobs:  # fg
            job.signal(signal.SIGCONT)

    def _pass_on(self) -> None:
        """Tell the runs about each signal; after the second, end those that do not listen."""
        for number in self._asked[self._passed :]:
            self._passed += 1
            # A terminal that is gone is no reason for a run to stop otherwise than by SIGTERM.
            passed = signal.SIGTERM if number == signal.SIGHUP else number
            for job in self._jobs:
                job.signal(passed)
            if self._passed == 1:
                self._observer.on(
                    Line(
                        f"stopping {counted(len(self._jobs), 'run')} with a checkpoint after the "
                        "step; a second signal stops at once"
                    )
                )
            else:
                self._deadline = self._deadline or time.monotonic() + _GRACE_S
        if self._deadline is not None and time.monotonic() > self._deadline:
            for job in self._jobs:
                job.signal(signal.SIGKILL)

    def _kill_all(self) -> None:
        """End what is left when this process fails."""
        for job in self._jobs:
            job.signal(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        for job in self._jobs:
            with suppress(subprocess.TimeoutExpired):
                job.process.wait(max(0.0, deadline - time.monotonic()))
            job.signal(signal.SIGKILL)
            job.process.wait()
            job.log.close()
            job.view.close()


def _brief(name: str) -> str:
    """Return a name that leaves room for a bar: its end, which tells runs apart."""
    return name if len(name) <= _NAME else f"...{name[3 - _NAME :]}"


def _open_log(task: Task) -> IO[bytes] | None:
    """Open a log, locked while the task runs; None if another process holds it."""
    try:
        task.log.parent.mkdir(parents=True, exist_ok=True)
        log = task.log.open("ab")
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.close()
            return None
        log.write(f"$ {shlex.join(['dgpo', *task.command])}\n".encode())
        log.flush()
    except OSError as error:
        raise cannot_write(error, what=str(task.log)) from error
    return log


def _exit_code(returned: int) -> int:
    return 128 - returned if returned < 0 else returned


def _died(code: int) -> str:
    if code == 128 + signal.SIGKILL:
        return "was killed by SIGKILL, as the system does when memory runs out"
    if code > 128:
        with suppress(ValueError):
            return f"was killed by {signal.Signals(code - 128).name}"
    return f"ended with exit code {code}"


def _account(job: _Job) -> str:
    """Return what a finished task did, in one line."""
    task, took = job.task, duration(job.seconds)
    if task.run is None:
        return f"{task.name}: evaluated in {took}"
    reward = decimal(mean_reward(task.run, steps=task.steps))
    return f"{task.name}: {task.steps} steps in {took}, mean reward {reward}"
