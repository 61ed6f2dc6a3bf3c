"""The parts of the page below the curves: evaluations, samples, checkpoints, settings, metrics."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

from dgpo_cli.config.changes import value_text
from dgpo_cli.core.numbers import cell, fraction, moment, percent, short, signed, size, tokens
from dgpo_cli.core.text import UNICODE, escaped, visible
from dgpo_cli.core.types import InspectedCompletion, RunRecord, StoredSamples, StoredSetting
from dgpo_cli.inspect.token_html import tokens_html
from dgpo_cli.inspect.views.header import outcome
from dgpo_cli.report.charts.drawing import Chart, Line, frame, path, polyline
from dgpo_cli.report.charts.sampling import Buckets, Column, column
from dgpo_cli.report.overview import errors
from dgpo_cli.report.series import RunSeries, known

SPARK = 60  # points of a curve in the table of all metrics


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, text: int = 1) -> str:
    """A table of cells that are HTML already; the first `text` columns hold text."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=text' if at < text else ''}>{cell}</{tag}>"
            for at, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{cells("th", head)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def changes(record: RunRecord, *, named: bool = False) -> str:
    """What the run changed, a line a setting; nothing where it changed nothing."""
    if not record.changes:
        return ""
    rows = [
        [
            f"<code>{escaped(each.setting)}</code>",
            f"<code>{escaped(value_text(each.old))}</code>",
            f"<code>{escaped(value_text(each.new))}</code>",
            f"{each.step:,}",
        ]
        for each in record.changes
    ]
    of = f" · {escaped(record.name)}" if named else ""
    return (
        f'<section class="card alarm" id="changes"><h2>Changed within the run{of}</h2>'
        '<p class="note">The run was trained with different settings from these steps on, '
        "so its curves do not show a single method.</p>"
        f"{table(['setting', 'until then', 'from then on', 'after step'], rows, text=3)}</section>"
    )


def evaluations(record: RunRecord) -> str:
    """Every evaluation with both errors; nothing where there are none."""
    if not record.evals:
        return ""

    def share(line: object) -> str:
        return cell(known(line), percent)

    rows = [
        [
            str(int(line["step"])),
            escaped(str(line.get("bench"))),
            escaped(str(line.get("k"))),
            share(line.get("avg_at_k")),
            escaped(errors(line)),
            share(line.get("pass_at_k")),
            share(line.get("maj_at_k")),
            share(line.get("truncated")),
            cell(known(line.get("length_mean")), tokens),
        ]
        for line in record.evals
    ]
    head = ["step", "benchmark", "k", "Avg@k", "95% intervals", "pass@k", "maj@k", "truncated"]
    return (
        f"<details><summary>Evaluations</summary>{table([*head, 'length'], rows, text=2)}</details>"
    )


def samples(found: StoredSamples | None) -> str:
    """The newest completions, coloured by credit weight."""
    if found is None:
        return ""
    parts = [
        _sample(shown, samples=found, length=length)
        for shown, length in zip(found.inspection.completions, found.lengths, strict=True)
    ]
    return (
        f'<section class="card" id="samples"><h2>Samples of step {found.step}</h2>'
        '<p class="note">Each token on the colour of its credit weight w: orange and bold above 1, '
        "GRPO's weight, blue below; strongest at 2 and 1/2, none from 0.8 to 1.25. Numbers are in "
        "the titles; dgpo inspect shows everything.</p>"
        f'<div class="samples">{"".join(parts)}</div></section>'
    )


def _sample(shown: InspectedCompletion, *, samples: StoredSamples, length: int) -> str:
    mark = escaped(outcome(shown, glyphs=UNICODE))
    look = "good" if shown.outcome == "correct" else "bad"
    cut = ""
    if length > len(shown.tokens):
        cut = f'<p class="note">The first {len(shown.tokens):,} of {length:,} tokens.</p>'
    prompt = "\n".join(visible(line) for line in shown.prompt.split("\n"))
    return (
        f'<article class="sample"><h3><span class="{look}">{mark}</span> '
        f'<span class="muted">{escaped(shown.prompt_id)}, completion {shown.index}</span></h3>'
        f'<pre class="prompt">{html.escape(prompt)}</pre>'
        f"{tokens_html(shown, inspection=samples.inspection)}{cut}"
        f'<p class="note">reward {short(shown.reward)}, advantage {signed(shown.advantage)}, '
        f"{length:,} tokens, effective fraction {fraction(shown.effective_fraction)}, "
        f"right answer {escaped(shown.answer)}</p></article>"
    )


def checkpoints(record: RunRecord) -> str:
    """The checkpoints that are there, the newest first."""
    if not record.checkpoints:
        return ""
    rows = [
        [f"step-{each.step:06d}", moment(each.written), size(each.size)]
        for each in reversed(record.checkpoints)
    ]
    body = table(["checkpoint", "written", "size"], rows)
    return f'<section class="card"><h2>Checkpoints</h2>{body}</section>'


def settings(record: RunRecord) -> str:
    """All settings: what was given by hand first, then what differs from the defaults, the rest."""
    if not record.settings:
        return ""
    by_hand = [each for each in record.settings if _is_by_hand(each)]
    other = [each for each in record.settings if each not in by_hand and is_changed(each)]
    rest = [each for each in record.settings if each not in by_hand and each not in other]
    parts = ["<h2>Settings</h2>"]
    for title, rows in (
        ("Set by hand", by_hand),
        ("Other than the defaults", other),
        ("Defaults", rest),
    ):
        if rows:
            opened = "" if rows is rest else " open"
            parts.append(
                f"<details{opened}><summary>{title} ({len(rows)})</summary>"
                f"{_setting_table(rows)}</details>"
            )
    return f'<section class="card" id="settings">{"".join(parts)}</section>'


def _is_by_hand(setting: StoredSetting) -> bool:
    return bool(setting.source) and not setting.source.startswith("preset ")


def is_changed(setting: StoredSetting) -> bool:
    return setting.value != setting.default


def _setting_table(rows: Sequence[StoredSetting]) -> str:
    cells = [
        [
            f"<code>{escaped(each.key)}</code>",
            f"<code>{escaped(each.value)}</code>",
            "" if each.default is None or not is_changed(each) else escaped(each.default),
            escaped(each.source or "default"),
        ]
        for each in rows
    ]
    return table(["setting", "value", "default", "from"], cells, text=4)


def all_metrics(runs: Sequence[RunSeries], *, places: Mapping[str, str]) -> str:
    """Every metric of the files with a small curve; the script shows it large and searches."""
    names = metric_names(runs)
    several = len(runs) > 1
    rows = []
    for name in names:
        for run in runs:
            if run.has(name):
                rows.append(
                    [
                        _chooser(name, places[name]),
                        *([run.letter] if several else []),
                        *_summary(run, name),
                    ]
                )
    head = ["metric", *(["run"] if several else []), "first", "last", "min", "max", ""]
    body = table(head, rows)
    return (
        f'<section class="card" id="metrics"><h2>All metrics ({len(names)})</h2>'
        '<div class="controls" hidden><label for="search">Search</label> '
        '<input type="search" id="search" autocomplete="off" spellcheck="false"></div>'
        f'<div id="chosen"></div>{body}</section>'
    )


def metric_names(runs: Sequence[RunSeries]) -> list[str]:
    return sorted({name for run in runs for name in run.columns})


def _chooser(name: str, place: str) -> str:
    return f'<button type="button" class="metric" data-large="{place}">{escaped(name)}</button>'


def _summary(run: RunSeries, name: str) -> list[str]:
    values = run.columns[name]
    known_values = [each for each in values.mean if each is not None]
    low = [each for each in (values.low or values.mean) if each is not None]
    high = [each for each in (values.high or values.mean) if each is not None]
    ends = (known_values[0], known_values[-1], min(low), max(high))
    return [*map(short, ends), _spark(run, values)]


def _spark(run: RunSeries, values: Column) -> str:
    """A curve without axes, of the means of neighbours where there are many points."""
    buckets = Buckets.of(len(run.steps), at_most=SPARK)
    ys = column(values.mean, buckets=buckets).mean
    xs = [run.steps[stop - 1] for _, stop in buckets]
    chart = Chart("", [Line("", 1, xs, ys)], labelled=False)
    place = frame(chart, width=166, height=52)
    drawn = path("line", *polyline(xs, ys, place=place))
    return f'<svg class="spark s1" viewBox="44 6 114 24" aria-hidden="true">{drawn}</svg>'
