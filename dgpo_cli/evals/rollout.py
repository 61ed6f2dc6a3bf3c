"""Samples and scores completions of a benchmark or a file, and writes them."""

from __future__ import annotations

import errno
import math
import os
import statistics
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dgpo_cli.config.load import Resolved
from dgpo_cli.config.settings import Settings
from dgpo_cli.core.errors import DataError, cannot_write
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.core.formats import Position
from dgpo_cli.core.types import Prompt, ScoredGroup
from dgpo_cli.engine.engine import Engine
from dgpo_cli.engine.setup import completion_seeds, sampling_engine
from dgpo_cli.prompts.benchmarks import load_benchmark
from dgpo_cli.prompts.catalog import find
from dgpo_cli.prompts.datasets import PromptStream, open_prompts
from dgpo_cli.prompts.settings import FilePrompts, HubPrompts, PromptSettings, RowFields
from dgpo_cli.prompts.templates import begun
from dgpo_cli.rewards.grader import check_answers, check_columns, check_own
from dgpo_cli.runs.rollouts import rollout_lines, write_lines


@dataclass(frozen=True, slots=True)
class RolloutResult:
    """The written rollouts; outcomes are shares that add up to 1.

    terms: the mean of each term of the reward where it applies. failure: the most frequent note of
        unscored completions, "" if none is.
    """

    out: Path
    completions: int
    mean_reward: float
    outcomes: dict[str, float]
    terms: dict[str, float]
    failure: str


def run(
    resolved: Resolved,
    *,
    source: str | None,
    out: Path,
    limit: int | None,
    adapter: Path | None,
    observer: Observer,
) -> RolloutResult:
    """Sample `rollout.group_size` completions of each prompt of `source`; write them to `out`.

    Args:
        source: name of a benchmark, or a file of problems; None: as a run's first step draws them.
        limit: only the first prompts.
        adapter: folder of a saved adapter to sample with.
    """
    settings = resolved.settings
    told = check_own(settings.reward, observer=observer)
    if source is None:
        prompts = _drawn(settings, count=limit, observer=observer)
    else:
        prompts = read_source(resolved, source=source, observer=observer)[:limit]
    check_answers(prompts, reward=settings.reward)
    check_columns(prompts, told=told)
    _check_writable(out)
    with sampling_engine(settings, adapter=adapter, observer=observer) as engine:
        prompts = fitting(engine, prompts, observer=observer)
        seeds = completion_seeds(
            settings.seed,
            scope="rollout",
            ids=[prompt.id for prompt in prompts],
            count=settings.rollout.group_size,
        )
        groups = engine.score(engine.sample(prompts, seeds=seeds))
    write_lines(out, rollout_lines(groups, temperature=settings.rollout.temperature))
    return _result(groups, out=out)


def _check_writable(out: Path) -> None:
    """Create the folder of `out` and try it, before time is spent on sampling.

    Raises:
        ConfigError: `out` cannot be written.
        DgpoError: the disk is full.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        fix = "; name a file that you can write to"
        raise cannot_write(error, what=f"--out {out}", fix=fix) from error


def _drawn(settings: Settings, *, count: int | None, observer: Observer) -> tuple[Prompt, ...]:
    """Return the first prompts that a run of these settings draws; None: those of a step."""
    stream = _opened(settings, prompts=settings.prompts, observer=observer)
    for note in stream.notes:
        tell(observer, note)
    count = settings.rollout.prompts_per_step if count is None else count
    there = stream.prompts
    return tuple(stream.take(Position(), count=count if there is None else min(count, len(there))))


def _opened(settings: Settings, *, prompts: PromptSettings, observer: Observer) -> PromptStream:
    return open_prompts(
        prompts,
        seed=settings.seed,
        columns=settings.reward.wants_columns,
        answered=settings.reward.needs_answer,
        observer=observer,
    )


def read_source(resolved: Resolved, *, source: str, observer: Observer) -> tuple[Prompt, ...]:
    """Return the prompts of a benchmark or file, under the settings' template."""
    prompts = resolved.settings.prompts
    columns = prompts if isinstance(prompts, FilePrompts | HubPrompts) else FilePrompts(path=source)
    if resolved.settings.reward.wants_columns and find(source) is None:
        own = {name: getattr(columns, name) for name in RowFields.model_fields}
        stream = _opened(
            resolved.settings, prompts=FilePrompts(path=source, **own), observer=observer
        )
        for note in stream.notes:
            tell(observer, note)
        return stream.prompts or ()
    benchmark = load_benchmark(
        source,
        template=prompts.template,
        system=prompts.system,
        problem_column=columns.problem_column,
        answer_column=columns.answer_column,
        integers=resolved.settings.reward.kind == "integer",
        seed=resolved.settings.seed,
    )
    for note in benchmark.notes:
        tell(observer, note)
    return tuple(begun(prompt, prefix=prompts.assistant_prefix) for prompt in benchmark.prompts)


def fitting(
    engine: Engine, prompts: tuple[Prompt, ...], *, observer: Observer
) -> tuple[Prompt, ...]:
    """Leave out prompts that are too long, and report how many.

    Raises:
        DataError: none is left.
    """
    limit = engine.settings.prompts.max_prompt_tokens
    kept = tuple(prompt for prompt in prompts if engine.prompt_length(prompt) <= limit)
    if not kept:
        raise DataError(f"no prompt has at most prompts.max_prompt_tokens={limit} tokens; raise it")
    if len(kept) < len(prompts):
        left_out = len(prompts) - len(kept)
        tell(
            observer,
            f"{left_out} prompts are longer than prompts.max_prompt_tokens={limit}: left out",
        )
    return kept


def _result(groups: list[ScoredGroup], *, out: Path) -> RolloutResult:
    verdicts = [verdict for group in groups for verdict in group.verdicts]
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    rewards = [verdict.reward for verdict in verdicts if verdict.is_scored]
    terms: dict[str, list[float]] = {}
    for name, value in (pair for verdict in verdicts for pair in verdict.terms):
        terms.setdefault(name, []).extend([] if math.isnan(value) else [value])
    notes = Counter(
        verdict.note or verdict.outcome for verdict in verdicts if not verdict.is_scored
    )
    return RolloutResult(
        out=out,
        completions=len(verdicts),
        mean_reward=statistics.fmean(rewards) if rewards else math.nan,
        outcomes={name: count / len(verdicts) for name, count in sorted(outcomes.items())},
        terms={name: statistics.fmean(each) for name, each in terms.items() if each},
        failure=next((note for note, _ in notes.most_common(1)), ""),
    )
