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
    """One run of trackio. It resumes by name, so the name contains the run's id."""

    replaces_steps = False  # a step recorded twice appears twice

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
            trackio.finish()  # not self._run.finish(): trackio would finish again at exit and print


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence trackio, which prints to stdout, where results go."""
    with redirect_stdout(io.StringIO()):
        yield


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """Unset environment variables for a while."""
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
