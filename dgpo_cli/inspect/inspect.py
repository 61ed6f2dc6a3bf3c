"""Inspects the credit of completions, from stored statistics or computed ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dgpo_cli.algo.advantages import AdvantageSettings
from dgpo_cli.algo.credit import DgpoCredit, ProportionalCredit
from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.core.types import Inspection, ValueSource
from dgpo_cli.inspect.fresh_stats import fresh_stats, load_models
from dgpo_cli.inspect.pairing import pair_of
from dgpo_cli.inspect.request import Models, Origin, Selection, Values, WhatIf
from dgpo_cli.inspect.rollout_file import Entry, RolloutFile, open_rollouts, typed_rollout
from dgpo_cli.inspect.shown_credit import (
    Rules,
    Statistics,
    inspected,
    parameters_of,
    stored_statistics,
    tau_of,
)
from dgpo_cli.inspect.token_detail import check_position, computed_detail, stored_detail
from dgpo_cli.inspect.values.estimated import estimated_values
from dgpo_cli.runs.history import changes_behind
from dgpo_cli.runs.run_folder import RunFolder, newest_run
from dgpo_cli.runs.token_texts import TokenTexts

RUNS = Path("runs")
MAX_TOKENS = 1 << 18  # of a completion: more take minutes, and no screen or browser
MAX_CHARACTERS = 16 * MAX_TOKENS


@dataclass(frozen=True, slots=True)
class _Found:
    """The completions to show, and their name."""

    name: str
    file: RolloutFile
    entries: Sequence[Entry]


def run(
    origin: Origin,
    *,
    models: Models,
    choice: Selection,
    what_if: WhatIf,
    at: int | None,
    values: Values | None = None,
    observer: Observer,
) -> Inspection:
    """Inspect completions. Only those that are shown are parsed and computed.

    at: add the details of this token of the only completion.
    values: estimate the values of the completions.

    Raises:
        ConfigError: the request does not fit together, or names what does not exist.
        DataError: a file is broken, or lacks what is needed.
        ModelError: a model does not load.
    """
    if models.model is None and (models.reference or models.adapter or origin.prompt is not None):
        typed = origin.prompt is not None
        given = "--prompt and --completion" if typed else "--reference and --adapter"
        raise ConfigError(f"{given} need --model: --model M --reference R, or --adapter A")
    choice = replace(choice, one=choice.one or at is not None)
    found = _find(origin, choice=choice, wrong=values is not None)
    rules = Rules(what_if)
    measured = _Valued(found, models, values, observer)
    if models.model is not None:
        return _computed(
            found, models=models, rules=rules, at=at, measured=measured, observer=observer
        )
    return _from_stored(found, rules=rules, at=at, measured=measured, observer=observer)


@dataclass(frozen=True, slots=True)
class _Valued:
    """Adds values to the statistics of the completions, if any are asked for."""

    found: _Found
    models: Models
    asked: Values | None
    observer: Observer

    def add(
        self, statistics: list[Statistics], *, rules: Rules
    ) -> tuple[list[Statistics], ValueSource | None]:
        """Return the statistics with values, and what these are estimated from.

        The rules are read first: sampling takes longer than a mistake in them should.
        """
        if self.asked is None:
            return statistics, None
        for each in statistics:
            rules.shown(each)
        curves, source = estimated_values(
            self.found.file,
            self.found.entries,
            asked=self.asked,
            models=self.models,
            observer=self.observer,
        )
        both = zip(statistics, curves, strict=True)
        return [replace(each, values=curve) for each, curve in both], source


def _find(origin: Origin, *, choice: Selection, wrong: bool) -> _Found:
    """Open the source of the completions, and choose; a wrong one if one is enough and asked."""
    if origin.prompt is not None and origin.completion is not None:
        file, name = typed_rollout(origin.prompt, origin.completion), "typed text"
    else:
        path, name = _locate(origin.source or origin.rollouts)
        file = open_rollouts(path)
    entries = _not_too_long(_chosen(file, choice=choice), any_of_them=choice.one)
    if choice.pair:
        lines = [entry.line() for entry in entries]
        entries = [entries[at] for at in pair_of(lines, path=file.path)]
    elif choice.one:
        entries = [_most_telling(entries, file=file, wrong=wrong)]
    return _Found(name, file, entries)


def _locate(source: Path | None) -> tuple[Path, str]:
    """Return the rollouts file and the name to show for it."""
    if source is None:
        source = newest_run(RUNS)
        if source is None:
            raise ConfigError(
                "no run under ./runs; name a run folder or a rollouts file, "
                "or train one with: dgpo train --preset tiny"
            )
    if source.is_dir():
        files = RunFolder(source).rollouts()
        if not files:
            raise DataError(f"{source}: has no rollouts; is it a run folder?")
        return files[-1], f"{source} {files[-1].stem}"
    if not source.exists():
        raise ConfigError(f"{source}: no such run folder or rollouts file")
    return source, str(source)


def _chosen(file: RolloutFile, *, choice: Selection) -> Sequence[Entry]:
    """Return the entries of the chosen group and sample, by default all."""
    entries: Sequence[Entry] = file.entries
    if choice.group is not None:
        groups = file.groups
        if not 0 <= choice.group < len(groups):
            raise ConfigError(
                f"--group {choice.group}: {file.path} has groups 0 to {len(groups) - 1}"
            )
        entries = [entry for entry in entries if entry.prompt_id == groups[choice.group]]
    if choice.sample is not None:
        found = [entry for entry in entries if entry.index == choice.sample]
        if not found:
            highest = max(entry.index for entry in entries)
            raise ConfigError(f"--sample {choice.sample}: {file.path} has samples 0 to {highest}")
        entries = found
    return entries


def _not_too_long(entries: Sequence[Entry], *, any_of_them: bool) -> Sequence[Entry]:
    """Refuse completions that would take minutes to show, before they are read.

    any_of_them: drop them as long as others are left.
    """
    long = [e for e in entries if e.tokens > MAX_TOKENS or _characters(e) > MAX_CHARACTERS]
    if long and (not any_of_them or len(long) == len(entries)):
        count, limit = (
            (f"{long[0].tokens:,} tokens", f"{MAX_TOKENS:,}")
            if long[0].tokens
            else (f"{_characters(long[0]):,} characters", f"{MAX_CHARACTERS:,}")
        )
        raise DataError(
            f"{long[0].where}: a completion of {count}; inspect shows at most {limit}: shorten it, "
            "or choose others with --group and --sample"
        )
    return [entry for entry in entries if entry not in long] if long else entries


def _characters(entry: Entry) -> int:
    """Return the number of characters to tokenise."""
    return 0 if entry.tokens else len(entry.record.completion) + len(entry.record.prompt)


def _most_telling(entries: Sequence[Entry], *, file: RolloutFile, wrong: bool) -> Entry:
    """Return the entry with an advantage whose training weights have the least effective tokens.

    A what-if does not change the choice. wrong: of the wrong ones, if there are any; in a right
    completion there is seldom a token that decided.
    """
    if wrong:
        entries = [each for each in entries if each.record.outcome == "wrong"] or entries
    advantages = file.advantages(AdvantageSettings())

    def evenness(entry: Entry) -> float:
        if advantages[entry.number] == 0:  # its weights move nothing
            return 4.0
        weights = entry.weights()
        if weights is None:
            return 2.0 if math.isfinite(advantages[entry.number]) else 3.0
        squares = len(weights) * sum(w * w for w in weights)
        return sum(weights) ** 2 / squares if squares else 2.0

    return min(entries, key=evenness)


def _computed(
    found: _Found,
    *,
    models: Models,
    rules: Rules,
    at: int | None,
    measured: _Valued,
    observer: Observer,
) -> Inspection:
    """Compute the statistics by a model and its reference."""
    lines = [entry.line() for entry in found.entries]
    policy = load_models(models)
    for note in policy.notes:
        tell(observer, note)
    if found.file.assumed:
        tell(observer, f"{found.file.path}: {'; '.join(found.file.assumed)}")
    advantages = found.file.advantages(AdvantageSettings())
    statistics = fresh_stats(
        lines,
        advantages=[advantages[entry.number] for entry in found.entries],
        policy=policy,
        observer=observer,
        chat_template=models.chat_template,
    )
    statistics, source = measured.add(statistics, rules=rules)
    texts = TokenTexts.of_model(policy.tokenizer)
    adapter = models.adapter
    name = f"{models.model} with the adapter {adapter}" if adapter else str(models.model)
    shown = _inspection(
        statistics,
        rules=rules,
        texts=texts,
        model=name,
        reference=models.reference or str(models.model),
        source=str(found.file.path),
        values=source,
    )
    if at is None:
        return shown
    check_position(at, shown.completions[0])
    detail = computed_detail(at, found=statistics[0], policy=policy, texts=texts, weights=name)
    return replace(shown, detail=detail)


def _from_stored(
    found: _Found, *, rules: Rules, at: int | None, measured: _Valued, observer: Observer
) -> Inspection:
    """Recompute scores and weights from the stored distances and entropies."""
    path = found.file.path
    lines = [entry.line() for entry in found.entries]
    if any(line.stats is None for line in lines):
        raise DataError(
            f"{path}: has no token statistics; give --model and --reference (or --adapter) "
            "to compute them"
        )
    tell(observer, f"{path}: statistics as training stored them")
    texts = TokenTexts.of_run(path)
    statistics, values = measured.add([stored_statistics(line) for line in lines], rules=rules)
    shown = _inspection(
        statistics,
        rules=rules,
        texts=texts,
        model=found.name,
        reference="the initial model",
        source=str(path),
        values=values,
    )
    if at is None:
        return shown
    check_position(at, shown.completions[0])
    detail = stored_detail(
        at,
        found=statistics[0],
        file=found.file,
        entry=found.entries[0],
        texts=texts,
        observer=observer,
    )
    return replace(shown, detail=detail)


def _inspection(
    statistics: Sequence[Statistics],
    *,
    rules: Rules,
    texts: TokenTexts,
    model: str,
    reference: str,
    source: str,
    values: ValueSource | None,
) -> Inspection:
    """Return the inspection, under the rule of the first completion."""
    ids = [found.line.completion.token_ids for found in statistics]
    rule = rules.shown(statistics[0])
    return Inspection(
        model=model,
        reference=reference,
        rule=rule.rule,
        tau=tau_of(rule),
        kappa=rule.kappa if isinstance(rule, DgpoCredit | ProportionalCredit) else None,
        vocab_size=statistics[0].vocab_size,
        completions=tuple(
            inspected(found, rules=rules, texts=texts.texts(own), hexes=texts.hexes(own))
            for found, own in zip(statistics, ids, strict=True)
        ),
        source=source,
        changes=changes_behind(Path(source)),
        computed=not statistics[0].stored,
        parameters=parameters_of(rule),
        values=values,
    )
