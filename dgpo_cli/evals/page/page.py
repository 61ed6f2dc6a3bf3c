"""The page of `dgpo view`: one file that needs no network, and a script for the samples.

Texts are most of it. Those of a problem are one block, compressed, which the script opens when
it is looked at; expected answers and what was read as an answer are in there too, so that neither
the page nor its source shows them unasked.
"""

from __future__ import annotations

import base64
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from dgpo_cli.core.codec import encoded
from dgpo_cli.core.numbers import ABSENT, UNKNOWN, cell, cost, counted, ends, percent, tokens
from dgpo_cli.core.text import visible, visible_lines
from dgpo_cli.core.types import OUTCOMES
from dgpo_cli.core.types.evaluation import LETTERS
from dgpo_cli.evals.page.stored import StoredEvaluation, StoredProblem, StoredSample
from dgpo_cli.evals.views.histogram import bins
from dgpo_cli.ui.document import asset, document
from dgpo_cli.ui.outcomes import COLOURS, NAMES

MAX_EVALUATIONS = 26
LARGE = 50_000_000  # bytes; a browser opens larger pages slowly
MISSING = "-"  # the letter of a sample that is not stored
HEAD = (
    *("", "model", "Avg@k", "95% rerun", "k", "problems", "pass@k", "maj@k"),
    *("mean tokens", "truncated", "no answer", "cost"),
)
_SCRIPTS = ("parts.js", "numbers.js", "view.js", "reader.js")


def view_page(evaluations: Sequence[StoredEvaluation], *, limit: int | None = None) -> str:
    """Return the page; the same evaluations give the same bytes.

    limit: characters that are kept of a text, half of them from its end.

    Raises:
        ValueError: no evaluation, or more than there are letters.
    """
    if not 1 <= len(evaluations) <= MAX_EVALUATIONS:
        raise ValueError(f"{len(evaluations)} evaluations: a page shows 1 to {MAX_EVALUATIONS}")
    benches = _benches(evaluations)
    return document(
        "view.html",
        title=f"{', '.join(benches)}: dgpo view",
        style=_colours() + asset("view.css"),
        script="".join(map(asset, _SCRIPTS)),
        data=_data(evaluations, benches, limit=limit),
        benches=list(benches),
        head=HEAD,
        rows=[
            _row(each, letter, several=len(benches) > 1)
            for each, letter in zip(evaluations, ascii_uppercase, strict=False)
        ],
        notes=[(each.name, note) for each in evaluations for note in each.notes],
        lengths=list(_lengths(evaluations, benches)),
        disputed=any(
            sample.disputed
            for each in evaluations
            for problem in each.problems
            for sample in problem.samples.values()
        ),
        names={LETTERS[outcome]: NAMES[outcome] for outcome in _present(evaluations)},
        limit=limit and counted(limit, "character"),
    )


def _benches(evaluations: Sequence[StoredEvaluation]) -> dict[str, list[str]]:
    """Return the ids of the problems of each benchmark, in its order if an evaluation has it."""
    found: dict[str, dict[str, None]] = {each.bench: {} for each in evaluations}
    for each in sorted(evaluations, key=lambda each: not each.in_order):
        ids = [problem.id for problem in each.problems]
        if not each.in_order:
            ids.sort(key=_by_number)
        found[each.bench].update(dict.fromkeys(ids))
    return {bench: list(ids) for bench, ids in found.items()}


def _by_number(name: str) -> list[tuple[int, str]]:
    """Return a key by which 2 comes before 10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def _present(evaluations: Sequence[StoredEvaluation]) -> list[Any]:
    found = {
        sample.outcome
        for each in evaluations
        for problem in each.problems
        for sample in problem.samples.values()
    }
    return [outcome for outcome in OUTCOMES if outcome in found]


def _colours() -> str:
    """Return the colours of outcomes as variables, those of the terminal."""
    of = COLOURS["truecolor"]
    return ":root { " + " ".join(f"--is-{LETTERS[o]}: {of[o]};" for o in OUTCOMES) + " }\n"


def _row(shown: StoredEvaluation, letter: str, *, several: bool) -> list[str]:
    """Return a row of the table; of an evaluation without scores, the share so far."""
    scores, there = shown.scores, len(shown.problems)
    problems = f"{there:,}" if there == shown.wanted else f"{there:,} of {shown.wanted:,}"
    name = f"{shown.name} ({shown.bench})" if several else shown.name
    if scores is None:
        drawn = [sample for problem in shown.problems for sample in problem.samples.values()]
        right = sum(sample.outcome == "correct" for sample in drawn)
        so_far = percent(right / len(drawn) if drawn else math.nan)
        row = [letter, name, f"{so_far} so far", ABSENT, ABSENT, problems]
        return [*row, *[ABSENT] * (len(HEAD) - len(row))]
    length = scores.lengths.mean
    rerun = "greedy" if scores.greedy else ends(scores.rerun_95)
    return [
        *(letter, name, percent(scores.avg_at_k), rerun, str(scores.k), problems),
        percent(scores.pass_at_k[scores.k]),
        percent(scores.maj_at_k),
        tokens(length) if math.isfinite(length) else UNKNOWN,
        percent(scores.truncated),
        percent(scores.no_answer),
        cell(scores.cost, cost),
    ]


def _data(
    evaluations: Sequence[StoredEvaluation],
    benches: Mapping[str, Sequence[str]],
    *,
    limit: int | None,
) -> dict[str, Any]:
    """Return what the script reads; every text in it is safe to show."""
    letters = {letter: NAMES[outcome] for outcome, letter in LETTERS.items()}
    return {
        "names": {**letters, MISSING: "not stored"},
        "benches": [
            {"name": visible(bench), "ids": list(map(visible, ids))}
            for bench, ids in benches.items()
        ],
        "evals": [
            {
                "letter": letter,
                "name": visible(each.name),
                "bench": list(benches).index(each.bench),
                "rows": _rows(each, benches[each.bench], limit=limit),
            }
            for each, letter in zip(evaluations, ascii_uppercase, strict=False)
        ],
    }


def _rows(
    shown: StoredEvaluation, ids: Sequence[str], *, limit: int | None
) -> list[dict[str, Any] | None]:
    """Return outcomes, lengths and texts of each problem, None where it has no sample."""
    found = {problem.id: problem for problem in shown.problems}
    most = max((max(p.samples, default=-1) for p in shown.problems), default=-1) + 1
    return [_problem(found[name], most, limit) if name in found else None for name in ids]


def _problem(problem: StoredProblem, most: int, limit: int | None) -> dict[str, Any]:
    samples = [problem.samples.get(index) for index in range(most)]
    return {
        "outcomes": "".join(LETTERS[s.outcome] if s is not None else MISSING for s in samples),
        "tokens": [None if s is None else s.tokens for s in samples],
        "disputed": [at for at, s in enumerate(samples) if s is not None and s.disputed],
        "texts": packed(
            {
                "gold": visible(problem.answer) or "not stored",
                "asked": [[role, visible_lines(text)] for role, text in problem.messages],
                "samples": [None if s is None else _texts(s, limit=limit) for s in samples],
            }
        ),
    }


def _texts(sample: StoredSample, *, limit: int | None) -> dict[str, Any]:
    text = sample.text
    if text is None:
        return {}
    found = {
        "thought": _shown(text[: sample.answer_at], limit=limit),
        "text": _shown(text[sample.answer_at :].lstrip("\r\n"), limit=limit),
        "reasoning": _shown(sample.reasoning or "", limit=limit),
        "read": None if sample.extracted is None else visible(sample.extracted),
        "finish": visible(sample.finish or UNKNOWN),
        "second": NAMES[sample.second] if sample.second else None,
    }
    return {name: value for name, value in found.items() if value not in ("", None)}


def _shown(text: str, *, limit: int | None) -> str:
    """Return a text safe to show, without its middle if it is longer than `limit`."""
    if limit is not None and len(text) > limit:
        head, tail = limit - limit // 2, limit // 2
        gone = counted(len(text) - limit, "character")
        text = f"{text[:head]}\n[… {gone} left out …]\n{text[len(text) - tail :]}"
    return visible_lines(text)


def packed(value: Any) -> str:
    """Return JSON, compressed (zlib, which browsers call deflate), as base64."""
    text = encoded(value, compact=True).encode("ascii")
    return base64.b64encode(zlib.compress(text)).decode("ascii")


def _lengths(
    evaluations: Sequence[StoredEvaluation], benches: Mapping[str, Sequence[str]]
) -> Iterator[dict[str, Any]]:
    """Yield the histogram of each evaluation; those of a benchmark share the axis and the scale."""
    for bench in benches:
        own = [
            (letter, each, _sides(each))
            for each, letter in zip(evaluations, ascii_uppercase, strict=False)
            if each.bench == bench
        ]
        both = [length for *_, sides in own for side in sides for length in side]
        edges = bins(both, [])
        if not edges:
            continue
        width = edges[0].high - edges[0].low + 1
        first = edges[0].low // width
        counts = [
            [_counted(side, width=width, first=first, bins=len(edges)) for side in sides]
            for *_, sides in own
        ]
        # Heights are shares of an evaluation's samples, so that another k changes no picture.
        totals = [max(1, sum(map(sum, sides))) for sides in counts]
        most = max(
            count / total
            for sides, total in zip(counts, totals, strict=True)
            for side in sides
            for count in side
        )
        for (letter, each, sides), (right, wrong), total in zip(own, counts, totals, strict=True):
            full = most * total
            yield {
                "letter": letter,
                "name": each.name,
                "sides": [
                    (len(sides[0]), tokens(_mean(sides[0]))),
                    (len(sides[1]), tokens(_mean(sides[1]))),
                ],
                "bars": [
                    (f"{b.low:,} to {b.high:,}", r, w, 100 * r / full, 100 * w / full)
                    for b, r, w in zip(edges, right, wrong, strict=True)
                ],
                "low": f"{edges[0].low:,}",
                "high": f"{edges[-1].high + 1:,}",
            }


def _sides(shown: StoredEvaluation) -> tuple[list[int], list[int]]:
    """Return the known lengths of correct samples, and of all others."""
    sides: tuple[list[int], list[int]] = ([], [])
    for problem in shown.problems:
        for sample in problem.samples.values():
            if sample.tokens is not None:
                sides[sample.outcome != "correct"].append(sample.tokens)
    return sides


def _counted(lengths: Sequence[int], *, width: int, first: int, bins: int) -> list[int]:
    found = [0] * bins
    for length in lengths:
        found[length // width - first] += 1
    return found


def _mean(lengths: Sequence[int]) -> float:
    return sum(lengths) / len(lengths) if lengths else math.nan
