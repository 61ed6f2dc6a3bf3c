"""Judges the stored samples of an evaluation again, with today's checker and without a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from dgpo_cli.config.load import resolve
from dgpo_cli.config.settings import Settings
from dgpo_cli.core.codec import Format, parsed
from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.core.resources import resource_dir
from dgpo_cli.core.schema import Count, Number, Text
from dgpo_cli.core.thinking import after_thinking, ends_in_thought
from dgpo_cli.core.types import Card, Verdict
from dgpo_cli.evals.card import checker_entry
from dgpo_cli.evals.eval_folder import EvalFolder
from dgpo_cli.evals.request import Flip, RegradeResult
from dgpo_cli.evals.samples import Sample, item_of, sample_of, verdict_fields, verdict_of
from dgpo_cli.evals.tally import report_of
from dgpo_cli.policy.fingerprint import model_folder
from dgpo_cli.policy.settings import EMBEDDED_TINY
from dgpo_cli.rewards.grader import GradeItem, Grader, check_judged, check_own
from dgpo_cli.rewards.protocol import CHECKER_VERSION
from dgpo_cli.runs.step_lines import named

_CHUNK = 256  # lines in memory at a time


@dataclass(frozen=True, slots=True)
class _StoredProblem:
    id: Text


@dataclass(frozen=True, slots=True)
class _StoredReport:
    """The fields that are read from the last report."""

    k: Annotated[Count, Field(ge=1)]
    cost: Number | None = None
    problems: tuple[_StoredProblem, ...] = ()


_REPORT = Format(_StoredReport)


def run(path: Path, *, observer: Observer) -> RegradeResult:
    """Give every sample in the folder `path` today's verdict; rewrite samples, card and report.

    Samples are replaced first, in one piece: repeat a regrade that was killed.

    Raises:
        ConfigError: the folder has no evaluation.
        DataError: its files are broken, or a problem has no sample yet.
        RunFolderBusy: an evaluation into the folder is running.
    """
    folder = EvalFolder(path)
    if not folder.samples.path.is_file():
        fault = f"no {folder.samples.path.name} in it" if path.exists() else "no such folder"
        raise ConfigError(f"{path}: {fault}; name the folder of an evaluation")
    with folder.lock():
        if folder.samples.mend():
            tell(
                observer, f"{folder.samples.path}: removed its last line, which was torn or damaged"
            )
        settings = resolve(config=folder.settings_file, run_code=False).settings
        card = _today(folder.read_card(), settings)
        samples, flips = _judge(
            folder,
            settings,
            in_thought=_open_prompts(folder, card, observer=observer),
            observer=observer,
        )
        folder.write_card(card)
        ids, k = _complete(samples, card=card, folder=folder)
        evaluation = report_of(
            samples,
            card=card,
            k=k,
            ids=ids,
            second_opinion=True,
            sampled_tokens=0,
            sampling_s=0.0,
        )
        last = _last_report(folder)
        if last is not None and last.k == k:  # the price is nowhere else
            evaluation = replace(evaluation, cost=last.cost)
        folder.write_report(evaluation, card)
    return RegradeResult(evaluation=evaluation, card=card, samples=len(samples), flips=tuple(flips))


def _open_prompts(folder: EvalFolder, card: Card, *, observer: Observer) -> bool:
    """Return whether the prompts leave a thought open, for samples that do not record it.

    The card has the last ids of one prompt; the chat template ends all prompts alike.
    """
    lines = folder.samples.lines(changed=set())
    if all("starts_in_thought" in line for line in lines):
        return False
    from tokenizers import Tokenizer

    model = str(card.subject.get("model"))
    path = str(resource_dir("data") / "tiny") if model == EMBEDDED_TINY else model
    try:
        file = model_folder(path, revision=card.subject.get("revision")) / "tokenizer.json"
        ids = card.subject["prompt_ids"]["last"]
        end = Tokenizer.from_file(str(file)).decode(ids, skip_special_tokens=False)
    except Exception:  # the model is gone; the tokenizers library raises nothing finer
        tell(
            observer,
            f"{folder.path}: its samples do not record whether the prompts leave a thought open, "
            f"and the tokenizer of {model} is not on this machine; they are judged as if none did",
        )
        return False
    return ends_in_thought(end)


def _judge(
    folder: EvalFolder,
    settings: Settings,
    *,
    in_thought: bool,
    observer: Observer,
) -> tuple[list[Sample], list[Flip]]:
    """Judge every line again and store what changed; return all samples, and the flips.

    in_thought: for lines that do not record whether they begin inside a thought.
    """
    samples: list[Sample] = []
    flips: list[Flip] = []
    tails: dict[int, dict[str, Any]] = {}
    changed: set[int] = set()
    reward = settings.reward.judge()
    for name, signature in check_own(reward, observer=observer).items():
        if signature["columns"] is None or signature["columns"]:
            raise DataError(
                f"{folder.samples.path}: the reward {name} reads columns of the data, which stored "
                "samples do not have; judge new samples with dgpo eval --fresh"
            )
    with Grader(reward, observer=observer) as grader:
        stored = folder.samples.lines(changed=changed)
        while lines := list(islice(stored, _CHUNK)):
            for number, line in enumerate(lines, start=len(samples) + 1):
                if (fault := reward.fault_for("", line["answer"])) is not None:
                    raise DataError(f"{folder.samples.path}:{number}: its answer {fault}")
            items = [item_of(line, starts_in_thought=in_thought) for line in lines]
            verdicts = grader.grade(items)
            check_judged(verdicts)
            for line, item, verdict in zip(lines, items, verdicts, strict=True):
                old = sample_of(line)
                new = _judged(old, item, verdict)
                if new != old or len(samples) + 1 in changed:
                    tails[len(samples)] = verdict_fields(
                        new.verdict,
                        checker=new.checker,
                        second=new.second,
                        starts_in_thought=new.starts_in_thought,
                    )
                if verdict.outcome != old.verdict.outcome:
                    flips.append(_flip(old, new))
                samples.append(new)
    if changed:
        tell(
            observer,
            f"{folder.samples.path}: {len(changed)} of its lines were changed since they were "
            f"written and are judged as they are now: {named(sorted(changed))}",
        )
    folder.samples.judge_again(tails)
    return samples, flips


def _judged(old: Sample, item: GradeItem, verdict: Verdict) -> Sample:
    """Return a sample with today's verdict; an open thought gets no second opinion."""
    thinks = item.starts_in_thought and after_thinking(item.judged) is None
    return replace(
        old,
        verdict=verdict_of(verdict.outcome, verdict.extracted),
        checker=CHECKER_VERSION,
        second=verdict.outcome if thinks and old.second is not None else old.second,
        starts_in_thought=item.starts_in_thought,
    )


def _flip(old: Sample, new: Sample) -> Flip:
    return Flip(
        prompt_id=old.prompt_id,
        index=old.index,
        answer=old.answer,
        old=old.verdict.outcome,
        new=new.verdict.outcome,
        old_extracted=old.verdict.extracted,
        new_extracted=new.verdict.extracted,
    )


def _today(card: Card, settings: Settings) -> Card:
    """Return the card with today's checker; sampling is unchanged."""
    return replace(card, protocol={**card.protocol, "checker": checker_entry(settings)})


def _complete(samples: list[Sample], *, card: Card, folder: EvalFolder) -> tuple[list[str], int]:
    """Return the problems in the benchmark's order, and the k of the report: that of the last
    report, or the number of samples that every problem has."""
    there = {sample.key for sample in samples}
    ids = list(dict.fromkeys(sample.prompt_id for sample in samples if sample.index == 0))
    k = 0
    while ids and all((name, k) in there for name in ids):
        k += 1
    if len(ids) < int(card.protocol["n_problems"]) or k == 0:
        raise DataError(
            f"{folder.path}: not every problem has a sample yet; finish it with dgpo eval first "
            "(the stored samples have today's verdicts now)"
        )
    last = _last_report(folder)
    in_order = [] if last is None else [problem.id for problem in last.problems]
    if set(in_order) == set(ids):  # an endpoint's samples are stored as they came
        ids = in_order
    return ids, k if last is None else min(k, last.k)


def _last_report(folder: EvalFolder) -> _StoredReport | None:
    file = folder.report_file
    try:
        return _REPORT.read(parsed(file.read_bytes(), where=str(file)), where=str(file))
    except (OSError, DataError):
        return None
