"""Estimates the values of the completions that an inspection shows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dgpo_cli.config.checks import check_built
from dgpo_cli.config.settings import Settings
from dgpo_cli.core.errors import ConfigError, DataError, Interrupted
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.core.formats import VALUES
from dgpo_cli.core.types import (
    Completion,
    Group,
    Prompt,
    ScoredGroup,
    ValueCurve,
    ValueSource,
    Verdict,
)
from dgpo_cli.inspect.request import Models, Values
from dgpo_cli.inspect.rollout_file import Entry, RolloutFile
from dgpo_cli.inspect.values.policy import ValuePolicy, run_of, value_policy
from dgpo_cli.policy.fingerprint import text_fingerprint
from dgpo_cli.prompts.settings import PlayedPrompts
from dgpo_cli.rewards.grader import Grader, check_answers, check_own
from dgpo_cli.rewards.played import EnvironmentReward
from dgpo_cli.runs.rollouts import RolloutLine
from dgpo_cli.samplers.settings import HfBackend

if TYPE_CHECKING:
    from dgpo_cli.engine.sampling import SamplingEngine
    from dgpo_cli.engine.values.store import ValueStore
    from dgpo_cli.samplers.base import Row, Sampler, SamplingParams


def estimated_values(
    file: RolloutFile,
    entries: Sequence[Entry],
    *,
    asked: Values,
    models: Models,
    observer: Observer,
) -> tuple[list[ValueCurve | None], ValueSource]:
    """Return the values of entries of a file, None for those without a reward, and their source.

    What is estimated is kept beside the file as it comes, and is not sampled again.

    Raises:
        ConfigError: nothing says which policy, or how answers are judged; or the completions have
            several turns.
        DataError: a line lacks what is needed.
        BackendError: the sampler failed.
    """
    groups, rows = _groups(file, entries)
    if asked.continuations:
        lines = [line for group in groups for line in group]
        policy = value_policy(file.path, lines, asked=asked, models=models, observer=observer)
        again = any(each.startswith("reward.") for each in asked.overrides)
        try:
            found = _sampled(groups, rows, policy, again=again, path=file.path, observer=observer)
        except KeyboardInterrupt as stop:
            raise Interrupted("interrupted; run the same command to resume") from stop
        source = policy.source
    else:
        from dgpo_cli.engine.values.estimate import estimate

        scored = [_scored(group) for group in groups]
        found = estimate(None, scored, of=rows, continuations=0, seed=0)
        source = ValueSource(0, "")
    if unknown := sum(row not in found for row in rows):
        tell(observer, f"{unknown} of {len(rows)} completions have no reward, so no values")
    return [found.get(row) for row in rows], source


def _groups(
    file: RolloutFile, entries: Sequence[Entry]
) -> tuple[list[list[RolloutLine]], list[Row]]:
    """Return all completions of the entries' prompts, and where the entries are among them."""
    wanted = dict.fromkeys(entry.prompt_id for entry in entries)
    of_prompt: dict[str, list[Entry]] = {name: [] for name in wanted}
    for entry in file.entries:
        if entry.prompt_id in of_prompt:
            of_prompt[entry.prompt_id].append(entry)
    names = [*wanted]
    rows = [
        (names.index(entry.prompt_id), of_prompt[entry.prompt_id].index(entry)) for entry in entries
    ]
    groups = [[entry.line() for entry in each] for each in of_prompt.values()]
    for line in (line for group in groups for line in group):
        if not line.completion.token_ids:
            raise DataError(
                f"--value: {file.path}: completion {line.index} of {line.prompt.id} has no "
                "token_ids to continue from; write them with dgpo rollout"
            )
        if line.completion.environment:
            raise ConfigError(
                f"--value: {file.path} has completions of several turns: what an environment "
                "answers is not sampled again; use prompts of one turn"
            )
    return groups, rows


def _scored(lines: Sequence[RolloutLine]) -> ScoredGroup:
    """Return a group with the verdicts that are stored."""
    first = lines[0]
    return ScoredGroup(
        prompt=first.prompt,
        prompt_ids=first.prompt_ids,
        completions=tuple(line.completion for line in lines),
        verdicts=tuple(line.verdict or Verdict("error", None, line.reward) for line in lines),
        advantages=(0.0,) * len(lines),
    )


def _sampled(
    groups: Sequence[Sequence[RolloutLine]],
    rows: Sequence[Row],
    policy: ValuePolicy,
    *,
    again: bool,
    path: Path,
    observer: Observer,
) -> dict[Row, ValueCurve]:
    """Estimate by continuations, kept beside the file of rollouts; again: see _judged."""
    from dgpo_cli.engine.values.estimate import estimate

    settings = policy.settings
    _check_reward(settings, [line.prompt for group in groups for line in group[:1]], path=path)
    with _engine(policy, observer=observer) as engine:
        scored = _judged(engine, groups, again=again)
        with _store(policy, path=path, observer=observer) as store:
            return estimate(
                engine,
                scored,
                of=rows,
                continuations=policy.source.continuations,
                seed=settings.seed,
                siblings=policy.sampled_them,
                store=store,
            )


def _judged(
    engine: SamplingEngine, groups: Sequence[Sequence[RolloutLine]], *, again: bool
) -> list[ScoredGroup]:
    """Return groups with the rewards that are stored and their penalties for length.

    again: judge the completions as their continuations are, by another reward than they were.
    """
    settings = engine.settings
    limit = settings.rollout.max_completion_tokens
    found = []
    for lines in groups:
        group = _scored(lines)
        ids = group.prompt_ids or engine.encode(group.prompt)
        lengths = [completion.length for completion in group.completions]
        penalties = settings.reward.overlong.penalties(lengths, limit=limit)
        found.append(replace(group, prompt_ids=ids, penalties=tuple(penalties)))
    if not again:
        return found
    rewards = engine.rewards([Group(g.prompt, g.prompt_ids, g.completions) for g in found])
    return [
        replace(group, verdicts=tuple(Verdict("error", None, each) for each in own), penalties=())
        for group, own in zip(found, rewards, strict=True)
    ]


@contextmanager
def _store(policy: ValuePolicy, *, path: Path, observer: Observer) -> Iterator[ValueStore | None]:
    """Open the file beside the rollouts that keeps what is estimated.

    Each policy, with what its rewards depend on, has its own.
    """
    from dgpo_cli.engine.values.store import ValueStore, header_of

    header = header_of(policy.settings, adapter=policy.adapter)
    digest = str(text_fingerprint(VALUES.dump(header)))[:8]
    run = run_of(path)
    name = f"{path.name.partition('.')[0]}-{digest}.jsonl"
    folder = path.parent if run is None else run.path
    if not os.access(folder, os.W_OK):  # a run of somebody else, say
        tell(observer, f"{folder} cannot be written: what is estimated is not kept")
        yield None
        return
    with ValueStore(folder / "values" / name, header) as store:
        try:
            yield store
        except KeyboardInterrupt:
            tell(observer, f"{store.path} keeps what was estimated; run the same command to resume")
            raise


def _check_reward(settings: Settings, prompts: Sequence[Prompt], *, path: Path) -> None:
    """Check that the settings can judge continuations of prompts that are read from a file."""
    reward = settings.reward
    if isinstance(settings.prompts, PlayedPrompts) or isinstance(reward, EnvironmentReward):
        raise ConfigError(
            "--value: the reward is an environment's, which does not judge the text of a "
            "continuation; give --set reward.kind=math, integer or choice"
        )
    for name, signature in check_own(reward).items():
        if signature["columns"] is None or signature["columns"]:
            raise DataError(
                f"--value: the reward {name} reads columns of the data, which {path} does not have"
            )
    check_answers(prompts, reward=reward, hidden=False)


def _engine(policy: ValuePolicy, *, observer: Observer) -> SamplingEngine:
    """Return an engine that loads the weights when something is sampled: what is kept needs none.

    Raises:
        ModelError: the model or adapter cannot be found or read.
    """
    from dgpo_cli.engine.sampling import SamplingEngine
    from dgpo_cli.engine.setup import make_sampler, set_threads
    from dgpo_cli.engine.stored import load_stored

    settings = policy.settings
    check_built(settings, training=False)
    set_threads(settings.train.threads)
    stored = load_stored(settings.model, adapter=policy.adapter)
    if isinstance(settings.rollout.backend, HfBackend):
        sampler: Sampler = _LateSampler(policy)
    else:
        sampler = make_sampler(settings, policy=stored)
    limit = settings.rollout.max_completion_tokens
    return SamplingEngine(
        settings,
        policy=stored,
        sampler=sampler,
        grader=Grader(settings.reward, limit=limit, observer=observer),
        environment=None,
        observer=observer,
    )


class _LateSampler:
    """The sampler of this process, whose weights are loaded at the first sample."""

    def __init__(self, policy: ValuePolicy) -> None:
        self._policy = policy
        self._own: Sampler | None = None

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[Sequence[int]],
        params: SamplingParams,
        observer: Observer,
    ) -> list[tuple[Completion, ...]]:
        """See Sampler.sample."""
        if self._own is None:
            from dgpo_cli.engine.setup import make_sampler
            from dgpo_cli.policy.load_policy import load_for_sampling

            settings = self._policy.settings
            weights = load_for_sampling(settings.model, adapter=self._policy.adapter)
            for note in weights.notes:
                tell(observer, note)
            self._own = make_sampler(settings, policy=weights)
        return self._own.sample(prompts, seeds=seeds, params=params, observer=observer)

    def sync(self, *, policy_version: int) -> None:
        """See Sampler.sync: the weights stay what they are."""
