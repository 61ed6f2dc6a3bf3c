"""Outputs of lighteval: a Parquet file with the details of a task, and the results of its run.

Source: src/lighteval/logging/evaluation_tracker.py, models/model_output.py and tasks/requests.py of
huggingface/lighteval at 3fd15266 (0.13), and docs/source/saving-and-reading-results.mdx.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgpo_cli.core import io
from dgpo_cli.core.codec import Format, parsed
from dgpo_cli.core.errors import DataError
from dgpo_cli.core.formats import Turn
from dgpo_cli.core.numbers import size
from dgpo_cli.core.schema import Count, Object, Text
from dgpo_cli.core.text import cut
from dgpo_cli.core.thinking import ends_in_thought
from dgpo_cli.core.types import FinishReason, Outcome
from dgpo_cli.evals.foreign.log import ForeignLog, ForeignProblem, ForeignSample, score_outcome

MOST_UNPACKED = 4 * 2**30  # bytes of a Parquet file, unpacked
MOST_RESULTS = 256 * 2**20  # bytes of a results file
_NAME = re.compile(r"details_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[\d.-]+)\.parquet")
_PARTS = ("doc", "metric", "model_response")
_ROWS = 64  # in memory at a time
_DOC = ("query", "choices", "gold_index", "id", "instruction", "generation_size", "num_samples")
_RESPONSE = ("input", "text", "output_tokens", "reasonings")
# The mean over samples: avg@n:n=64, avg@k:k=64; pass@k:k=1&n=64 estimates the same.
_MEAN = re.compile(r"avg@|pass@k:k=1(?:&|$)|pass@1(?::|$)")
_SIZE = re.compile(r"(?:^avg@.*[:&]|&)[nk]=(\d+)")
_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_completion_tokens": "max_new_tokens",
    "stop": "stop_tokens",
    "seed": "seed",
}


@dataclass(frozen=True, slots=True)
class _General:
    model_name: Text | None = None
    model_config: Object = field(default_factory=dict)
    lighteval_sha: Text | None = None


@dataclass(frozen=True, slots=True)
class _Results:
    """results: by task and metric. config_tasks: by task."""

    config_general: _General
    results: dict[str, Object] = field(default_factory=dict)
    config_tasks: dict[str, Object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Doc:
    query: Text
    choices: tuple[Any, ...]
    gold_index: Any
    id: Any = None
    instruction: Text | None = None
    generation_size: Count | None = None


@dataclass(frozen=True, slots=True)
class _Response:
    input: Any = None
    text: tuple[Text, ...] = ()
    output_tokens: Any = ()
    reasonings: tuple[Any, ...] = ()


_RESULTS, _DOCS, _RESPONSES = Format(_Results), Format(_Doc), Format(_Response)


def read_results(data: Mapping[str, Any], *, path: Path) -> ForeignLog:
    """Read a run of one task from its results file, with the details beside it.

    Raises:
        DataError: it has no details, or those of several tasks; the message names the files.
    """
    found = _details_of(path)
    if not found:
        raise DataError(
            f"{path}: no details_*.parquet beside it; give that file (lighteval writes it "
            "with --save-details)"
        )
    if len(found) > 1:
        raise DataError(
            f"{path}: has the details of {len(found)} tasks; give one of the files, as {found[0]}"
        )
    return _read(found[0], _RESULTS.read(data, where=str(path)))


def read_details(path: Path) -> ForeignLog:
    """Read the details of one task, with the results of the run if they are found.

    Raises:
        DataError: it is damaged, too large, of an older lighteval, or has no texts.
    """
    file = _results_of(path)
    if file is None:
        return _read(path, None)
    data = parsed(_bounded(file), where=str(file), constants=False)
    return _read(path, _RESULTS.read(data, where=str(file)))


def _bounded(file: Path) -> bytes:
    if (found := file.stat().st_size) > MOST_RESULTS:
        raise DataError(f"{file}: {size(found)} are too large for a results file")
    return io.read_bytes(file)


def _details_of(results: Path) -> list[Path]:
    """Return the details of a results file: beside it, as on the hub, or in lighteval's folders."""
    date = results.stem.removeprefix("results_")
    folders = [results.parent / date]
    for above in results.parents:
        if above.name == "results":
            model = results.parent.relative_to(above)
            folders.append(above.parent / "details" / model / date)
    return [file for folder in folders for file in sorted(folder.glob("details_*.parquet"))]


def _results_of(details: Path) -> Path | None:
    named = _NAME.fullmatch(details.name)
    if named is None:
        return None
    name = f"results_{named['date']}.json"
    places = [details.parent / name, details.parent.parent / name]
    for above in details.parents:
        if above.name == "details":
            model = details.parent.parent.relative_to(above)
            places.append(above.parent / "results" / model / name)
    return next((place for place in places if place.is_file()), None)


def _read(path: Path, results: _Results | None) -> ForeignLog:
    named = _NAME.fullmatch(path.name)
    task = named["task"] if named else path.stem.removeprefix("details_")
    general = results.config_general if results else _General()
    sampling = _sampling(general)
    counts: Counter[str] = Counter()
    metrics: Counter[str] = Counter()
    problems = tuple(
        _problem(at, row, path=path, limit=_limit(sampling, row[0]), counts=counts, metrics=metrics)
        for at, row in enumerate(_rows(path))
    )
    if not problems:
        raise DataError(f"{path}: has no rows")
    scores = results.results.get(task, {}) if results else {}
    chosen = next((name for name in metrics if _MEAN.match(name)), next(iter(metrics), None))
    return ForeignLog(
        program="lighteval",
        version=general.lighteval_sha,
        task=task,
        model=general.model_name or "unknown",
        scorer=chosen,
        problems=problems,
        file=path.name,
        sha256=_digest(path),
        dataset=_dataset(results, task),
        sampling=sampling,
        scores={name: float(x) for name, x in scores.items() if isinstance(x, int | float)},
        notes=tuple(_notes(results, counts, path=path)),
    )


def _notes(results: _Results | None, counts: Counter[str], *, path: Path) -> Iterator[str]:
    if results is None:
        yield f"no results file of {path.name} was found: model and sampling are not known"
    if counts["several"]:
        yield f"{counts['several']} problems accept several answers; the first of each counts"
    if counts["shares"]:
        yield (f"of {counts['shares']} problems it says how many samples are right, and not which")
    if counts["unscored"]:
        yield f"of {counts['unscored']} problems it has no verdict on single samples"
    if counts["partial"]:
        yield f"{counts['partial']} samples have partial credit, which counts as wrong"


def _sampling(general: _General) -> dict[str, Any]:
    given = general.model_config.get("generation_parameters")
    given = given if isinstance(given, dict) else {}
    found = {
        ours: given[theirs] for ours, theirs in _SAMPLING.items() if given.get(theirs) is not None
    }
    system = general.model_config.get("system_prompt")
    return found | ({"system": system} if isinstance(system, str) else {})


def _limit(sampling: Mapping[str, Any], doc: _Doc) -> int | None:
    """Return the most tokens that a completion could have, as lighteval chooses it."""
    found = sampling.get("max_completion_tokens") or doc.generation_size
    return found if type(found) is int else None


def _dataset(results: _Results | None, task: str) -> str | None:
    config = results.config_tasks.get(task, {}) if results else {}
    found = config.get("hf_repo")
    return found if isinstance(found, str) else None


def _rows(path: Path) -> Iterator[tuple[_Doc, Mapping[str, Any], _Response]]:
    """Yield the rows of the details: the problem, its metrics, and what the model said."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            rows = file.metadata
            unpacked = sum(rows.row_group(at).total_byte_size for at in range(rows.num_row_groups))
            if unpacked > MOST_UNPACKED:
                raise DataError(f"{path}: unpacks to more than {size(MOST_UNPACKED)}")
            names = _columns(file.schema_arrow, path=path)
            for batch in file.iter_batches(batch_size=_ROWS, columns=_leaves(file, names)):
                for row in batch.to_pylist():
                    where = f"{path}, row {number + 1}"
                    doc, metric, response = (row.get(name) or {} for name in names)
                    yield (
                        _DOCS.read(doc, where=f"{where}: {names[0]}"),
                        metric if isinstance(metric, dict) else {},
                        _RESPONSES.read(response, where=f"{where}: {names[2]}"),
                    )
                    number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise DataError(f"{path}: a damaged Parquet file: {cut(first, 120)}") from error


def _columns(schema: Any, *, path: Path) -> tuple[str, str, str]:
    """Return the names of the three columns."""
    for names in (_PARTS, tuple(f"__{name}__" for name in _PARTS)):
        if all(name in schema.names for name in names):
            return names  # type: ignore[return-value]
    shown = ", ".join(schema.names[:8])
    raise DataError(
        f"{path}: has no columns doc, metric and model_response, which lighteval writes since 0.10 "
        f"(it has {shown})"
    )


def _leaves(file: Any, names: tuple[str, str, str]) -> list[str]:
    """Return the columns to read: logits, which may be huge, are not among them."""
    doc, metric, response = names
    wanted = [f"{doc}.{name}" for name in _DOC] + [f"{response}.{name}" for name in _RESPONSE]
    schema = file.schema_arrow
    there = {
        f"{name}.{inner.name}"
        for name in (doc, response)
        if hasattr(schema.field(name).type, "fields")
        for inner in schema.field(name).type.fields
    }
    return [metric, *(name for name in wanted if name in there)]


def _problem(
    at: int,
    row: tuple[_Doc, Mapping[str, Any], _Response],
    *,
    path: Path,
    limit: int | None,
    counts: Counter[str],
    metrics: Counter[str],
) -> ForeignProblem:
    doc, metric, response = row
    golds = _golds(doc)
    if not golds:
        raise DataError(f"{path}, row {at + 1}: gold_index names no choice")
    counts["several"] += len(golds) > 1
    n = len(response.text)
    if n == 0:
        raise DataError(
            f"{path}, row {at + 1}: has no text; the task compares log-probabilities of options, "
            "and there is nothing to judge again"
        )
    outcome, right = _verdicts(metric, n=n, counts=counts, metrics=metrics)
    inside = isinstance(response.input, str) and ends_in_thought(response.input, problem=doc.query)
    return ForeignProblem(
        id=str(doc.id) if doc.id not in (None, "") else str(at),
        messages=_prompt(doc, response),
        gold=golds[0],
        samples=tuple(
            _sample(response, each, limit=limit, inside=inside, outcome=outcome)
            for each in range(n)
        ),
        right=right,
        choices=len(doc.choices) if len(doc.choices) > 1 else 0,
    )


def _golds(doc: _Doc) -> list[str]:
    """Return the choices that are right."""
    indices = doc.gold_index if isinstance(doc.gold_index, list) else [doc.gold_index]
    return [
        str(doc.choices[each]).strip()
        for each in indices
        if type(each) is int and -1 < each < len(doc.choices)
    ]


def _prompt(doc: _Doc, response: _Response) -> tuple[Turn, ...]:
    """Return the turns if the model was sent turns, else the problem."""
    sent = response.input if isinstance(response.input, list) else []
    turns = [each for each in sent if isinstance(each, dict) and "content" in each]
    if turns:
        return tuple(Turn(str(each.get("role")), str(each["content"])) for each in turns)
    return (Turn("user", doc.query),)


def _verdicts(
    metric: Mapping[str, Any], *, n: int, counts: Counter[str], metrics: Counter[str]
) -> tuple[Outcome | None, int | None]:
    """Return the outcome of every sample if that is known, and how many of them are right."""
    known = {name: x for name, x in metric.items() if isinstance(x, int | float) and 0 <= x <= 1}
    means = [name for name in known if _MEAN.match(name) and _of(name) in (None, n)]
    chosen = next(iter(means), next(iter(known), None) if n == 1 else None)
    if chosen is None:
        counts["unscored"] += 1
        return None, None
    metrics[chosen] += 1
    if n == 1:
        outcome, partial = score_outcome(known[chosen])
        counts["partial"] += partial
        return outcome, int(outcome == "correct")
    right = round(known[chosen] * n)
    if not math.isclose(right, known[chosen] * n, abs_tol=1e-3):
        counts["unscored"] += 1
        return None, None
    if right in (0, n):
        return ("correct" if right else "wrong"), right
    counts["shares"] += 1
    return None, right


def _of(metric: str) -> int | None:
    """Return the number of samples that a metric is a mean of, if its name says so."""
    found = _SIZE.search(metric)
    return int(found[1]) if found else None


def _sample(
    response: _Response, at: int, *, limit: int | None, inside: bool, outcome: Outcome | None
) -> ForeignSample:
    ids = response.output_tokens
    own = ids[at] if isinstance(ids, list | tuple) and at < len(ids) else None
    tokens = len(own) if isinstance(own, list) else None
    cut = tokens is not None and limit is not None and tokens >= limit
    reason: FinishReason = "length" if cut else "stop"
    reasoning = response.reasonings[at] if at < len(response.reasonings) else None
    return ForeignSample(
        text=response.text[at],
        reasoning=reasoning if isinstance(reasoning, str) and reasoning else None,
        starts_in_thought=inside,
        finish_reason=reason,
        tokens=tokens,
        outcome=outcome,
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
