"""dgpo study: train variants of settings with the same seeds, and compare them."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dgpo_cli.cli import completion, options
from dgpo_cli.cli.commands import FAILED, last_words
from dgpo_cli.cli.help import MACHINE, OUTPUT, RUN
from dgpo_cli.core.errors import ConfigError, Interrupted
from dgpo_cli.core.numbers import counted, duration
from dgpo_cli.ui import console

if TYPE_CHECKING:
    from dgpo_cli.study.agenda import Agenda
    from dgpo_cli.study.file import StudyFile
    from dgpo_cli.study.folder import StudyFolder
    from dgpo_cli.study.runner import Ended

File = Annotated[
    Path | None,
    typer.Argument(
        help="The file of the study: preset, seeds, variants.",
        metavar="FILE.toml",
        show_default=False,
        rich_help_panel=RUN,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the study: its runs, searches, evaluations and logs.",
        metavar="DIR",
        show_default="studies/NAME of the file",
        rich_help_panel=OUTPUT,
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        help="Runs side by side.",
        metavar="N",
        min=1,
        show_default="the file's, else what cores, GPUs and memory hold",
        rich_help_panel=MACHINE,
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        help="Run a part of it: VARIANT, VARIANT/seed-N or tune/VARIANT; may be repeated.",
        metavar="PART",
        autocompletion=completion.part,
        rich_help_panel=RUN,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print what is to be done and how long it takes, and stop.",
        rich_help_panel=OUTPUT,
    ),
]
Slurm = Annotated[
    bool,
    typer.Option(
        "--slurm",
        help="Write the study as an array script for Slurm, and stop.",
        rich_help_panel=OUTPUT,
    ),
]


def study(
    file: File = None,
    out: Out = None,
    jobs: Jobs = None,
    only: Only = None,
    dry_run: DryRun = False,
    slurm: Slurm = False,
) -> None:
    """Train variants of settings with the same seeds, side by side, to compare them.

    The file has a preset or settings, seeds, and what varies: [axes], of which all combinations
    are run, or [variants.NAME]; [tune] searches settings for each variant first, on other seeds,
    and [eval] evaluates before and after. Each run is an ordinary run folder. The same command
    resumes a study that was stopped, and takes added variants and seeds. docs/studies.md has
    files to start from.

    Examples:
      Run a study, or resume it
        dgpo study rules.toml
      How many runs, and how long?
        dgpo study rules.toml --dry-run
      The table and the curves, also while it runs
        dgpo report studies/rules
    """
    if file is None:
        raise ConfigError(
            "give the file of a study, as in dgpo study rules.toml; see dgpo study --help"
        )
    from dgpo_cli.study.agenda import Agenda
    from dgpo_cli.study.file import read_file
    from dgpo_cli.study.folder import StudyFolder
    from dgpo_cli.study.prepare import STUDIES, check_folder, prepare

    found = read_file(file)
    folder = StudyFolder(out or STUDIES / file.stem)
    if dry_run and slurm:
        raise ConfigError("--dry-run and --slurm: give only one of them")
    if dry_run and only:
        raise ConfigError("--only and --dry-run: the whole study is counted; leave one of them out")
    if dry_run:
        check_folder(found, folder)
        _forecast(found, folder, jobs=jobs)
        return
    prepare(found, folder)
    agenda = Agenda(found, folder, only=only or ())
    if slurm:
        _write_scripts(agenda, found, folder)
        return
    ended = _run(agenda, found, folder, jobs=jobs or found.jobs)
    _report(ended, agenda, found, folder)


def _run(agenda: Agenda, study: StudyFile, folder: StudyFolder, *, jobs: int | None) -> Ended:
    from dgpo_cli.live.bars import bars
    from dgpo_cli.study.machine import share
    from dgpo_cli.study.outlook import Budget
    from dgpo_cli.study.runner import Runner

    done, total = agenda.size()
    machine = share(study.resolve(study.variants[0]), jobs=jobs, most=total - done)
    if done < total:
        for model in dict.fromkeys(study.resolve(each).settings.model for each in study.variants):
            options.reach(model)
        begun = f", {done} done already" if done else ""
        console.note(f"{counted(total, 'task')}{begun}: {machine.about}")
    with last_words(), bars() as observer:
        budget = Budget(study, folder)
        return Runner(agenda, slots=machine.slots, observer=observer, budget=budget).run()


def _report(ended: Ended, agenda: Agenda, study: StudyFile, folder: StudyFolder) -> None:
    """Print how the study ended; raise for its exit code."""
    state = f"{ended.done} of {counted(ended.total, 'task')} done"
    if ended.signal == signal.SIGINT:
        raise Interrupted(f"stopped; {state}; run the same command to resume")
    console.say(f"study  {folder.path}: {state}")
    if ended.signal is not None:
        console.aside("stopped; run the same command to resume")
        raise typer.Exit(128 + ended.signal)
    if ended.elsewhere:
        console.note(f"another process runs {', '.join(ended.elsewhere)}")
    if ended.late is not None:
        count = counted(ended.total - ended.done - len(ended.failed), "task")
        console.note(
            f"hours={study.hours:g}: no time for {count}; set hours = {ended.late:g} in "
            f"{study.path} and run the same command to do them"
        )
    waiting = [name for name in agenda.waiting() if not ended.failed and ended.late is None]
    if waiting:
        console.note(
            f"{', '.join(waiting)}: the search has not ended; run --only tune/{waiting[0]} first"
        )
    if ended.failed:
        if ended.full:
            console.error("no space left on the disk; make room and run it again")
        console.error(
            f"{counted(len(ended.failed), 'task')} failed: {', '.join(ended.failed)}; run the same "
            "command to try again"
        )
        raise typer.Exit(FAILED)
    console.suggest(["report", folder.path])


def _write_scripts(agenda: Agenda, study: StudyFile, folder: StudyFolder) -> None:
    from dgpo_cli.study.slurm import write_scripts

    settings = study.resolve(study.variants[0]).settings
    paths = write_scripts(agenda, file=study.path, folder=folder, settings=settings)
    for path in paths:
        console.say(f"written to {path}")
    *first, last = paths
    after = [f"--dependency=afterok:$(sbatch --parsable {path})" for path in first]
    console.aside(f"next: sbatch {' '.join([*after, str(last)])}")


def _forecast(study: StudyFile, folder: StudyFolder, *, jobs: int | None) -> None:
    """Print what is left to do and how long it takes; write nothing."""
    from dgpo_cli.study.machine import share
    from dgpo_cli.study.outlook import evaluations_left, left, outlook, used

    rows = outlook(study, folder)
    runs, finished = sum(row.runs for row in rows), sum(row.finished for row in rows)
    machine = share(
        study.resolve(study.variants[0]), jobs=jobs or study.jobs, most=max(1, runs - finished)
    )
    cells: list[Sequence[str]] = [
        ("variant", "runs", "finished", "steps left", "of the search", "a step")
    ]
    for row in rows:
        step = "unknown" if row.step_s is None else duration(row.step_s)
        how = "" if row.step_s is None or row.measured else " (estimate)"
        counts = (row.runs, row.finished, row.steps, row.trials)
        cells.append((row.variant, *map(str, counts), f"{step}{how}"))
    console.table(cells, styles=("bold", "", "", "", "", "dim"))
    seconds = left(rows, jobs=len(machine.slots))
    time = "an unknown time" if seconds is None else f"about {duration(seconds)}"
    console.say(f"{runs} runs, {finished} finished: training takes {time} more, {machine.about}")
    count = evaluations_left(study, folder)
    if count:
        console.say(
            f"{counted(count, 'evaluation')} of [eval] {'is' if count == 1 else 'are'} besides"
        )
    if study.hours is not None:
        console.say(f"hours={study.hours:g}: {duration(used(folder))} used")
