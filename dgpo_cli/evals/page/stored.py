"""Reads evaluations for `dgpo view`, as far as they go. Needs no model, no lock and no torch.

An evaluation may be in progress, killed, damaged or of an earlier version: what cannot be read is
left out with a note. An error is only a path without an evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgpo_cli.core.codec import parsed
from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.events import Observer, phase
from dgpo_cli.core.formats import joined_content
from dgpo_cli.core.io import read_bytes
from dgpo_cli.core.numbers import counted
from dgpo_cli.core.thinking import after_thinking
from dgpo_cli.core.types import Card, Evaluation, Outcome
from dgpo_cli.evals.eval_folder import EvalFolder
from dgpo_cli.evals.samples import Sample, item_of, sample_of
from dgpo_cli.evals.tally import is_disputed, report_of
from dgpo_cli.evals.views.evaluation_json import from_json
from dgpo_cli.runs.run_folder import RunFolder, names_of
from dgpo_cli.runs.step_lines import lines_named

EVALS = Path("evals")
MOST = 100_000  # samples of a problem: a larger number is a damaged one


@dataclass(frozen=True, slots=True)
class StoredSample:
    """A sample; one that only report.json knows has no text.

    answer_at: where the text after its thought begins; its length if the thought never ends.
    disputed: the two opinions differ on whether it is correct.
    """

    outcome: Outcome
    tokens: int | None
    text: str | None = None
    answer_at: int = 0
    reasoning: str | None = None
    extracted: str | None = None
    finish: str | None = None
    second: Outcome | None = None
    disputed: bool = False


@dataclass(slots=True)
class StoredProblem:
    """A problem with the samples that are stored, by number."""

    id: str
    answer: str
    messages: tuple[tuple[str, str], ...] = ()
    samples: dict[int, StoredSample] = field(default_factory=dict)

    @property
    def correct(self) -> int:
        return sum(sample.outcome == "correct" for sample in self.samples.values())


@dataclass(frozen=True, slots=True)
class StoredEvaluation:
    """An evaluation as far as it goes.

    wanted: the number of problems of its benchmark. scores: those of report.json, or over the
    rounds that every problem has; None if some have no sample yet. in_order: the problems are in
    the order of the benchmark, which only a finished evaluation tells.
    """

    name: str
    path: Path
    bench: str
    wanted: int
    problems: tuple[StoredProblem, ...]
    scores: Evaluation | None
    notes: tuple[str, ...]
    in_order: bool


def run(paths: Sequence[Path], *, observer: Observer) -> tuple[StoredEvaluation, ...]:
    """Read evaluations, or the newest under ./evals. A run stands for those of its training.

    Raises:
        ConfigError: a path has no evaluation, or is given twice.
    """
    folders = [folder for path in paths or [_newest()] for folder in _expanded(path)]
    places = [folder.resolve() for folder in folders]
    for at, folder in enumerate(folders):
        if places[at] in places[:at]:
            raise ConfigError(f"{folder}: given twice; name different evaluations")
    found = []
    with phase(observer, "reading", total=len(folders), unit="evaluations") as advance:
        for folder, name in zip(folders, names_of(folders), strict=True):
            found.append(_Reader(folder, name).read())
            advance(1)
    return tuple(found)


def _newest() -> Path:
    files = [*EVALS.glob("*/samples.jsonl"), *EVALS.glob("*/report.json")]
    newest = max(files, key=lambda file: file.stat().st_mtime, default=None)
    if newest is None:
        raise ConfigError(
            "no evaluation under ./evals; name a folder, or evaluate a model with dgpo eval"
        )
    return newest.parent


def _expanded(path: Path) -> Iterator[Path]:
    """Yield the folder of an evaluation, or those of a training run."""
    if path.name == "report.json" and path.is_file():
        path = path.parent
    if not path.is_dir():
        if path.exists():
            raise ConfigError(
                f"{path}: is a file; name the folder of an evaluation (dgpo regrade makes one of a "
                "log of another program)"
            )
        raise ConfigError(f"{path}: no such folder; name the folder of an evaluation")
    inside = [path] if _is_evaluation(path) else _of_run(path)
    if not inside:
        raise ConfigError(
            f"{path}: has neither samples.jsonl nor report.json; name the folder of an evaluation, "
            "or a run with evaluations"
        )
    yield from inside


def _of_run(path: Path) -> list[Path]:
    return list(filter(_is_evaluation, sorted(RunFolder(path).evals_dir.glob("step-*"))))


def _is_evaluation(path: Path) -> bool:
    return any((path / name).is_file() for name in ("samples.jsonl", "report.json"))


class _Reader:
    """Reads one folder."""

    def __init__(self, path: Path, name: str) -> None:
        self._folder = EvalFolder(path)
        self._name = name
        self._notes: list[str] = []
        self._problems: dict[str, StoredProblem] = {}
        self._samples: list[Sample] = []

    def read(self) -> StoredEvaluation:
        report = self._report()
        card = self._card()
        if report is not None:
            self._take_report(report)
        self._take_samples()
        wanted = int(card.protocol["n_problems"]) if card is not None else 0
        wanted = max(wanted, report.n_problems if report is not None else 0, len(self._problems))
        scores = self._scores(report, card=card, wanted=wanted)
        return StoredEvaluation(
            name=self._name,
            path=self._folder.path,
            bench=_bench(report, card) or "unknown benchmark",
            wanted=wanted,
            problems=tuple(self._problems.values()),
            scores=scores,
            notes=tuple(self._notes),
            in_order=report is not None,
        )

    def _report(self) -> Evaluation | None:
        file = self._folder.report_file
        if not file.is_file():
            return None
        try:
            return from_json(parsed(read_bytes(file), where=file.name), where=file.name)[0]
        except DataError as error:
            self._notes.append(f"left out: {error}")
            return None

    def _card(self) -> Card | None:
        try:
            return self._folder.read_card()
        except DataError:
            self._notes.append("card.json is missing or cannot be read")
            return None

    def _take_report(self, report: Evaluation) -> None:
        for each in report.problems:
            own = StoredProblem(each.id, each.answer or "")
            for index, pair in enumerate(zip(each.outcomes, each.lengths, strict=True)):
                own.samples[index] = StoredSample(*pair)
            self._problems[each.id] = own

    def _take_samples(self) -> None:
        file = self._folder.samples
        if not file.path.is_file():
            self._notes.append("no samples.jsonl: outcomes and lengths are those of report.json")
            return
        broken: set[int] = set()
        changed: set[int] = set()
        far = 0
        for line in file.lines(changed=changed, broken=broken):
            if line["index"] >= MOST:
                far += 1
                continue
            own = self._problems.setdefault(
                line["prompt_id"], StoredProblem(line["prompt_id"], line["answer"])
            )
            own.answer = line["answer"]
            turns = line.get("messages", ())
            own.messages = tuple(
                (turn["role"], joined_content(turn.get("content"))) for turn in turns
            )
            own.samples[line["index"]] = _sample(line)
            self._samples.append(sample_of(line))
        if far:
            self._notes.append(
                f"{file.path.name}: {counted(far, 'sample')} beyond {MOST:,} left out"
            )
        for numbers, what in ((broken, "cannot be read"), (changed, "changed since written")):
            if numbers:
                self._notes.append(f"{file.path.name}: {lines_named(sorted(numbers))} {what}")

    def _scores(
        self, report: Evaluation | None, *, card: Card | None, wanted: int
    ) -> Evaluation | None:
        """Return the scores of the report, or of later rounds that all problems have."""
        there = {sample.key for sample in self._samples}
        ids = list(dict.fromkeys(sample.prompt_id for sample in self._samples))
        rounds = 0
        while len(ids) == wanted and all((name, rounds) in there for name in ids):
            rounds += 1
        more = sum(key[1] >= max(rounds, report.k if report is not None else 0) for key in there)
        if more:
            of = f"{len(ids)} of {counted(wanted, 'problem')}"
            self._notes.append(f"unfinished: {counted(len(there), 'sample')}, of {of}")
        if report is not None and report.k >= rounds:
            return report
        if not rounds or card is None:
            return None
        return report_of(
            self._samples,
            card=card,
            k=rounds,
            ids=ids,
            second_opinion=False,
            sampled_tokens=0,
            sampling_s=0.0,
        )


def _bench(report: Evaluation | None, card: Card | None) -> str | None:
    if report is not None:
        return report.bench
    return None if card is None else str(card.protocol["bench"])


def _sample(line: dict[str, Any]) -> StoredSample:
    item, found = item_of(line), sample_of(line)
    at = after_thinking(item.judged)
    opened = len(item.judged) - len(item.text)  # the mark that the prompt has
    return StoredSample(
        outcome=found.verdict.outcome,
        tokens=found.tokens,
        text=item.text,
        answer_at=len(item.text) if at is None else max(0, at - opened),
        reasoning=line.get("reasoning"),
        extracted=line.get("extracted"),
        finish=line.get("finish") or line["finish_reason"],
        second=line.get("second"),
        disputed=is_disputed(found),
    )
