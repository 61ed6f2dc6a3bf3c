"""What benchmarks there are, what one asks, and whether a copy of it is sound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dgpo_cli.config.load import resolve
from dgpo_cli.config.protocols import Protocol, protocol_for
from dgpo_cli.core.codec import Format
from dgpo_cli.core.errors import ConfigError, DataError, DgpoError
from dgpo_cli.core.events import NOBODY, Observer
from dgpo_cli.core.schema import Count, Flag, Text
from dgpo_cli.core.types import Finding, Prompt
from dgpo_cli.prompts.benchmarks import Examined, examined, is_cached
from dgpo_cli.prompts.catalog import Listed, all_listed, find, unknown
from dgpo_cli.prompts.manifests import (
    AnswerKind,
    AnyManifest,
    FileManifest,
    HubManifest,
    RowsManifest,
)
from dgpo_cli.rewards.gold import why_unusable
from dgpo_cli.rewards.integer import read_integer

KINDS: dict[AnswerKind, str] = {
    "integer": "integers",
    "math": "general answers",
    "choice": "letters of options",
}


@dataclass(frozen=True, slots=True)
class BenchmarkJson:
    """A benchmark that has a name. package: that brings it. cached: it needs no hub.

    source: "generated", a file, or a dataset of the hub and its commit, null if it is the newest.
    """

    name: Text
    aliases: tuple[Text, ...]
    title: Text
    answers: AnswerKind
    problems: Count | None
    protocol: Text | None
    licence: Text | None
    source: Text
    revision: Text | None
    package: Text
    cached: Flag


@dataclass(frozen=True, slots=True)
class BenchmarksJson:
    """All benchmarks that have a name, and what is wrong with those of packages."""

    benchmarks: tuple[BenchmarkJson, ...]
    faults: tuple[Text, ...]


BENCHMARKS = Format(
    BenchmarksJson, name="benchmarks", what="dgpo bench list --json", stamp="version"
)


def listing() -> BenchmarksJson:
    """Return all benchmarks that have a name, sorted by it."""
    found, faults = all_listed()
    rows = [_row(listed, listed.manifest()) for listed in sorted(found, key=lambda each: each.name)]
    return BenchmarksJson(tuple(rows), faults)


def _row(listed: Listed, manifest: AnyManifest) -> BenchmarkJson:
    return BenchmarkJson(
        name=listed.name,
        aliases=manifest.aliases,
        title=manifest.title,
        answers=manifest.answer_kind,
        problems=manifest.problems,
        protocol=manifest.protocol,
        licence=manifest.licence,
        source=source_of(manifest),
        revision=manifest.revision if isinstance(manifest, HubManifest) else None,
        package=listed.package or "",
        cached=is_cached(listed.name),
    )


def source_of(manifest: AnyManifest) -> str:
    """Return where the problems come from, in one word."""
    if isinstance(manifest, HubManifest):
        return manifest.dataset
    return ", ".join(manifest.files) if isinstance(manifest, FileManifest) else "generated"


@dataclass(frozen=True, slots=True)
class Described:
    """A benchmark's manifest and protocol, and one of its problems if a copy is at hand."""

    listed: Listed
    manifest: AnyManifest
    protocol: Protocol | None
    cached: bool
    example: Prompt | None


def describe(
    name: str, *, data: Path | None, columns: tuple[str, str], observer: Observer = NOBODY
) -> Described:
    """Describe the benchmark of this name, alias or manifest; ask no hub.

    Raises:
        ConfigError: there is none. DataError: its manifest or its copy cannot be read.
    """
    listed = find(name)
    if listed is None:
        what = f"{name}: is a file of problems, without a manifest; dgpo bench check reads it"
        raise ConfigError(what if Path(name).is_file() else unknown(name))
    manifest = listed.manifest()
    cached = is_cached(name)
    example = None
    if data is not None or cached:
        found = examined(name, data=data, columns=columns, observer=observer)
        example = found.benchmark.prompts[0]
    return Described(listed, manifest, protocol_for(name, name=None), cached, example)


@dataclass(frozen=True, slots=True)
class Checked:
    """A benchmark that was examined. kinds: how many answers are of each kind.

    faults: everything that a strict load stops at. odd: what is odd in the published wording.
    reward: the reward.kind that judges all answers; None: no checker does.
    """

    found: Examined
    kinds: dict[str, int]
    reward: str | None
    faults: tuple[str, ...]


def check(
    name: str,
    *,
    data: Path | None,
    columns: tuple[str, str],
    answers: bool = False,
    observer: Observer = NOBODY,
) -> Checked:
    """Read and examine a benchmark: by name, by its manifest, or a file of problems.

    Raises:
        ConfigError: there is none. DataError: it cannot be read. BackendError: the hub refuses it.
    """
    found = examined(name, data=data, columns=columns, answers=answers, observer=observer)
    prompts = found.benchmark.prompts
    kinds = Counter(map(_kind, (prompt.answer for prompt in prompts)))
    faults = [*found.faults, *_of_manifest(name)]
    if find(name) is None:
        faults += [
            f"problem {prompt.id!r}: answer {why}; no checker can read it"
            for prompt in prompts
            if (why := why_unusable(prompt.answer)) is not None
        ]
    reward = found.benchmark.answer_kind or _reward(kinds)
    return Checked(found, dict(kinds.most_common()), reward, tuple(faults))


def _of_manifest(name: str) -> Iterator[str]:
    """Yield what is wrong with the protocol of a benchmark, and with the values it sets."""
    try:
        protocol = protocol_for(name, name=None)
        if protocol is not None:
            resolve(protocol=protocol.layer())
    except (ConfigError, DataError) as error:
        yield str(error)


def _kind(answer: str) -> str:
    if read_integer(answer) is not None:
        return "integer"
    if len(answer) == 1 and answer.isascii() and answer.isupper():
        return "letter"
    return "unreadable answer" if why_unusable(answer) is not None else "general answer"


def _reward(kinds: Counter[str]) -> str | None:
    """Return the checker of the fewest means that judges answers of these kinds."""
    present = {kind for kind, count in kinds.items() if count}
    if "unreadable answer" in present:
        return None
    if present == {"letter"}:
        return "choice"
    return "integer" if present == {"integer"} else "math"


def options_of(manifest: AnyManifest) -> str:
    """Return how the options of a choice are shown; empty for other answers."""
    if not isinstance(manifest, RowsManifest) or manifest.answer_kind != "choice":
        return ""
    order = "in an order drawn from the seed" if manifest.shuffle else "in the data's order"
    return f"up to {manifest.choices}, marked {manifest.mark}, {order}"


def findings() -> Iterator[Finding]:
    """Report for dgpo doctor how many benchmarks there are, and what is wrong with packages'."""
    try:
        found = listing()
    except DgpoError as error:
        yield Finding("benchmarks", "fail", str(error), "install dgpo again")
        return
    cached = sum(each.cached for each in found.benchmarks)
    words = f"{len(found.benchmarks)} named, {cached} of them usable without the hub"
    yield Finding("benchmarks", "ok", words)
    for fault in found.faults:
        yield Finding("benchmarks", "warn", fault, "ask the package's authors, or remove it")
