"""The prompts of a training run: the commit of the data, what is left out, contamination."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dgpo_cli.config.layers import Layer, dotted_layer
from dgpo_cli.config.load import Resolved, layered
from dgpo_cli.config.settings import Settings
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.core.types import Prompt
from dgpo_cli.prompts.benchmarks import is_cached, load_benchmark, own_names
from dgpo_cli.prompts.catalog import canonical, find
from dgpo_cli.prompts.contamination import find_contamination
from dgpo_cli.prompts.datasets import PromptStream, open_prompts
from dgpo_cli.prompts.hub_dataset import is_commit, resolve_revision
from dgpo_cli.prompts.manifests import HubManifest
from dgpo_cli.prompts.settings import HubPart, HubPrompts, MixturePrompts, RowFields
from dgpo_cli.rewards.grader import check_answers
from dgpo_cli.runs.run_folder import RunFolder

_HUB = "the hub"  # the source of a pinned commit, in settings.toml
_SHOWN = 3  # ids that a note names for each benchmark


def pin_data(resolved: Resolved, *, folder: RunFolder, observer: Observer) -> Resolved:
    """Return the settings with prompts.revision set to a commit, if the data is on the hub.

    A run that resumes reads the commit that it began with.

    Raises:
        BackendError: the hub does not give the commit.
    """
    prompts = resolved.settings.prompts
    if isinstance(prompts, MixturePrompts):
        return _pin_sources(resolved, prompts, folder=folder, observer=observer)
    if not isinstance(prompts, HubPrompts) or is_commit(prompts.revision):
        return resolved
    name = prompts.revision
    known = _known_commit(folder.settings_file, prompts=prompts)
    if known is not None:
        commit, name = known
        tell(observer, f"{prompts.dataset}: read at commit {commit}, with which the run began")
    else:
        commit, notes = resolve_revision(prompts.dataset, name)
        for note in notes:
            tell(observer, note)
    source = _HUB if name is None else f"{_HUB}, {name}"
    return layered(resolved, Layer(source, {"prompts": {"revision": commit}}))


def _pin_sources(
    resolved: Resolved, prompts: MixturePrompts, *, folder: RunFolder, observer: Observer
) -> Resolved:
    """Return the settings with the revision of each source on the hub set to a commit."""
    before = {each.get("name") or each.get("dataset"): each for each in _stored_sources(folder)}
    pins = {}
    for i, part in enumerate(prompts.sources):
        if not isinstance(part, HubPart) or is_commit(part.revision):
            continue
        stored = before.get(part.name or part.dataset, {})
        commit = stored.get("revision") if stored.get("dataset") == part.dataset else None
        if part.revision is None and is_commit(commit):
            began = f"read at commit {commit}, with which the run began"
            tell(observer, f"{part.dataset}: {began}")
        else:
            commit, notes = resolve_revision(part.dataset, part.revision)
            for note in notes:
                tell(observer, note)
        pins[f"prompts.sources.{i}.revision"] = str(commit)
    return layered(resolved, dotted_layer(_HUB, pins)) if pins else resolved


def _stored_sources(folder: RunFolder) -> list[dict[str, Any]]:
    try:
        stored = tomllib.loads(folder.settings_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return list(stored.get("prompts", {}).get("sources", []))


def _known_commit(settings_file: Path, *, prompts: HubPrompts) -> tuple[str, str | None] | None:
    """Return the commit that the run of these settings began with, and its branch or tag.

    None without such a run, or if it began with another branch or tag.
    """
    import tomlkit

    try:
        before = tomlkit.parse(settings_file.read_text(encoding="utf-8")).get("prompts", {})
    except (OSError, ValueError):  # no run yet, or one that is refused when it resumes
        return None
    commit = before.get("revision")
    if before.get("dataset") != prompts.dataset or not is_commit(commit):
        return None
    name = commit.trivia.comment.partition(f"{_HUB}, ")[2] or None
    if name is not None and prompts.revision not in (None, name):
        return None
    return str(commit), name


def open_training_prompts(
    settings: Settings,
    *,
    prompt_length: Callable[[Prompt], int],
    observer: Observer,
) -> PromptStream:
    """Open the prompts of a run without those that are too long, and note what is left out.

    Raises:
        ConfigError: the file does not exist, or no file of the dataset fits.
        DataError: the data is broken, an answer is not of the kind that reward.kind compares, or
            nothing is left.
        BackendError: the hub does not give it.
    """
    limit = settings.prompts.max_prompt_tokens
    stream = open_prompts(
        settings.prompts,
        seed=settings.seed,
        columns=settings.reward.wants_columns,
        answered=settings.reward.needs_answer,
        observer=observer,
    ).keep(
        lambda prompt: prompt_length(prompt) <= limit,
        reason=f"longer than prompts.max_prompt_tokens={limit}",
    )
    if stream.prompts is not None:  # generated sums are never a benchmark's
        check_answers(stream.prompts, reward=settings.reward, hidden=False)
        stream = _without_contamination(
            stream, stream.prompts, settings=settings, observer=observer
        )
    for note in stream.notes:
        tell(observer, note)
    return stream


def _without_contamination(
    stream: PromptStream, prompts: Sequence[Prompt], *, settings: Settings, observer: Observer
) -> PromptStream:
    """Report contamination; with prompts.drop_overlap, leave those problems out.

    What is left out must not depend on the cache, so it is only what eval.bench and the generated
    benchmarks contain.
    """
    drops = (
        isinstance(settings.prompts, RowFields | MixturePrompts) and settings.prompts.drop_overlap
    )
    own = canonical(settings.eval.bench) if settings.eval.every or drops else None
    known, absent = _benchmarks(own, settings=settings, observer=observer)
    found = find_contamination(prompts, known)
    stream = stream.with_note(_note(found, total=len(prompts), absent=absent))
    decisive = [name for name in known if name == own or not _is_hub(name)]
    left_out = {id for name in decisive for id in found[name]} if drops else set()
    if not left_out:
        return stream
    return stream.keep(
        lambda prompt: prompt.id not in left_out,
        reason=f"also in {' or '.join(name for name in decisive if found[name])} "
        "(prompts.drop_overlap)",
    )


def _benchmarks(
    own: str | None, *, settings: Settings, observer: Observer
) -> tuple[Mapping[str, Sequence[str]], list[str]]:
    """Return the bare problems of the benchmarks in the cache, and the names of the others.

    own: the run's, which is the only one to be fetched.
    """
    known, absent = {}, []
    for name in dict.fromkeys([*([own] if own is not None else []), *own_names()]):
        data = Path(settings.eval.data) if name == own and settings.eval.data else None
        if name != own and not is_cached(name):
            absent.append(name)
            continue
        known[name] = _problems(name, data=data, settings=settings, observer=observer)
    return known, absent


def _problems(name: str, *, data: Path | None, settings: Settings, observer: Observer) -> list[str]:
    """Return the bare problems of a benchmark; a local file has the run's columns."""
    prompts = settings.prompts
    columns = ("problem", "answer")
    if find(name) is None and isinstance(prompts, RowFields):
        columns = (prompts.problem_column, prompts.answer_column)
    loaded = load_benchmark(
        name,
        problem_column=columns[0],
        answer_column=columns[1],
        data=data,
        strict=False,
        integers=False,
        observer=observer,
    )
    return [prompt.text for prompt in loaded.prompts]


def _is_hub(name: str) -> bool:
    listed = find(name)
    return listed is not None and isinstance(listed.manifest(), HubManifest)


def _note(found: Mapping[str, Sequence[str]], *, total: int, absent: Sequence[str]) -> str:
    """Return the contamination in one line."""
    parts = []
    for name, ids in found.items():
        if ids:
            more = ", …" if len(ids) > _SHOWN else ""
            parts.append(f"{name} {len(ids):,} ({', '.join(map(repr, ids[:_SHOWN]))}{more})")
    clean = [name for name, ids in found.items() if not ids]
    text = f"contamination of {total:,} problems by benchmarks: {'; '.join(parts) or 'none'}"
    if parts and clean:
        text += f"; none by {', '.join(clean)}"
    if not parts:
        text += f" by {', '.join(clean)}"
    if absent:
        more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        text += f"; not in the cache, not compared: {', '.join(absent[:_SHOWN])}{more}"
    return text
