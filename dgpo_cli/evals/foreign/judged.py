"""Logs of other programs as evaluations: by their own verdicts, or judged again by a checker."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.core.codec import filled
from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.core.formats import SAMPLE, SampleRecord
from dgpo_cli.core.types import Card, Evaluation, Verdict
from dgpo_cli.evals.card import checker_entry
from dgpo_cli.evals.eval_folder import EvalFolder
from dgpo_cli.evals.foreign.log import ForeignLog, ForeignProblem, ForeignSample
from dgpo_cli.evals.foreign.read import read_log
from dgpo_cli.evals.request import Flip, Logged, RegradeResult
from dgpo_cli.evals.samples import Sample, item_of, sample_of, verdict_of
from dgpo_cli.evals.tally import report_of
from dgpo_cli.rewards.grader import Grader
from dgpo_cli.rewards.protocol import CHECKER_VERSION
from dgpo_cli.rewards.reading.options import LETTERS, letter_of

Kind = Literal["integer", "math", "choice"]
_CHUNK = 256  # samples in memory at a time
_SHOWN = 10  # problems that a note lists
_INTEGER = re.compile(r"[+-]?\d{1,18}")
_ALWAYS_MISSING = ("weights", "tokenizer", "chat template", "token ids", "log-probabilities")
_SAMPLING = ("template", "system", "temperature", "top_p", "top_k", "max_completion_tokens", "seed")


def as_logged(path: Path) -> tuple[Evaluation, Card] | None:
    """Return a log by the verdicts that it has; None for another file.

    Raises:
        DataError: the log is broken, or has no verdict on some samples.
    """
    log = read_log(path)
    if log is None:
        return None
    card = card_of(log, checker={"kind": f"{log.program}: {log.scorer}"})
    samples = [each for problem in log.problems for each in _logged_samples(problem, k=log.k)]
    if missing := sum(each is None for each in samples):
        raise DataError(
            f"{path}: has no verdict on {missing} of {len(samples)} samples; judge them with dgpo "
            "regrade, and compare the folder that it writes"
        )
    known = [each for each in samples if each is not None]
    evaluation = _report(known, log, card=card)
    if all(each.verdict.extracted is None for each in known):
        evaluation = replace(evaluation, maj_at_k=math.nan)  # which answer is the majority's?
    return evaluation, card


def _logged_samples(problem: ForeignProblem, *, k: int) -> Iterator[Sample | None]:
    """Yield the first k samples with the log's verdicts, None where it has none.

    Where it says how many are right and not which, these come first: their number is what counts.
    """
    count = len(problem.samples)
    told = [each.outcome for each in problem.samples]
    if problem.right is not None and None in told and count == k:
        told = ["correct" if at < problem.right else "wrong" for at in range(count)]
    for at, outcome in enumerate(told[:k]):
        given = problem.samples[at]
        verdict = None if outcome is None else verdict_of(outcome, given.answer)
        yield None if verdict is None else _counted(problem, at, given, verdict)


def _counted(problem: ForeignProblem, at: int, given: ForeignSample, verdict: Verdict) -> Sample:
    return Sample(
        prompt_id=problem.id,
        index=at,
        tokens=given.tokens,
        fingerprint=hash((given.reasoning, given.text)),
        answer=problem.gold,
        verdict=verdict,
        checker="",
        second=None,
        starts_in_thought=given.starts_in_thought,
        logprob=None,
        prompt_tokens=given.prompt_tokens,
    )


def run(path: Path, *, out: Path | None, kind: Kind | None, observer: Observer) -> RegradeResult:
    """Judge the samples of a log; leave an evaluation's folder, with what the log does not say.

    out: None for evals/TASK-MODEL-CARD. kind: of the checker; None: as the answers are.

    Raises:
        ConfigError: the file is not a log, or `out` contains something else.
        DataError: the log is broken, or the checker cannot compare with its answers.
        RunFolderBusy: another process writes into `out`.
    """
    log = read_log(path)
    if log is None:
        raise ConfigError(f"{path}: neither a log of inspect_ai nor results of lighteval")
    for note in log.notes:
        tell(observer, f"{path}: {note}")
    resolved = _settings(log, kind or kind_of(log), path=path)
    card = card_of(log, checker=checker_entry(resolved.settings))
    folder = EvalFolder(out or _default_out(log, card))
    with folder.lock():
        folder.begin(card, settings=dump_toml(resolved), fresh=False)
        folder.samples.path.unlink(missing_ok=True)
        samples = _judge(log, folder, resolved, observer=observer)
        evaluation = _report(samples, log, card=card)
        folder.write_report(evaluation, card)
    surplus = sum(len(problem.samples) - log.k for problem in log.problems)
    if surplus:
        tell(
            observer,
            f"{path}: k = {log.k}, which every problem has; {surplus} more samples are stored and "
            "not counted",
        )
    for note in _changed_counts(log, samples):
        tell(observer, f"{path}: {note}")
    return RegradeResult(
        evaluation=evaluation,
        card=card,
        samples=len(samples),
        flips=tuple(_flips(log, samples)),
        out=folder.path,
        logged=Logged(program=log.program, version=log.version, scores=dict(log.scores)),
    )


def kind_of(log: ForeignLog) -> Kind:
    """Return the checker that the answers are for: whole numbers, letters of options, or others."""
    golds = [problem.gold for problem in log.problems]
    if all(_INTEGER.fullmatch(gold) for gold in golds):
        return "integer"
    return "choice" if all(letter_of(gold) for gold in golds) else "math"


def _settings(log: ForeignLog, kind: Kind, *, path: Path) -> Resolved:
    """Return the settings that judge the log; their sampling is not the log's.

    Raises:
        DataError: the checker cannot compare with an answer.
    """
    overrides = [f"reward.kind={kind}"]
    if kind == "choice":
        letters = [letter_of(problem.gold) for problem in log.problems]
        last = max((LETTERS.index(each) + 1 for each in letters if each), default=0)
        listed = max(problem.choices for problem in log.problems)
        overrides.append(f"reward.choices={max(last, listed or 4, 2)}")
    resolved = resolve(overrides=overrides)
    for problem in log.problems:
        if (fault := resolved.settings.reward.fault_for("", problem.gold)) is not None:
            reason = fault.partition(";")[0]
            raise DataError(
                f"{path}: the answer of problem {problem.id!r} {reason}; give another --kind than "
                f"{kind}"
            )
    return resolved


def card_of(log: ForeignLog, *, checker: dict[str, Any]) -> Card:
    """Return the card of a log: what it says, and the names of what it does not."""
    missing = [name for name in _SAMPLING if name not in log.sampling]
    sampling = {name: log.sampling.get(name) for name in _SAMPLING}
    top_p, top_k = sampling["top_p"], sampling["top_k"]
    return Card(
        protocol={
            "name": log.program,
            "changed": {},
            "unknown": missing,
            "bench": log.task,
            "dataset": log.dataset,
            "revision": None,
            "sha256": log.digest,
            "n_problems": len(log.problems),
            **sampling,
            "top_p": top_p if isinstance(top_p, int | float) and 0 < top_p <= 1 else None,
            "top_k": top_k if type(top_k) is int and top_k >= 0 else None,
            "stop": log.sampling.get("stop"),
            **{
                name: value
                for name, value in log.sampling.items()
                if name not in (*_SAMPLING, "stop")
            },
            "checker": checker,
        },
        subject={
            "model": log.model,
            "log": {"file": log.file, "sha256": log.sha256},
            "not_given": [*_ALWAYS_MISSING, *missing],
        },
        environment={
            "backend": log.program,
            "versions": {**log.packages, log.program: log.version},
        },
    )


def _default_out(log: ForeignLog, card: Card) -> Path:
    name = re.sub(r"[^\w.@-]+", "-", f"{log.task}-{log.model}").strip("-.")[:120]
    return Path("evals") / f"{name}-{card.key[:8]}"


def _report(samples: Sequence[Sample], log: ForeignLog, *, card: Card) -> Evaluation:
    return report_of(
        samples,
        card=card,
        k=log.k,
        ids=[problem.id for problem in log.problems],
        second_opinion=False,
        sampled_tokens=0,
        sampling_s=0.0,
    )


def _judge(
    log: ForeignLog, folder: EvalFolder, resolved: Resolved, *, observer: Observer
) -> list[Sample]:
    """Judge and store all samples, in rounds over the problems as evaluations have them."""
    most = max(len(problem.samples) for problem in log.problems)
    lines = (
        _line(log, problem, at)
        for at in range(most)
        for problem in log.problems
        if at < len(problem.samples)
    )
    samples: list[Sample] = []
    with Grader(resolved.settings.reward, observer=observer) as grader:
        while chunk := list(islice(lines, _CHUNK)):
            verdicts = grader.grade([item_of(line) for line in chunk])
            judged = [
                line | {"outcome": verdict.outcome, "extracted": verdict.extracted}
                for line, verdict in zip(chunk, verdicts, strict=True)
            ]
            folder.samples.append(judged)
            samples += map(sample_of, judged)
    return samples


def _line(log: ForeignLog, problem: ForeignProblem, at: int) -> dict[str, Any]:
    given = problem.samples[at]
    temperature = log.sampling.get("temperature")
    record = filled(
        SampleRecord,
        given,
        prompt_id=problem.id,
        index=at,
        messages=problem.messages,
        answer=problem.gold,
        completion=given.text,
        completion_tokens=given.tokens,
        temperature=temperature if isinstance(temperature, int | float) else None,
        outcome="wrong",
        extracted=None,
        checker=CHECKER_VERSION,
    )
    return SAMPLE.dump(record)


def _flips(log: ForeignLog, samples: Sequence[Sample]) -> Iterator[Flip]:
    """Yield the samples that are right for one and not for the other."""
    given = {
        (problem.id, at): each
        for problem in log.problems
        for at, each in enumerate(problem.samples)
    }
    for sample in samples:
        old, new = given[sample.key], sample.verdict
        if old.outcome is not None and (old.outcome == "correct") != (new.outcome == "correct"):
            yield Flip(
                prompt_id=sample.prompt_id,
                index=sample.index,
                answer=sample.answer,
                old=old.outcome,
                new=new.outcome,
                old_extracted=old.answer,
                new_extracted=new.extracted,
            )


def _changed_counts(log: ForeignLog, samples: Sequence[Sample]) -> Iterator[str]:
    """Yield problems of whose samples the log tells only how many are right, where that differs."""
    right: dict[str, int] = {}
    for sample in samples:
        right[sample.prompt_id] = right.get(sample.prompt_id, 0) + (
            sample.verdict.outcome == "correct"
        )
    other = [
        f"{problem.id}: {problem.right} -> {right[problem.id]} of {len(problem.samples)}"
        for problem in log.problems
        if problem.right is not None
        and any(each.outcome is None for each in problem.samples)
        and problem.right != right[problem.id]
    ]
    if other:
        more = f" and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
        yield f"other numbers of right samples: {', '.join(other[:_SHOWN])}{more}"
