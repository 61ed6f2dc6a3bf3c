"""What `dgpo train` does around a run on several ranks: starts them, and is one of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dgpo_cli.core.errors import ConfigError, DgpoError
from dgpo_cli.parallel.place import DGPO, Place, Start
from dgpo_cli.parallel.ranks import ALONE, Ranks
from dgpo_cli.ui import console

if TYPE_CHECKING:
    from dgpo_cli.config.settings import Settings


@contextmanager
def told_once(place: Place | None) -> Iterator[None]:
    """Say what is noted or wrong before the ranks meet once, and not once a rank.

    Of ranks that dgpo has not started, the first on each machine says what is wrong there.
    """
    with ExitStack() as stack:
        if place is not None and (place.by == DGPO or place.seat.number > 0):
            stack.enter_context(console.muted())
        try:
            yield
        except DgpoError as error:
            if place is not None and place.by != DGPO and place.seat.local > 0:
                raise SystemExit(error.exit_code) from error
            raise


def start_ranks(start: Start, *, settings: Settings, config: Path | None, out: Path) -> int:
    """Run this command on the ranks of this machine; return its exit code.

    Raises:
        RunFolderBusy: another process holds `out`.
        ConfigError: the settings come through a pipe, `out` cannot be written, or the ranks cannot
            meet where they should.
        DgpoError: machine 0 cannot be reached, or the system starts no more processes.
    """
    from dgpo_cli.core import io
    from dgpo_cli.parallel.launch import Launcher, logs_in, run_command

    if config is not None and not config.is_file():
        raise ConfigError(f"--config {config}: every rank reads it again; give a file")
    if start.node == 0:
        if io.is_locked(out):
            with io.locked(out):  # names who holds it
                pass
        io.create_folder(out)
        for number, log in logs_in(out):
            if number >= start.count:  # of an earlier part of the run, on more devices
                log.unlink()
    console.note(describe(start, logs=out / "ranks"))
    launcher = Launcher(
        run_command(sys.argv[1:]),
        start=start,
        run=out,
        stop_signal=settings.train.stop_signal,
        timeout_s=settings.parallel.timeout_s,
        tell=console.note,
    )
    outcome = launcher.run()
    if outcome.error is not None:
        console.error(outcome.error)
    return outcome.code


def describe(start: Start, *, logs: Path) -> str:
    """Say which ranks start on this machine, and where to look for their output."""
    first, last = start.node * start.here, (start.node + 1) * start.here - 1
    if start.nodes == 1:
        which = f"{start.count} ranks"
    elif first == last:
        which = f"rank {first} of {start.count}"
    else:
        which = f"ranks {first} to {last} of {start.count}"
    where = f"; logs in {logs}" if last > 0 else ""
    shown = "" if start.node == 0 else f"; rank 0, on {start.address}, shows the run"
    return f"starting {which}{where}{shown}"


@contextmanager
def among_ranks(place: Place | None, *, settings: Settings, out: Path) -> Iterator[Ranks]:
    """Meet the other ranks, and watch over them until the context ends.

    Raises:
        RankError: another rank failed.
        ModelError: this rank has no device.
    """
    if place is None:
        yield ALONE
        return
    from dgpo_cli.parallel.launch import log_of, redirect
    from dgpo_cli.parallel.watch import Watch

    log = log_of(out, place.seat.number) if place.seat.number else None
    if log is not None and place.by != DGPO:  # else the launcher has done it
        redirect(log)
    watch = Watch(place, tell=console.note, log=log, stop_signal=settings.train.stop_signal)
    with watch.guarding():
        from dgpo_cli.engine.setup import meet_ranks

        ranks = meet_ranks(settings, seat=place.seat, watch=watch, note=console.note)
        try:
            yield ranks
        except Exception:
            raise  # the watch tells the others; they may not hear of it in any other way
        except BaseException:
            ranks.close()
            raise
        ranks.close()


def follow_leader(place: Place, *, settings: Settings, out: Path) -> None:
    """Be a rank other than the first, until the leader ends.

    Raises:
        DgpoError: this rank or another one failed.
    """
    with among_ranks(place, settings=settings, out=out) as ranks:
        from dgpo_cli.engine.follow import follow

        follow(ranks)
