"""The result of `dgpo eval` for a terminal and as JSON, and two results side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from dgpo_cli.report.grid import grid, grid_legend
from dgpo_cli.report.jsonable import jsonable
from dgpo_cli.report.page import Page, page_for, stack, title_line
from dgpo_cli.report.ramp import Depth, depth_of, shallower
from dgpo_cli.report.text import elide, pad, plain, visible
from dgpo_cli.types import Evaluation

_WARN = 0.05  # share of truncated or unanswered completions from which a score says less
_NORMAL_95 = 1.96  # standard errors in half of a 95 % interval
_LABEL = 13
_NUMBER = 9


def render(evaluation: Evaluation, *, color: Depth = "truecolor") -> RenderableType:
    """Scores with their errors, what went unanswered, and a grid of the problems.

    color: the most colour to use; the console that prints may allow less.
    """
    return _Report(evaluation, color)


def compare(before: Evaluation, after: Evaluation, *, color: Depth = "truecolor") -> RenderableType:
    """Two results side by side, and the difference with its standard error over reruns."""
    return _Comparison(before, after, color)


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """The documented data of `dgpo eval --json`; what is unknown is None."""
    data: dict[str, Any] = jsonable(asdict(evaluation))
    return data


def percent(share: float) -> str:
    return f"{100.0 * share:.1f} %" if math.isfinite(share) else "unknown"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    if not math.isfinite(difference):
        return "unknown"
    return f"{round(100.0 * difference, 1) + 0.0:+.1f}"  # + 0.0: no minus before a zero


def _plus_minus(stderr: float, *, page: Page) -> str:
    if not math.isfinite(stderr):
        return "unknown"
    return f"{page.glyphs.plus_minus} {100.0 * stderr:.1f}"


def _error(name: str, stderr: float, meaning: str, *, page: Page) -> Text:
    line = plain("").append(pad(f"  {name}", _LABEL), page.style("dim"))
    line.append(_plus_minus(stderr, page=page).rjust(_NUMBER - 2))
    if math.isfinite(stderr):
        half = _plus_minus(_NORMAL_95 * stderr, page=page)
        line.append(f"   95 %: {half:>7}")
    if line.cell_len + 3 + len(meaning) <= page.width:
        line.append("   " + meaning, page.style("dim"))
    return line


def _score(label: str, value: str, *, page: Page, style: str = "") -> Text:
    line = plain("").append(pad(label, _LABEL), page.style("dim"))
    return line.append(value.rjust(_NUMBER), page.style(style))


def _pass_table(evaluation: Evaluation, *, page: Page) -> Iterator[Text]:
    cell = 8
    columns = max(1, (page.width - _LABEL) // cell)
    items = sorted(evaluation.pass_at_k.items())
    for start in range(0, len(items), columns):
        shown = items[start : start + columns]
        heads = "".join(str(j).rjust(cell) for j, _ in shown)
        values = "".join(percent(value).rjust(cell) for _, value in shown)
        yield plain(pad("pass@", _LABEL) + heads, style=page.style("dim"))
        yield plain(" " * _LABEL + values)


def _warnings(evaluation: Evaluation, *, page: Page) -> Iterator[Text]:
    if evaluation.truncated > _WARN:
        yield from page.paragraph(
            f"Warning: {percent(evaluation.truncated)} of the completions were cut off; "
            "the score is a lower bound. Raise max_completion_tokens.",
            style="bold",
        )
    if evaluation.no_answer > _WARN:
        yield from page.paragraph(
            f"Warning: {percent(evaluation.no_answer)} of the completions hold no answer that "
            "can be read. Look at the samples for the format that the checker expects.",
            style="bold",
        )


def _unsolved(evaluation: Evaluation, *, page: Page) -> Iterator[Text]:
    never = [problem.id for problem in evaluation.problems if problem.correct == 0]
    always = sum(problem.correct == evaluation.k for problem in evaluation.problems)
    yield plain(f"always solved {always}, never solved {len(never)} of {evaluation.n_problems}")
    if never:
        names = ", ".join(visible(name, glyphs=page.glyphs) for name in never)
        line = plain("").append("never: ", page.style("dim"))
        yield line.append(elide(names, page.width - 7, glyphs=page.glyphs))


def _problems(evaluation: Evaluation, *, page: Page, depth: Depth) -> Iterator[Text]:
    yield plain(f"Problems, correct of {evaluation.k}", style=page.style("bold"))
    yield from grid(evaluation.problems, k=evaluation.k, page=page, depth=depth)
    yield grid_legend(k=evaluation.k, page=page)


@dataclass(frozen=True, slots=True)
class _Report:
    evaluation: Evaluation
    color: Depth

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        depth = shallower(self.color, depth_of(console))
        page = page_for(options, depth=depth)
        yield stack(self._lines(page=page, depth=depth))

    def _lines(self, *, page: Page, depth: Depth) -> Iterator[Text]:
        result, k = self.evaluation, self.evaluation.k
        bench = visible(result.bench, glyphs=page.glyphs)
        yield title_line(page, f"{bench}, {result.n_problems} problems, {k} samples each")
        yield page.rule()
        yield _score(f"Avg@{k}", percent(result.avg_at_k), page=page, style="bold")
        yield _error("rerun", result.stderr_rerun, "same problems sampled again", page=page)
        yield _error("problems", result.stderr_problems, "other problems drawn", page=page)
        yield plain("")
        yield _score(f"maj@{k}", percent(result.maj_at_k), page=page)
        yield from _pass_table(result, page=page)
        yield plain("")
        yield _score("truncated", percent(result.truncated), page=page)
        yield _score("no answer", percent(result.no_answer), page=page)
        yield _score("mean tokens", _tokens(result.mean_tokens), page=page)
        yield from _warnings(result, page=page)
        if result.problems:
            yield plain("")
            yield from _problems(result, page=page, depth=depth)
            yield from _unsolved(result, page=page)


def _tokens(mean: float) -> str:
    return f"{mean:,.1f}" if math.isfinite(mean) else "unknown"


@dataclass(frozen=True, slots=True)
class _Comparison:
    before: Evaluation
    after: Evaluation
    color: Depth

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        depth = shallower(self.color, depth_of(console))
        page = page_for(options, depth=depth)
        yield stack(self._lines(page=page, depth=depth))

    @property
    def _stderr(self) -> float:
        return math.hypot(self.before.stderr_rerun, self.after.stderr_rerun)

    @property
    def _alike(self) -> bool:
        ids = [[problem.id for problem in each.problems] for each in (self.before, self.after)]
        same_bench = self.before.bench == self.after.bench and self.before.k == self.after.k
        return same_bench and ids[0] == ids[1]

    def _lines(self, *, page: Page, depth: Depth) -> Iterator[Text]:
        before, after = self.before, self.after
        yield title_line(page, f"{visible(after.bench, glyphs=page.glyphs)}, before and after")
        yield page.rule()
        heads = "".join(name.rjust(_NUMBER) for name in ("before", "after", "change"))
        yield plain(" " * _LABEL + heads, style=page.style("dim"))
        k = after.k if before.k == after.k else "k"
        yield self._row(f"Avg@{k}", before.avg_at_k, after.avg_at_k, page=page, style="bold")
        yield self._errors(page=page)
        for j in sorted(before.pass_at_k.keys() & after.pass_at_k.keys()):
            yield self._row(f"pass@{j}", before.pass_at_k[j], after.pass_at_k[j], page=page)
        yield self._row(f"maj@{k}", before.maj_at_k, after.maj_at_k, page=page)
        yield self._row("truncated", before.truncated, after.truncated, page=page)
        yield self._row("no answer", before.no_answer, after.no_answer, page=page)
        yield self._tokens(page=page)
        yield plain("")
        yield from page.paragraph(self._in_words(), style="bold")
        for name, result in (("before", before), ("after", after)):
            if result.problems:
                yield plain("")
                head = f"{name}, correct of {result.k}"
                yield plain(head, style=page.style("dim"))
                yield from grid(result.problems, k=result.k, page=page, depth=depth)
        yield grid_legend(k=after.k, page=page)

    def _row(self, label: str, before: float, after: float, *, page: Page, style: str = "") -> Text:
        line = _score(label, percent(before), page=page)
        line.append(percent(after).rjust(_NUMBER))
        return line.append(points(after - before).rjust(_NUMBER), page.style(style))

    def _errors(self, *, page: Page) -> Text:
        line = plain("").append(pad("  rerun", _LABEL), page.style("dim"))
        for stderr in (self.before.stderr_rerun, self.after.stderr_rerun, self._stderr):
            line.append(_plus_minus(stderr, page=page).rjust(_NUMBER))
        return line

    def _tokens(self, *, page: Page) -> Text:
        before, after = self.before.mean_tokens, self.after.mean_tokens
        line = _score("mean tokens", _tokens(before), page=page)
        line.append(_tokens(after).rjust(_NUMBER))
        change = after - before
        return line.append((f"{change:+,.1f}" if math.isfinite(change) else "").rjust(_NUMBER))

    def _in_words(self) -> str:
        change = self.after.avg_at_k - self.before.avg_at_k
        if not self._alike:
            return "Not the same problems or not the same k: the change says little."
        if not (math.isfinite(change) and math.isfinite(self._stderr)):
            return f"The score changed by {points(change)} points; its error is unknown."
        if abs(change) <= _NORMAL_95 * self._stderr:
            return "The change is within what a rerun of the same model would give."
        verb = "rose" if change > 0 else "fell"
        text = f"The score {verb} by {abs(100 * change):.1f} points"
        if self._stderr == 0.0:
            return f"{text}."
        return f"{text}, {abs(change) / self._stderr:.0f} times its rerun error."
