"""trackio: a database on this machine, or a Hugging Face Space if its own settings name one."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dgpo_cli.trackers.protocol import TrackedRun

_REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


class Trackio:
    """One run of trackio. Runs are gone on with by name, so the name has the run's id in it."""

    takes_steps_again = False  # a step that is told twice is there twice

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        with _quiet(), _without(_REMOTE if run.mode == "offline" else ()):
            self._run = trackio.init(
                project=run.project,
                name=f"{run.name}-{run.id}",
                config={key: value for key, value in run.config.items() if value is not None},
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        self.place = f"trackio show --project {run.project}"

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def words(self, step: int, name: str, text: str) -> None:
        self._run.log({name: text}, step=step)

    def close(self, *, failed: bool) -> None:
        import trackio

        with _quiet():
            trackio.finish()  # not the run's own: that is finished once more at exit, aloud


@contextmanager
def _quiet() -> Iterator[None]:
    """trackio greets on stdout, where our results go."""
    with redirect_stdout(io.StringIO()):
        yield


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """Hide variables of the environment."""
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
