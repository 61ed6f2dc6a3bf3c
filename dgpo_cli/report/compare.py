"""Several runs side by side: which settings differ, how each ended, and what cannot be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from dgpo_cli.algo.credit.target import IS_NOISE
from dgpo_cli.core.numbers import (
    ABSENT,
    cell,
    decimal,
    duration,
    error,
    fraction,
    percent,
    points,
    scientific,
    short,
    signed,
    tokens,
)
from dgpo_cli.core.text import escaped
from dgpo_cli.core.types import RunRecord
from dgpo_cli.report.draw import look
from dgpo_cli.report.figures import swatch
from dgpo_cli.report.overview import changed_after, half_95, reward_ends
from dgpo_cli.report.sections import table
from dgpo_cli.report.series import RunSeries, kind_of, known

UNSET = "(unset)"


def comparison(records: Sequence[RunRecord], runs: Sequence[RunSeries]) -> str:
    """The runs and their final numbers, with the differences from the first run."""
    head = ["", *(_head(run, at) for at, run in enumerate(runs))]
    rows = [[name, *cells] for name, cells in _rows(records, runs)]
    warnings = "".join(f'<p class="warn">{escaped(line)}</p>' for line in warned(records))
    return (
        '<section class="card" aria-label="Comparison"><h2>The runs</h2>'
        f"{table(head, rows)}{warnings}"
        f'<p class="note">In brackets: the difference from {runs[0].letter}. One run of each kind '
        "says little about settings: other seeds of the same settings differ, too.</p></section>"
    )


def _head(run: RunSeries, at: int) -> str:
    return f"{swatch(look(at))} {run.letter}"


def _rows(
    records: Sequence[RunRecord], runs: Sequence[RunSeries]
) -> Iterator[tuple[str, list[str]]]:
    yield "run", [escaped(record.name) for record in records]
    yield "state", [record.state for record in records]
    steps = [run.steps[-1] if run.steps else None for run in runs]
    yield "steps", _against_first(steps, short)
    spent = [run.seconds[-1] if run.has("time/step_s") else None for run in runs]
    yield "time in steps", [cell(each, duration) for each in spent]
    firsts, lasts, widths = zip(*map(reward_ends, records), strict=True)
    yield "reward, first steps", _against_first([each and each[0] for each in firsts], decimal)
    yield "reward, last steps", _against_first([each and each[0] for each in lasts], decimal)
    errors = [each and half_95(each[1], width) for each, width in zip(lasts, widths, strict=True)]
    yield "± of it, 95%", [cell(each, error) for each in errors]
    for metric, name, write in (
        ("outcome/correct", "correct, last step", percent),
        ("completion/length_mean", "length, last step", tokens),
        ("policy/entropy", "entropy, last step", decimal),
        ("credit/effective_fraction", "effective fraction, last step", fraction),
        ("policy/hellinger_sq_mean", "mean d, last step", scientific),
    ):
        if any(run.has(metric) for run in runs):
            cells = _against_first([_last(record, metric) for record in records], write)
            if metric == "policy/hellinger_sq_mean":
                noisy = [_last(record, IS_NOISE) == 1.0 for record in records]
                cells = [f"{c} (noise)" if n else c for c, n in zip(cells, noisy, strict=True)]
            yield name, cells
    if any(run.evals for run in runs):
        kinds = [kind_of(run.evals[-1]) if run.evals else None for run in runs]
        scores = [known(run.evals[-1].get("avg_at_k")) if run.evals else None for run in runs]
        same = [kind == kinds[0] for kind in kinds]
        yield "last Avg@k", _against_first(scores, percent, comparable=same)
        yield (
            "of",
            [
                f"{escaped(kind[0])}, k = {escaped(str(kind[1]))}" if kind else ABSENT
                for kind in kinds
            ],
        )


def _last(record: RunRecord, metric: str) -> float | None:
    """The last known value; not a point of the curve, which may be the mean of several steps."""
    known_values = (line.get(metric) for line in reversed(record.metrics))
    return next((each for each in known_values if each is not None), None)


def _against_first(
    numbers: Sequence[float | None],
    written: Callable[[float], str],
    *,
    comparable: Sequence[bool] | None = None,
) -> list[str]:
    """Each number, those after the first with their difference from it."""
    first = numbers[0]
    cells = []
    for at, number in enumerate(numbers):
        text = cell(number, written)
        apart = ""
        if at and number is not None and first is not None:
            apart = (
                points(number - first) if written is percent else signed(number - first, written)
            )
        shown = apart and (comparable is None or comparable[at])
        cells.append(f'{text} <span class="muted apart">({apart})</span>' if shown else text)
    return cells


def warned(records: Sequence[RunRecord]) -> Iterator[str]:
    """What makes these runs hard to compare."""
    for record in records:
        if text := changed_after(record):
            yield f"{record.name}: {text}, so its curves do not show a single method."
    kinds = {kind_of(line) for record in records for line in record.evals}
    benches, ks = {kind[0] for kind in kinds}, {str(kind[1]) for kind in kinds}
    if len(benches) > 1:
        yield f"Benchmarks differ ({', '.join(sorted(benches))}): their Avg@k are not comparable."
    if len(ks) > 1:
        yield (
            f"k differs ({', '.join(sorted(ks))}): Avg@k has the same mean for every k, but not "
            "the same error; pass@k and maj@k are not comparable."
        )
    for key, what in (("model.path", "models"), ("prompts.kind", "prompts")):
        values = {setting.value for r in records for setting in r.settings if setting.key == key}
        if len(values) > 1:
            yield f"The {what} differ: rewards are of other problems or other policies."
    rewards = {
        tuple((s.key, s.value) for s in record.settings if s.key.startswith("reward."))
        for record in records
        if record.settings
    }
    if len(rewards) > 1:
        yield "The reward settings differ: equal rewards do not mean the same."


def differing(records: Sequence[RunRecord], runs: Sequence[RunSeries]) -> str:
    """The settings that are not the same in all runs."""
    columns = [{each.key: each.value for each in record.settings} for record in records]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    rows = []
    for key in keys:
        values = [column.get(key, UNSET) for column in columns]
        if len(set(values)) > 1:
            cells = (f"<code>{escaped(each)}</code>" for each in values)
            rows.append([f"<code>{escaped(key)}</code>", *cells])
    head = ["setting", *(run.letter for run in runs)]
    body = table(head, rows, text=len(head)) if rows else "<p>None: the settings are the same.</p>"
    return f'<section class="card"><h2>Settings that differ</h2>{body}</section>'
