"""The parts of the panel that are rows: header, outcomes, lengths, credit, time, diagnoses, keys.

Each takes the state and a page and returns its lines, none where it has nothing to say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from rich.cells import cell_len
from rich.text import Text

from dgpo_cli.algo.credit.target import IS_NOISE
from dgpo_cli.core import numbers
from dgpo_cli.core.text import elide, plain, visible
from dgpo_cli.core.types import OUTCOMES, Diagnosis
from dgpo_cli.live.state import PanelState, Phase
from dgpo_cli.live.stepline import step_line, term_names
from dgpo_cli.live.words import (
    NARROW,
    joined,
    label_width,
    meter,
    row,
    rows,
    split_cells_by,
)
from dgpo_cli.ui import outcomes
from dgpo_cli.ui.page import Page
from dgpo_cli.ui.textplot import sparkline

_VERBS = ("sample", "score", "statistics", "update", "sync", "values")
_NOT_IN_ALL = ("sync", "values")  # runs: of samplers with own weights, of credit by values
_FILLS, _ASCII_FILLS = "█▓▒░╌▚", "#=+-~*"
_VERB_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")
_ADVICE = 3  # lines at most
_KEYS = "p pause  n other completions  q stop after this step  h hide this"


def header(state: PanelState, page: Page) -> list[Text]:
    """Name and folder, and where the run is."""
    left = plain("").append(plain(state.name, glyphs=page.glyphs).plain, page.style("bold"))
    folder = plain(state.folder, glyphs=page.glyphs).plain
    if state.folder and page.width >= NARROW:
        left.append(f"  {folder}", page.style("dim"))
    here = f"step {state.step:,}/{state.total:,}"
    right = plain("").append(here, page.style("bold"))
    if state.doing != "training":
        right.append(f" {page.glyphs.separator} {state.doing}")
    return [joined(left, right, page=page)]


def progress(state: PanelState, page: Page) -> list[Text]:
    """The bar of the run, and its end as expected."""
    done = state.step / state.total
    right = plain(f" {numbers.whole_percent(done)}")
    over = state.doing in ("done", "stopped", "failed")
    if state.left_s is not None and not over:
        right.append(f"  {numbers.duration(state.left_s, whole=True)} left")
        if state.ends_at and page.width >= NARROW:
            right.append(f", until {state.ends_at}")
    return [meter(done, cells=page.width - right.cell_len, page=page).append_text(right)]


def now(state: PanelState, page: Page) -> list[Text]:
    """What is going on at this moment."""
    return [phase_row(phase, page) for phase in state.phases[-2:]]


def phase_row(phase: Phase, page: Page) -> Text:
    """A phase that is going on: its name, how far it is, and its speed."""
    count = f"{phase.done:,}/{phase.total:,}"
    speed = ""
    if phase.done > 0 and phase.seconds >= 0.2:
        speed = numbers.rate(phase.done / phase.seconds, phase.unit)
    elif phase.seconds >= 2:
        speed = f"since {numbers.duration(phase.seconds, whole=True)}"
    name = plain(f"{phase.name:<10} ", glyphs=page.glyphs)
    room = page.width - label_width(page) - name.cell_len
    cells = max(4, min(24, room - len(count) - 2 - (len(speed) + 2 if speed else 0)))
    bar = meter(phase.done / max(1, phase.total), cells=cells, page=page)
    return row(page, "now", name.append_text(bar), count, *([speed] if speed else []))


def outcome_rows(state: PanelState, page: Page) -> list[Text]:
    """How the completions of the last step ended: a bar, and the counts as its legend."""
    if "outcome/correct" not in state.metrics:
        return []
    counts = [state.metrics.get(f"outcome/{name}", 0.0) for name in OUTCOMES]
    texts = [_count(part, state.completions) for part in counts]
    return outcome_bar(counts, texts, page)


def outcome_bar(counts: Sequence[float], texts: Sequence[str], page: Page) -> list[Text]:
    """A bar of all outcomes, in the order of OUTCOMES, and its legend with these texts."""
    cells = split_cells_by(list(counts), cells=page.width - label_width(page))
    bar = plain("")
    for name, number in zip(OUTCOMES, cells, strict=True):
        glyph = outcomes.glyph(name, glyphs=page.glyphs)
        bar.append(glyph * number, outcomes.style(name, depth=page.depth))
    legend = []
    for name, part, count in zip(OUTCOMES, counts, texts, strict=True):
        if part > 0 or name == "correct":
            mark = outcomes.glyph(name, glyphs=page.glyphs)
            key = plain("").append(mark, outcomes.style(name, depth=page.depth))
            legend.append(key.append(f" {outcomes.NAMES[name]} {count}"))
    return [row(page, "outcome", bar), *rows(page, legend)]


def _count(part: float, total: int | None) -> str:
    """A share of a known number as a count, of an unknown one in percent."""
    if total is None or not math.isfinite(part):
        return numbers.whole_percent(part)
    return f"{round(part * total):,}"


def groups(state: PanelState, page: Page) -> list[Text]:
    """How many groups have something to learn from."""
    names = ("groups/all_correct", "groups/none_correct", "groups/no_signal")
    if any(name not in state.metrics for name in names):
        return []
    right, wrong, silent = (state.metrics[name] for name in names)
    words = [
        f"{name} {_count(part, state.groups)}"
        for name, part in (
            ("mixed", 1.0 - right - wrong),
            ("all correct", right),
            ("none correct", wrong),
            ("without signal", silent),
        )
    ]
    return [row(page, "groups", *words)]


def terms(state: PanelState, page: Page) -> list[Text]:
    """The terms of a reward that has several: their means, and the share of groups each decides."""
    names = term_names(state.metrics)
    if len(names) < 2:
        return []
    words = [
        f"{name} {numbers.decimal(state.metrics[f'reward/{name}_mean'])} "
        f"decides {numbers.whole_percent(state.metrics[f'reward/{name}_decides'])}"
        for name in names
    ]
    return rows(page, [plain(each, glyphs=page.glyphs) for each in words], "terms")


def lengths(state: PanelState, page: Page) -> list[Text]:
    names = (("mean", "length_mean"), ("p90", "length_p90"), ("max", "length_max"))
    found = [
        f"{label} {numbers.tokens(state.metrics[f'completion/{name}'])}"
        for label, name in names
        if f"completion/{name}" in state.metrics
    ]
    if not found:
        return []
    cut = state.metrics.get("completion/cut")
    truncated = [] if cut is None else [f"truncated {numbers.whole_percent(cut)}"]
    return [row(page, "lengths", found[0], *found[1:2], *truncated, *found[2:])]


def credit(state: PanelState, page: Page) -> list[Text]:
    """How far the credit is from GRPO's: effective token fraction 1 is GRPO."""
    facts = (
        ("credit/effective_fraction", "effective", partial(numbers.fraction, digits=4, most=5)),
        ("credit/weight_max", "largest w", "{:.2f}".format),
        ("policy/hellinger_sq_mean", "d", numbers.scientific),
        ("credit/weight_p99", "p99 w", "{:.2f}".format),
    )
    noise = " (noise)" if state.metrics.get(IS_NOISE) == 1.0 else ""
    found = [
        f"{label} {form(value)}{noise if label == 'd' else ''}"
        for name, label, form in facts
        if math.isfinite(value := state.metrics.get(name, math.nan))
    ]
    if found:
        return [row(page, "credit", *found)]
    unknown = "credit/effective_fraction" in state.metrics
    return [row(page, "credit", "unknown: no completion has an advantage")] if unknown else []


def policy(state: PanelState, page: Page) -> list[Text]:
    """Entropy with its course, and what the update did."""
    if "policy/entropy" not in state.metrics:
        return []
    course = sparkline(
        [value for _, value in state.entropy], width=16, ascii_only=page.glyphs.ascii_only
    )
    facts = (
        ("optim/grad_norm", "gradient", partial(numbers.decimal, digits=2)),
        ("loss/clip_frac", "clipped", numbers.percent),
        ("loss/kl", "KL", partial(numbers.decimal, digits=3)),
        ("optim/lr", "lr", numbers.scientific),
    )
    found = [
        f"{label} {form(state.metrics[name])}"
        for name, label, form in facts
        if name in state.metrics
    ]
    entropy = numbers.decimal(state.metrics["policy/entropy"])
    return [row(page, "entropy", f"{entropy} {course}", *found)]


def times(state: PanelState, page: Page) -> list[Text]:
    """What the last step took, as a bar of its parts and their shares."""
    total = state.metrics.get("time/step_s")
    if total is None or not total > 0:
        return []
    known = {verb: state.metrics.get(f"time/{verb}_s") for verb in _VERBS}
    looks = zip(
        _VERBS, _ASCII_FILLS if page.glyphs.ascii_only else _FILLS, _VERB_COLOURS, strict=True
    )
    shown = [look for look in looks if look[0] not in _NOT_IN_ALL or known[look[0]] is not None]
    seconds = [known[verb] or 0.0 for verb, _, _ in shown]
    head = [plain(f"{numbers.duration(total)} a step")]
    speed = state.metrics.get("throughput/tokens_per_s")
    if speed is not None:
        head.append(plain(numbers.rate(speed, "tokens")))
    used = label_width(page) + sum(part.cell_len + 2 for part in head)
    cells = min(32, page.width - used)
    bar = plain("")
    if cells >= 8:
        shares = [*seconds, max(0.0, total - sum(seconds))]
        counts = split_cells_by(shares, cells=cells)
        for (_, fill, colour), count in zip(shown, counts, strict=False):
            bar.append(fill * count, page.style(colour))
        head.append(bar)
    legend = [
        plain("")
        .append(fill, page.style(colour))
        .append(f" {verb} {numbers.whole_percent(spent / total)}")
        for (verb, fill, colour), spent in zip(shown, seconds, strict=True)
    ]
    return [row(page, "time", *head), row(page, "", *legend)]


def memory(state: PanelState, page: Page) -> list[Text]:
    own = state.memory
    found = []
    if own.now is not None:
        found.append(f"process {numbers.size(own.now)}")
    if own.peak is not None:
        found.append(f"peak {numbers.size(own.peak)}")
    if own.device is not None:
        of = f" of {numbers.size(own.device_total)}" if own.device_total else ""
        found.append(f"device {numbers.size(own.device)}{of}")
    if own.device_peak is not None:
        found.append(f"peak {numbers.size(own.device_peak)}")
    return [row(page, "memory", *found)] if found else []


def recent(state: PanelState, page: Page) -> list[Text]:
    """The last steps, the newest first, a line each."""
    room = page.width - label_width(page)
    lines = [
        step_line(step, dict(metrics), total=None, width=room)
        for step, metrics in reversed(state.recent[:-1])
    ]
    labels = ["before", *[""] * len(lines)]
    return [
        row(page, label, plain(line, style=page.style("dim")))
        for label, line in zip(labels, lines, strict=False)
    ]


def keys(state: PanelState, page: Page) -> list[Text]:
    """What the keys do, once asked for."""
    return [row(page, "keys", _KEYS)] if state.help else []


def diagnoses(state: PanelState, page: Page) -> list[Text]:
    """The first diagnosis with the first thing to change, and how many more there are."""
    if not state.diagnoses:
        return []
    first, *more = state.diagnoses
    head = visible(first.headline, glyphs=page.glyphs)
    if more:
        head += f" (and {len(more)} more)"
    head = "! " + elide(head, page.width - 2, glyphs=page.glyphs)
    lines = [plain(head, style=page.style("bold yellow"))]
    return [*lines, *(plain(f"  {line}") for line in _advice(first, page))]


def _advice(diagnosis: Diagnosis, page: Page) -> list[str]:
    """What to change first, in at most so many lines that it stays a remark."""
    room = max(8, page.width - 2)
    lines = [""]
    for word in visible(diagnosis.advice, glyphs=page.glyphs).split():
        longer = f"{lines[-1]} {word}".lstrip()
        if cell_len(longer) <= room or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    last = " ".join(lines[_ADVICE - 1 :])
    return [elide(line, room, glyphs=page.glyphs) for line in [*lines[: _ADVICE - 1], last] if line]
