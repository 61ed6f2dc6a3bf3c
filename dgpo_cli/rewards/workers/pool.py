"""Checks answers in killable worker processes, each task under its own hard deadline.

Workers start on first use, are reused, and are replaced when they hang or die. If one does not
start, the others continue and it is retried at growing intervals; the run ends only if none
starts. Results are in the order of the tasks. Not multiprocessing: a fork would copy torch's
threads and CUDA's state.
"""

from __future__ import annotations

import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dgpo_cli.core.errors import ConfigError, DgpoError
from dgpo_cli.core.events import NOBODY, Observer, tell
from dgpo_cli.rewards.protocol import CRASH_EXIT_CODE, Check, CheckResult, Task
from dgpo_cli.rewards.workers.process import START_TIMEOUT_S, WorkerProcess

if TYPE_CHECKING:
    from dgpo_cli.core.types import Outcome

DEFAULT_MEMORY_BYTES = 1 << 30
MAX_CHUNK_CHARS = 1 << 20
MAX_FAILED_STARTS = 6  # in a row, with no worker left
FIRST_PAUSE_S = 0.1  # after a failed start; doubled by each further one
MAX_PAUSE_S = 30.0
_LIMITS_FIX = (
    "lower reward.workers, or raise the limits of processes and memory (ulimit -u, ulimit -v); "
    "dgpo doctor shows them"
)
TOGETHER_GRACE_S = 2.0  # for calls that run at the same time and end themselves
CHUNKS_PER_WORKER = 4  # so that the slowest chunk does not dominate


class _Job:
    """The state of one `run`: waiting tasks, and results.

    alone: tasks that are sent on their own, since one of those they ran with ended the worker.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        chunk_tasks: int,
        sizes: Sequence[int] | None,
        on_done: Callable[[int], None] | None,
    ) -> None:
        self.tasks = tasks
        self.chunk_tasks = chunk_tasks
        self.waiting = deque(range(len(tasks)))
        self.alone: set[int] = set()
        self.results: dict[int, CheckResult] = {}
        self._sizes, self._on_done = sizes, on_done

    @property
    def done(self) -> bool:
        return len(self.results) == len(self.tasks)

    def take_chunk(self) -> list[int]:
        """Remove waiting tasks for one message, within the limits of number and size."""
        indices = [self.waiting.popleft()]
        if indices[0] in self.alone:
            return indices
        chars = self._chars(indices[0])
        while self.waiting and len(indices) < self.chunk_tasks and chars < MAX_CHUNK_CHARS:
            indices.append(self.waiting.popleft())
            chars += self._chars(indices[-1])
        return indices

    def _chars(self, index: int) -> int:
        return sum(len(part) for part in self.tasks[index] if isinstance(part, str))

    def finish(self, index: int, result: CheckResult) -> None:
        self.results[index] = result
        if self._on_done is not None:
            self._on_done(1 if self._sizes is None else self._sizes[index])


class WorkerPool:
    """At most `workers` processes that run one `Check`; a context manager.

    timeout_s: hard deadline of a task; its worker is then killed and the result is `timeout`.
    memory_bytes: address space of a worker; a task that needs more ends as `crash`. 0: no limit.
    log: the file that gets what the check prints; None: nowhere.
    observer: gets one note if fewer workers run than requested.
    """

    def __init__(
        self,
        check: Check,
        *,
        workers: int,
        timeout_s: float,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        log: Path | None = None,
        observer: Observer = NOBODY,
    ) -> None:
        self._check = check
        self._size = workers
        self._timeout_s = timeout_s
        self._memory_bytes, self._log = memory_bytes, log
        self._told: dict[str, Any] = {}  # by the first worker that was ready
        self._workers: list[WorkerProcess] = []
        self._observer = observer
        self._noted = False
        self._failed_starts = 0  # since a worker last answered
        self._start_at = 0.0  # earliest time of the next start; monotonic
        self._lock = threading.Lock()
        self._closed = False
        self._finalizer = weakref.finalize(self, _kill_all, self._workers, os.getpid())

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the running workers."""
        return tuple(worker.pid for worker in self._workers)

    def start(self) -> None:
        """Start the workers without waiting for them."""
        with self._lock:
            if not self._closed:
                self._start(self._size - len(self._workers))

    def open(self) -> dict[str, Any]:
        """Start a worker, if none is ready, and wait for it; return what its check tells of itself.

        Raises:
            ConfigError: the check refuses.
            DgpoError: none can be started.
        """
        if not self._told:
            self._run(_Job((), chunk_tasks=1, sizes=None, on_done=None), until_ready=True)
        return self._told

    def run(
        self,
        tasks: Sequence[Task],
        *,
        chunk_tasks: int | None = None,
        sizes: Sequence[int] | None = None,
        on_done: Callable[[int], None] | None = None,
    ) -> list[CheckResult]:
        """Check `tasks` and return their results in order.

        Args:
            chunk_tasks: in place of the check's.
            sizes: the number that `on_done` gets for each task; None: 1.

        Raises:
            DgpoError: the workers cannot be started, the check refuses, or the pool is closed.
        """
        most = self._check.chunk_tasks if chunk_tasks is None else chunk_tasks
        # Tasks that run at the same time take as long as one of them, however many there are.
        parts = self._size if self._told.get("together") else self._size * CHUNKS_PER_WORKER
        job = _Job(
            tasks, chunk_tasks=max(1, min(most, len(tasks) // parts)), sizes=sizes, on_done=on_done
        )
        self._run(job)
        return [job.results[index] for index in range(len(tasks))]

    def _run(self, job: _Job, *, until_ready: bool = False) -> None:
        with self._lock:
            try:
                self._drop_exited()
                while not job.done or (until_ready and not self._told):
                    if self._closed:  # by another thread, which waits for the lock
                        raise DgpoError("the answer checker is closed")
                    if until_ready and not self._workers:
                        self._start(1)
                    self._start_missing(job)
                    self._assign(job)
                    self._wait(job)
            except BaseException:
                # Ctrl-C included: tasks in flight are abandoned.
                _kill_all(self._workers, os.getpid())
                raise

    def close(self) -> None:
        """Kill all workers; they keep no state."""
        self._closed = True
        with self._lock:
            self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drop_exited(self) -> None:
        """Remove idle workers that have ended since the last run."""
        for worker in [worker for worker in self._workers if worker.has_exited()]:
            self._remove(worker)

    def _start_missing(self, job: _Job) -> None:
        chunks = -(-len(job.waiting) // job.chunk_tasks)
        free = sum(1 for worker in self._workers if not worker.tasks)
        self._start(min(self._size - len(self._workers), chunks - free))

    def _start(self, count: int) -> None:
        """Start `count` workers, unless the last start has just failed."""
        for _ in range(count):
            if time.monotonic() < self._start_at:
                return
            try:
                worker = WorkerProcess(self._check, memory_bytes=self._memory_bytes, log=self._log)
            except OSError as error:  # no process, no memory or no descriptor is left
                self._fail(str(error))
            else:
                self._workers.append(worker)

    def _fail(self, reason: str) -> None:
        """Record that a worker did not start.

        Raises:
            DgpoError: several did not, and none runs.
        """
        pause_s = min(FIRST_PAUSE_S * 2**self._failed_starts, MAX_PAUSE_S)
        self._failed_starts += 1
        self._start_at = time.monotonic() + pause_s
        running = sum(worker.ready for worker in self._workers)
        if running and not self._noted:
            self._noted = True
            tell(
                self._observer,
                f"only {running} of {self._size} answer workers run, another does not start "
                f"({reason}); {self._start_fix(reason)}",
            )
        if not self._workers and self._failed_starts >= MAX_FAILED_STARTS:
            raise DgpoError(
                f"answer checker {self._check.target}: no worker process starts; last of "
                f"{self._failed_starts} tries: {reason}; {self._start_fix(reason)}"
            )

    def _start_fix(self, reason: str) -> str:
        if "ImportError" in reason or "ModuleNotFoundError" in reason:
            module = self._check.target.partition(":")[0]
            return f"reinstall what is missing; python -c 'import {module}' shows it"
        return _LIMITS_FIX

    def _assign(self, job: _Job) -> None:
        for worker in self._workers:
            if worker.idle and job.waiting:
                indices = job.take_chunk()
                tasks = [job.tasks[index] for index in indices]
                worker.assign(indices, tasks, timeout_s=self._deadline_s)

    def _wait(self, job: _Job) -> None:
        """Wait until a worker answers, takes input, ends or is late, and handle it."""
        if not self._workers:
            time.sleep(max(0.0, self._start_at - time.monotonic()))
            return
        poll = select.poll()
        for worker in self._workers:
            poll.register(worker.output_fd, select.POLLIN)
            if worker.unsent and not worker.ended:
                poll.register(worker.input_fd, select.POLLOUT)
        deadlines = [worker.deadline for worker in self._workers if worker.deadline is not None]
        lost = any(worker.ended for worker in self._workers)
        seconds = 0.0 if lost else max(0.0, min(deadlines) - time.monotonic())
        active = {fd for fd, _ in poll.poll(seconds * 1000 + 1)}
        for worker in list(self._workers):
            if worker.input_fd in active:
                worker.write()
            late = worker.deadline is not None and time.monotonic() >= worker.deadline
            # A late worker is read first: this process may have been slow.
            messages = worker.read() if late or worker.ended or worker.output_fd in active else []
            for message in messages:
                self._receive(worker, message, job)
            if worker.ended:
                self._lose(worker, job, outcome="crash")
            elif late and not messages:
                self._lose(worker, job, outcome="timeout")

    def _receive(self, worker: WorkerProcess, message: Any, job: _Job) -> None:
        if worker.ready:
            outcome, extracted = message
            self._failed_starts = 0
            job.finish(worker.tasks.popleft(), (outcome, extracted))
            worker.deadline = time.monotonic() + self._deadline_s if worker.tasks else None
        elif "error" in message:
            worker.start_error = message["error"]
            worker.ended, worker.refused = True, True
        else:
            self._told = self._told or message["told"] or {"opened": True}
            worker.ready = True
            worker.deadline = None

    def _lose(self, worker: WorkerProcess, job: _Job, *, outcome: Outcome) -> None:
        """Remove a worker that died or hangs; its current task gets `outcome`, the others wait."""
        never_sent = worker.unsent and outcome == "crash"
        if outcome == "crash":
            worker.settle()
        exit_code = self._remove(worker)
        if worker.refused and self._check.opens:
            raise ConfigError(worker.start_error)  # it would refuse again
        if worker.ready and worker.tasks and not never_sent:
            if self._told.get("together") and len(worker.tasks) > 1:
                job.alone.update(worker.tasks)  # any of them may be the cause
            else:
                why = self._why(outcome, exit_code) if self._check.opens else None
                job.finish(worker.tasks.popleft(), (outcome, why))
        job.waiting.extendleft(reversed(worker.tasks))
        if not worker.ready or never_sent:
            late = f"not ready after {START_TIMEOUT_S:g} s" if outcome == "timeout" else ""
            ended = f"exit code {exit_code}" if exit_code >= 0 else f"ended by signal {-exit_code}"
            reason = late or worker.start_error or ended
            if self._check.opens and not worker.ready:  # it would do the same again
                name = self._check.options.get("path", self._check.target)
                raise ConfigError(f"{name}: its worker does not start: {reason}; see memory_gib")
            self._fail(reason)

    @property
    def _deadline_s(self) -> float:
        return self._timeout_s + (TOGETHER_GRACE_S if self._told.get("together") else 0.0)

    def _why(self, outcome: Outcome, exit_code: int) -> str:
        if outcome == "timeout":
            return f"took longer than timeout_s={self._timeout_s:g}"
        if exit_code == CRASH_EXIT_CODE:
            return f"out of memory with memory_gib={self._memory_bytes / 2**30:g}"
        how = f"exit code {exit_code}" if exit_code >= 0 else f"signal {-exit_code}"
        return f"the worker process ended ({how})"

    def _remove(self, worker: WorkerProcess) -> int:
        self._workers.remove(worker)
        return worker.kill()


def _kill_all(workers: list[WorkerProcess], owner: int) -> None:
    """Kill and forget `workers`, unless this is a forked copy of the process that owns them."""
    if os.getpid() == owner:
        while workers:
            workers.pop().kill()
