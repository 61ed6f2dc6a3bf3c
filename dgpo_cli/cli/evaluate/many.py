"""dgpo eval of several models or benchmarks: what is asked for, and the table that comes of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dgpo_cli.cli import options
from dgpo_cli.cli.commands import FAILED, NOT_REACHED, last_words
from dgpo_cli.cli.evaluate.flags import samples_of
from dgpo_cli.core.errors import ConfigError, Interrupted
from dgpo_cli.core.numbers import counted, percent
from dgpo_cli.ui import console

if TYPE_CHECKING:
    from dgpo_cli.config.load import Resolved
    from dgpo_cli.evals.matrix.many import Planned
    from dgpo_cli.evals.matrix.table import Attempt, Table, TableCell
    from dgpo_cli.evals.request import EvalRequest


@dataclass(frozen=True, slots=True)
class Chosen:
    """A model as it was asked for. option: --model, --run, --preset or --config."""

    option: str
    value: str

    @property
    def name(self) -> str:
        """Its name in a table and in that of a folder."""
        if self.option == "--preset":
            return self.value
        path = Path(self.value)
        if self.option == "--config":
            return path.stem
        return path.resolve().name if self.option == "--run" else path.name


@dataclass(frozen=True, slots=True)
class Asked:
    """What holds for every model and benchmark.

    request: without name, benchmark and protocol. k: None if the temperature decides.
    by_error: flags that go by the error over reruns, with their values.
    """

    request: EvalRequest
    k: int | None
    by_error: Mapping[str, str | None]
    protocol: str | None
    overrides: list[str] | None
    flags: options.Flags


def chosen(order: Sequence[str], **given: Sequence[object] | None) -> list[Chosen]:
    """Return the models in the order in which they were typed.

    order: the parameters of all options as typed. given: the values of model, run, preset and
    config.

    Raises:
        ConfigError: one is given twice.
    """
    values = {name: iter(each) for name, each in given.items() if each}
    typed = [name for name in order if name in values]
    left = [name for name in given if name in values and name not in typed]
    found = [Chosen(f"--{name}", str(next(values[name]))) for name in typed]
    found += [Chosen(f"--{name}", str(value)) for name in left for value in values[name]]
    for each in found:
        if found.count(each) > 1:
            raise ConfigError(f"{each.option} {each.value}: given twice; name it once")
    return found


def benches(text: str) -> list[str]:
    """Return the benchmarks of --bench: names or files, with commas between them.

    Where a file has the name, a comma belongs to it. An alias becomes the name.

    Raises:
        ConfigError: one is empty or given twice.
    """
    parts = [part.strip() for part in text.split(",")]
    found = []
    while parts:
        ends = range(len(parts), 1, -1)
        end = next((end for end in ends if Path(",".join(parts[:end])).is_file()), 1)
        found.append(",".join(parts[:end]))
        del parts[:end]
    if "" in found:
        beside = " beside a comma" if len(found) > 1 else ""
        raise ConfigError(f"--bench {text}: a name is missing{beside}; dgpo bench list names them")
    from dgpo_cli.prompts.catalog import canonical

    named = [canonical(each) for each in found]
    for each in named:
        if named.count(each) > 1:
            raise ConfigError(f"--bench {text}: {each} is in it twice")
    return named


def settle(
    asked: Asked, subject: Chosen, bench: str, *, quiet: bool = False
) -> tuple[Resolved, EvalRequest]:
    """Return settings and request of a model on a benchmark. quiet: print no notes.

    Raises:
        ConfigError: the settings or the protocol are not valid.
        CheckpointError: the run has no checkpoint, or it is damaged.
    """
    from dgpo_cli.config.checks import check_built
    from dgpo_cli.config.protocols import check_judge, protocol_for
    from dgpo_cli.core.events import NOBODY
    from dgpo_cli.evals.request import trained

    protocol = protocol_for(bench, name=asked.protocol)
    layer = None if protocol is None else protocol.layer()
    adapter, overrides, flags = asked.request.adapter, asked.overrides, asked.flags
    if subject.option == "--run":
        run = Path(subject.value)
        resolved = options.resolve_run(
            run, protocol=layer, overrides=overrides, flags=flags, quiet=quiet
        )
        told = NOBODY if quiet else console.Notes()
        found = trained(run, resolved, adapter=adapter, observer=told)
        resolved, adapter = found.resolved, found.adapter
    else:
        preset = subject.value if subject.option == "--preset" else None
        config = Path(subject.value) if subject.option == "--config" else None
        if subject.option == "--model":
            flags = flags | options.flags_of(model__path=("--model", subject.value))
        resolved = options.resolve(
            preset=preset,
            config=config,
            protocol=layer,
            overrides=overrides,
            flags=flags,
            quiet=quiet,
        )
    judge = resolved.settings.reward.judge()
    if judge.kind != "terms":
        check_judge(bench, kind=judge.kind)
    check_built(resolved.settings, training=False, endpoint=True)
    if asked.request.price is not None and resolved.settings.rollout.backend.kind != "endpoint":
        raise ConfigError("--price: only a model behind an API has a cost; give --endpoint URL too")
    temperature = resolved.settings.rollout.temperature
    request = replace(
        asked.request,
        bench=bench,
        k=samples_of(asked.k, temperature=temperature, by_error=asked.by_error),
        name=subject.name,
        protocol=protocol,
        adapter=adapter,
    )
    return resolved, request


def check_asked(
    asked: Asked,
    models: Sequence[Chosen],
    names: Sequence[str],
    *,
    publish: Path | None,
    with_card: bool,
) -> None:
    """Refuse options that are for one model or one evaluation.

    Raises:
        ConfigError: one is given with several.
    """
    request = asked.request
    if request.data is not None and len(names) > 1:
        raise ConfigError(f"--data {request.data}: give one benchmark with it")
    if request.adapter is not None and len(models) > 1:
        raise ConfigError(f"--adapter {request.adapter}: give one model with it")
    if publish is not None and len(models) > 1:
        raise ConfigError(f"--publish {publish}: give one model with it, the one in that folder")
    if with_card:
        raise ConfigError(
            "--card: give one evaluation with it; of several, see each folder's card.json"
        )


@dataclass(frozen=True, slots=True)
class Ended:
    """The table of what was evaluated. stopped: Ctrl-C ended it before all of it was."""

    table: Table
    stopped: Interrupted | None = None

    @property
    def folders(self) -> list[Path]:
        """Those of the evaluations that have all their samples."""
        whole = (cell.folder for cell in self.table.cells if cell.failure is None)
        return [Path(folder) for folder in whole if folder is not None]


def evaluate(asked: Asked, models: Sequence[Chosen], names: Sequence[str], *, quiet: bool) -> Ended:
    """Evaluate every model on every benchmark. quiet: print no progress where nothing moves.

    Raises:
        ConfigError, DataError: something was given that cannot work; nothing is evaluated.
    """
    from dgpo_cli.evals.matrix import many
    from dgpo_cli.evals.matrix.table import make_table
    from dgpo_cli.live.evaluating.panel import evaluating

    rows = list(_rows(asked, models, names))
    found: list[Attempt] = []
    stopped = None
    try:
        with last_words(), evaluating(quiet=quiet) as observer:
            rows = many.prepared(rows, out=asked.request.out, observer=observer)
            for each in many.run(rows, observer=observer):
                found.append(each)
    except Interrupted as stop:
        stopped = stop
    labels = [row[0].model for row in rows]
    table = make_table(found, models=labels, benchmarks=[each.bench for each in rows[0]])
    return Ended(table, stopped)


def _rows(asked: Asked, models: Sequence[Chosen], names: Sequence[str]) -> Iterator[list[Planned]]:
    """Yield the cells of each model; those of one that cannot be read or reached say why."""
    from dgpo_cli.evals.matrix.many import Planned, attempt, distinct

    labels = distinct([each.name for each in models], sources=[each.value for each in models])
    for subject, label in zip(models, labels, strict=True):
        row: list[Planned] = []

        def plan(subject: Chosen = subject, label: str = label, row: list[Planned] = row) -> None:
            for bench in names:
                resolved, request = settle(asked, subject, bench, quiet=bool(row))
                row.append(Planned(label, bench, resolved, request))
            if resolved.settings.rollout.backend.kind != "endpoint":
                options.reach(resolved.settings.model)

        failure = attempt(plan)
        if failure is not None:
            row = [Planned(label, bench, failure=failure) for bench in names]
        yield row


def report(ended: Ended, *, least: float | None, form: str | None) -> None:
    """Print the table, and what is wrong with it.

    Raises:
        Interrupted: Ctrl-C ended the evaluation.
        Exit: with 1 if a cell failed, with 3 if one is not shown to reach `least`.
    """
    from dgpo_cli.evals.matrix import exports, view

    table = ended.table
    known = [cell for cell in table.cells if cell.known]
    if form is not None:
        console.raw(exports.written(table, form=form))
    elif known or ended.stopped is None:
        console.show(view.render(table))
        if known:
            console.suggest(["view", *(cell.folder for cell in known)])
    if ended.stopped is not None:
        raise ended.stopped
    short = [] if least is None else [c for c in known if not c.rerun_95.low >= least]
    for cell in short:
        console.error(not_reached(cell.rerun_95.low, least=least, what=_called(cell)))
    failed = sum(cell.failure is not None or not cell.known for cell in table.cells)
    if failed:
        console.error(
            f"{failed} of {counted(len(table.cells), 'evaluation')} failed; run the same command "
            "to try again"
        )
        raise typer.Exit(FAILED)
    if short:
        raise typer.Exit(NOT_REACHED)


def _called(cell: TableCell) -> str:
    return f"{cell.model} on {cell.bench}: "


def not_reached(lower: float, *, least: float | None, what: str = "") -> str:
    """Return the error of --min-score. lower: the lower end of the interval over reruns."""
    assert least is not None
    found = "unknown" if math.isnan(lower) else f"{percent(lower)}, below it"
    return (
        f"--min-score {percent(least)}: {what}the lower end of the 95% interval over reruns is "
        f"{found}"
    )
