"""Logs of inspect_ai: `.eval`, a zip file of JSON, or one `.json`.

Source: src/inspect_ai/log/_log.py, log/_recorders/eval.py and log/_recorders/chunked/format.py of
UKGovernmentBEIS/inspect_ai at 499e6152, log format versions 1 and 2.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgpo_cli.core.codec import Format
from dgpo_cli.core.errors import DataError
from dgpo_cli.core.formats import Turn
from dgpo_cli.core.schema import Count, Object, Text
from dgpo_cli.core.types import FinishReason, Outcome
from dgpo_cli.evals.foreign.archive import Archive
from dgpo_cli.evals.foreign.log import ForeignLog, ForeignProblem, ForeignSample, score_outcome

VERSIONS = (1, 2)
_SAMPLE = re.compile(r"samples/(?:[^/]+\.json|.+/sample\.json)")
_CHUNK = re.compile(r"/(\d+)\.json$")
_REFERENCES = ("attachment://", "tc://")
# A score's letter; "N" is no answer, "P" is partial credit.
_LETTERS: dict[str, float] = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
_WORDS: dict[str, float] = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
_LENGTH = ("max_tokens", "model_length", "length")
_STOP = ("stop", None)
# Names of the generation settings here and there.
_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_completion_tokens": "max_tokens",
    "stop": "stop_seqs",
    "seed": "seed",
    "reasoning_effort": "reasoning_effort",
}


@dataclass(frozen=True, slots=True)
class _Dataset:
    name: Text | None = None
    location: Text | None = None


@dataclass(frozen=True, slots=True)
class _Eval:
    task: Text
    model: Text
    dataset: _Dataset = field(default_factory=_Dataset)
    packages: dict[str, Text] = field(default_factory=dict)
    model_generate_config: Object = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Step:
    solver: Text = ""
    params: Object = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Plan:
    steps: tuple[_Step, ...] = ()
    config: Object = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Scored:
    name: Text
    metrics: dict[str, Object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Results:
    scores: tuple[_Scored, ...] = ()


@dataclass(frozen=True, slots=True)
class _Header:
    version: Count
    eval: _Eval
    status: Text = ""
    plan: _Plan = field(default_factory=_Plan)
    results: _Results = field(default_factory=_Results)


@dataclass(frozen=True, slots=True)
class _Output:
    choices: tuple[Object, ...] = ()
    completion: Text | None = None
    usage: Object | None = None


@dataclass(frozen=True, slots=True)
class _Sample:
    """input, target, error, limit: of several forms."""

    id: Any
    epoch: Count
    target: Any
    input: Any = None
    choices: tuple[Any, ...] = ()
    messages: tuple[Object, ...] = ()
    output: _Output = field(default_factory=_Output)
    scores: dict[str, Object] = field(default_factory=dict)
    score: Object | None = None
    error: Any = None
    limit: Any = None
    attachments: dict[str, Text] = field(default_factory=dict)


_HEADER, _SAMPLES = Format(_Header), Format(_Sample)
_Resolve = Callable[[str], str]


def read_zip(path: Path) -> ForeignLog:
    """Read a log in a zip file.

    Raises:
        DataError: it is damaged, too large, of another version, or has no samples.
    """
    with Archive(path) as archive:
        names = archive.names
        name = "header.json" if "header.json" in names else "_journal/start.json"
        header = _header(archive.json(name), where=f"{path}:{name}")
        samples = (
            _sample_of(archive, each, path=path) for each in names if _SAMPLE.fullmatch(each)
        )
        return _log(header, samples, path=path)


def read_json(data: Mapping[str, Any], *, path: Path) -> ForeignLog:
    """Read a log that is one JSON object.

    Raises:
        DataError: it is of another version, a field is missing or wrong, or it has no samples.
    """
    header, listed = _header(data, where=str(path)), data.get("samples") or []
    if not isinstance(listed, list):
        raise DataError(f"{path}: samples is not a list")
    samples = (
        _SAMPLES.read(each, where=f"{path}: samples[{at}]") for at, each in enumerate(listed)
    )
    return _log(header, samples, path=path)


def _header(data: Any, *, where: str) -> _Header:
    version = data.get("version") if isinstance(data, dict) else None
    if version is not None and version not in VERSIONS:
        raise DataError(
            f"{where}: version {version!r} of inspect_ai's log; this dgpo reads "
            f"{' and '.join(map(str, VERSIONS))}"
        )
    return _HEADER.read(data, where=where)


def _sample_of(archive: Archive, name: str, *, path: Path) -> _Sample:
    """Return a sample: one entry, or a folder with its messages and attachments in chunks."""
    data = archive.json(name)
    if not name.endswith("/sample.json") or not isinstance(data, dict):
        return _SAMPLES.read(data, where=f"{path}:{name}")
    folder = name.removesuffix("/sample.json")
    messages = _sequence(archive, f"{folder}/messages/")
    attachments = _sequence(archive, f"{folder}/attachments/")
    references = data.get("message_refs")
    chosen = [
        messages[at]
        for pair in (references if isinstance(references, list) else ())
        if isinstance(pair, list) and len(pair) == 2 and all(type(end) is int for end in pair)
        for at in range(max(0, pair[0]), min(pair[1], len(messages)))
    ]
    whole = {
        **data,
        "messages": chosen,
        "attachments": {str(at): text for at, text in enumerate(attachments)},
    }
    return _SAMPLES.read(whole, where=f"{path}:{name}")


def _sequence(archive: Archive, prefix: str) -> list[Any]:
    """Return the items of a sequence, whose chunks are named by their first index."""
    chunks = {
        int(found[1]): name
        for name in archive.names
        if name.startswith(prefix) and (found := _CHUNK.search(name))
    }
    items: list[Any] = []
    for _, name in sorted(chunks.items()):
        chunk = archive.json(name)
        items += chunk if isinstance(chunk, list) else []
    return items


def _log(header: _Header, samples: Iterator[_Sample], *, path: Path) -> ForeignLog:
    scorer = header.results.scores[0].name if header.results.scores else None
    kept: dict[str, dict[int, _Sample]] = defaultdict(dict)
    lost, others = 0, Counter[str]()
    for sample in samples:
        scorer = scorer or next(iter(sample.scores), None)
        others.update(sample.scores.keys() - {scorer})
        if _has_output(sample):
            kept[str(sample.id)][sample.epoch] = sample  # the last of one epoch, as theirs
        else:
            lost += 1
    if not kept:
        raise DataError(f"{path}: has no samples with an output")
    counts: Counter[str] = Counter(lost=lost)
    problems = tuple(
        _problem(name, [own[epoch] for epoch in sorted(own)], scorer=scorer, counts=counts)
        for name, own in sorted(kept.items(), key=_in_order)
    )
    return ForeignLog(
        program="inspect_ai",
        version=header.eval.packages.get("inspect_ai"),
        task=header.eval.task,
        model=header.eval.model,
        scorer=scorer,
        problems=problems,
        file=path.name,
        sha256=_digest(path),
        dataset=header.eval.dataset.location or header.eval.dataset.name,
        sampling=_sampling(header),
        scores=_scores(header),
        packages=header.eval.packages,
        notes=tuple(_notes(header, counts, others=others, scorer=scorer)),
    )


def _in_order(item: tuple[str, object]) -> tuple[bool, int, str]:
    """Sort numbers as numbers, before other ids."""
    name = item[0]
    number = name.isascii() and name.isdigit() and len(name) < 20
    return not number, int(name) if number else 0, name


def _notes(
    header: _Header, counts: Counter[str], *, others: Counter[str], scorer: str | None
) -> Iterator[str]:
    if header.status not in ("success", ""):
        yield f"its status is {header.status!r}: it may be incomplete"
    if counts["lost"]:
        yield f"{counts['lost']} samples have no output (they failed) and are left out"
    if counts["several"]:
        yield f"{counts['several']} problems accept several answers; the first of each counts"
    if counts["partial"]:
        yield f"{counts['partial']} samples have partial credit, which counts as wrong"
    if counts["unscored"]:
        yield f"{counts['unscored']} samples have no verdict of {scorer or 'a scorer'}"
    if others:
        yield f"its verdicts are those of {scorer}; it also has {', '.join(sorted(others))}"


def _has_output(sample: _Sample) -> bool:
    return bool(sample.output.choices or sample.output.completion)


def _problem(
    name: str, samples: list[_Sample], *, scorer: str | None, counts: Counter[str]
) -> ForeignProblem:
    first = samples[0]
    targets = first.target if isinstance(first.target, list) else [first.target]
    counts["several"] += len(targets) > 1
    return ForeignProblem(
        id=name,
        messages=_prompt(first),
        gold=str(targets[0] if targets else "").strip(),
        samples=tuple(_sample(each, scorer=scorer, counts=counts) for each in samples),
        choices=len(first.choices),
    )


def _prompt(sample: _Sample) -> tuple[Turn, ...]:
    """Return the turns before the last answer."""
    resolve = _resolver(sample)
    turns = [
        Turn(str(each.get("role")), _content(each.get("content"), resolve)[0])
        for each in sample.messages
    ]
    answers = [at for at, turn in enumerate(turns) if turn.role == "assistant"]
    turns = turns[: answers[-1]] if answers else turns
    if turns:
        return tuple(turns)
    given = sample.input if isinstance(sample.input, list) else []
    listed = [each for each in given if isinstance(each, dict)]
    if listed:
        return tuple(
            Turn(str(each.get("role")), _content(each.get("content"), resolve)[0])
            for each in listed
        )
    return (Turn("user", resolve(str(sample.input or ""))),)


def _resolver(sample: _Sample) -> _Resolve:
    def resolve(text: str) -> str:
        for mark in _REFERENCES:
            if text.startswith(mark):
                return sample.attachments.get(text.removeprefix(mark), text)
        return text

    return resolve


def _content(content: Any, resolve: _Resolve) -> tuple[str, str | None]:
    """Return the text of a message, and its reasoning if that has parts of its own."""
    if isinstance(content, str):
        return resolve(content), None
    parts = (
        [each for each in content if isinstance(each, dict)] if isinstance(content, list) else []
    )
    texts = [str(each.get("text") or "") for each in parts if each.get("type") == "text"]
    thoughts = [
        str((each.get("summary") if each.get("redacted") else each.get("reasoning")) or "")
        for each in parts
        if each.get("type") == "reasoning"
    ]
    reasoning = "\n".join(map(resolve, thoughts)) if thoughts else None
    return "\n".join(map(resolve, texts)), reasoning


def _sample(sample: _Sample, *, scorer: str | None, counts: Counter[str]) -> ForeignSample:
    resolve = _resolver(sample)
    choice = sample.output.choices[0] if sample.output.choices else {}
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    text, reasoning = _content(message.get("content"), resolve)
    if not text and not choice:
        text = resolve(sample.output.completion or "")
    reason, word = _finish(sample, choice)
    outcome, answer, partial = _verdict(sample, scorer)
    counts["partial"] += partial
    counts["unscored"] += outcome is None
    own = message.get("reasoning")  # of messages before there were parts
    usage = sample.output.usage or {}
    cached = (usage.get(f"input_tokens_cache_{kind}") or 0 for kind in ("read", "write"))
    prompt = _count(usage.get("input_tokens"))
    return ForeignSample(
        text=text,
        reasoning=reasoning or (resolve(own) if isinstance(own, str) else None),
        finish_reason=reason,
        finish=word,
        tokens=_count(usage.get("output_tokens")),
        prompt_tokens=None if prompt is None else prompt + sum(filter(_count, cached)),
        outcome=outcome,
        answer=answer,
    )


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _finish(sample: _Sample, choice: Mapping[str, Any]) -> tuple[FinishReason, str | None]:
    """Return how a sample ended, and the log's word if it is neither stop nor length."""
    limit = sample.limit.get("type") if isinstance(sample.limit, dict) else sample.limit
    if limit is not None:
        return ("length" if limit in ("token", "context") else "stop"), f"{limit} limit"
    reason = choice.get("stop_reason")
    if reason in _LENGTH:
        return "length", None
    return "stop", None if reason in _STOP else str(reason)


def _verdict(sample: _Sample, scorer: str | None) -> tuple[Outcome | None, str | None, bool]:
    """Return the outcome and answer that the log has, and whether the credit is partial."""
    score = sample.scores.get(scorer or "") or sample.score
    if score is None:
        return None, None, False
    value, answer = score.get("value"), score.get("answer")
    answer = answer if isinstance(answer, str) else None
    if value == "N":
        return "no_answer", answer, False
    if isinstance(value, str):
        value = _LETTERS.get(value, _WORDS.get(value.lower(), _number(value)))
    outcome, partial = score_outcome(value)
    return outcome, answer, partial


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _sampling(header: _Header) -> dict[str, Any]:
    """Return what the log says of sampling and prompt, by our names."""
    config = {
        **{
            name: value
            for name, value in header.eval.model_generate_config.items()
            if value is not None
        },
        **{name: value for name, value in header.plan.config.items() if value is not None},
    }
    found: dict[str, Any] = {
        ours: config[theirs] for ours, theirs in _SAMPLING.items() if theirs in config
    }
    if isinstance(config.get("system_message"), str):
        found["system"] = config["system_message"]
    for step in header.plan.steps:
        template = step.params.get("template")
        if isinstance(template, str):
            found["system" if "system" in step.solver else "template"] = template
    return found


def _scores(header: _Header) -> dict[str, float]:
    """Return the metrics that the log reports."""
    return {
        f"{scored.name} {name}": float(metric["value"])
        for scored in header.results.scores
        for name, metric in scored.metrics.items()
        if isinstance(metric.get("value"), int | float)
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
