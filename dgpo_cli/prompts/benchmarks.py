"""Benchmarks by name, and any local file of problems: loaded, examined and digested."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.events import NOBODY, Observer
from dgpo_cli.core.types import Prompt
from dgpo_cli.hub.files import HubFile, cached, fetch
from dgpo_cli.prompts.answer_key import read_integer
from dgpo_cli.prompts.catalog import (
    Listed,
    benchmark_names,
    find,
    load_manifest,
    own_names,
    unknown,
)
from dgpo_cli.prompts.datasets import sum_prompt
from dgpo_cli.prompts.examination import Examination, examine, text_faults
from dgpo_cli.prompts.hub_dataset import resolve_revision
from dgpo_cli.prompts.manifests import (
    AnswerKind,
    HubManifest,
    RowsManifest,
    SumsManifest,
)
from dgpo_cli.prompts.options import shuffled, with_options
from dgpo_cli.prompts.problems import read_prompts
from dgpo_cli.prompts.records import Fields, Record, read_records
from dgpo_cli.prompts.sums import held_out
from dgpo_cli.prompts.templates import PLACEHOLDER, chat_messages, problem_messages

__all__ = ["Benchmark", "benchmark_names", "load_benchmark", "load_manifest", "own_names"]

_SHOWN = 10  # faults of a file that an error lists


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A fixed list of problems.

    notes: what was left out or found, a line each.
    protocol: the protocol that the benchmark belongs to, if any.
    dataset: hub id, "generated", or the name of the file that was read.
    revision: commit of a dataset of the hub.
    sha256: digest of the ids, problems (without the template) and answers, in their order; the
        same for the same data in any format, and for options in any order.
    answer_kind: what the answers are; None: a file of problems does not say.
    options: how the options of a choice are shown, for the card; empty for other answers.
    """

    name: str
    prompts: tuple[Prompt, ...]
    notes: tuple[str, ...]
    protocol: str | None
    dataset: str
    revision: str | None
    sha256: str
    answer_kind: AnswerKind | None = None
    options: tuple[tuple[str, str | bool], ...] = ()


@dataclass(frozen=True, slots=True)
class _Wrapping:
    """The template and system turn of settings.prompts, which make messages of a problem."""

    template: str
    system: str | None

    def prompt(self, *, id: str, problem: str, answer: str, source: str) -> Prompt:
        messages = problem_messages(problem, template=self.template, system=self.system)
        return Prompt(id=id, messages=messages, answer=answer, source=source)

    def around(self, bare: Prompt) -> Prompt:
        messages = chat_messages(bare.messages, template=self.template, system=self.system)
        return replace(bare, messages=messages)


class _Options(NamedTuple):
    """How a caller wants a benchmark loaded; see `load_benchmark`."""

    columns: tuple[str, str]
    data: Path | None
    integers: bool
    answers: bool
    others: bool
    seed: int
    observer: Observer


@dataclass(frozen=True, slots=True)
class Examined:
    """A benchmark as it is, and what is wrong with it.

    benchmark: with the notes that are not faults. where: the file or commit, for messages.
    faults: a strict load stops at these. odd: faults of the published wording, which stop nothing.
    """

    benchmark: Benchmark
    where: str
    faults: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()


def load_benchmark(
    name_or_path: str,
    *,
    template: str = PLACEHOLDER,
    system: str | None = None,
    problem_column: str = "problem",
    answer_column: str = "answer",
    data: Path | None = None,
    strict: bool | None = None,
    integers: bool = True,
    answers: bool = False,
    others: bool = False,
    seed: int = 0,
    observer: Observer = NOBODY,
) -> Benchmark:
    """Return the benchmark of that name, alias or manifest, or the problems of that file.

    The name of a benchmark wins over a file of that name; ./NAME means the file.

    Args:
        template, system: those of settings.prompts.
        problem_column, answer_column: fields of a local file, or of `data` if they differ from
            the manifest's.
        data: a local copy of a named benchmark, instead of the hub's.
        strict: stop at faults of the data; None: for named benchmarks only. Otherwise duplicates
            and empty rows are left out, and every fault becomes a note.
        integers: expect integer answers in a file of problems.
        answers: name expected answers in notes and errors, which may end in a log.
        others: of a file's rows, keep every field with its prompt.
        seed: of the order of options, where the manifest wants them shuffled.
        observer: gets the progress of downloads.

    Raises:
        ConfigError: no such benchmark or file, or `data` does not apply.
        DataError: the file or the manifest is broken, or strict found faults.
        BackendError: the hub refuses the file.
    """
    found = examined(
        name_or_path,
        template=template,
        system=system,
        columns=(problem_column, answer_column),
        data=data,
        integers=integers,
        answers=answers,
        others=others,
        seed=seed,
        observer=observer,
    )
    named = found.benchmark.answer_kind is not None
    strict = named if strict is None else strict
    # Repetitions in a file of one's own are left out, which is a fault only if asked for.
    faults = found.faults if named or strict else found.faults[len(found.benchmark.notes) :]
    notes = _judged(faults, found.where, strict=strict)
    notes += _judged(found.odd, found.where, strict=False)
    return replace(found.benchmark, notes=(*notes, *found.benchmark.notes))


def examined(
    name_or_path: str,
    *,
    template: str = PLACEHOLDER,
    system: str | None = None,
    columns: tuple[str, str] = ("problem", "answer"),
    data: Path | None = None,
    integers: bool = False,
    answers: bool = False,
    others: bool = False,
    seed: int = 0,
    observer: Observer = NOBODY,
) -> Examined:
    """Return a benchmark and what is wrong with it, whatever that is; see `load_benchmark`.

    Raises:
        ConfigError: no such benchmark or file, or `data` does not apply.
        DataError: the file or the manifest cannot be read, or has no problems.
        BackendError: the hub refuses the file.
    """
    wrapping = _Wrapping(template, system)
    options = _Options(columns, data, integers, answers, others, seed, observer)
    listed = find(name_or_path)
    if listed is None:
        path = Path(name_or_path)
        if not path.is_file():
            raise ConfigError(unknown(name_or_path))
        if data is not None:
            raise ConfigError(f"{path} is a file, not a named benchmark: leave out --data {data}")
        return _from_file(path, wrapping, options)
    manifest = listed.manifest()
    if isinstance(manifest, SumsManifest):
        if data is not None:
            raise ConfigError(f"{listed.name} is generated: leave out --data {data}")
        return _generated(listed.name, manifest, wrapping)
    return _named(listed, manifest, wrapping, options)


def _generated(name: str, manifest: SumsManifest, wrapping: _Wrapping) -> Examined:
    problems = held_out(manifest.operations, count=manifest.count, max_operand=manifest.max_operand)
    sha256 = _digest((each.expression, each.question, str(each.answer)) for each in problems)
    if manifest.sha256 not in (None, sha256):
        raise DataError(
            f"{name}: the generated problems have sha256 {sha256[:12]}…, the manifest "
            f"{str(manifest.sha256)[:12]}…; scores would not compare with those of other versions"
        )
    benchmark = Benchmark(
        name=name,
        prompts=tuple(
            sum_prompt(each, template=wrapping.template, system=wrapping.system, source=name)
            for each in problems
        ),
        notes=(),
        protocol=manifest.protocol,
        dataset="generated",
        revision=None,
        sha256=sha256,
        answer_kind=manifest.answer_kind,
    )
    return Examined(benchmark, name)


@dataclass(frozen=True, slots=True)
class _Copy:
    """The files of a benchmark that were found, and what to say of them.

    where: for notes. dataset, revision: for the card. published: they are the pinned ones.
    """

    paths: tuple[Path, ...]
    where: str
    dataset: str
    revision: str | None
    published: bool
    notes: tuple[str, ...] = ()


def _named(
    listed: Listed, manifest: RowsManifest, wrapping: _Wrapping, options: _Options
) -> Examined:
    copy = _copy(listed, manifest, options)
    what = f"{listed.name} ({copy.where})"
    found = _read_and_examine(copy.paths, manifest, options.columns, answers=options.answers)
    if not found.records:
        raise DataError(f"{what}: no problems in it")
    benchmark = Benchmark(
        name=listed.name,
        prompts=tuple(
            _prompt(each, manifest, wrapping, source=listed.name, seed=options.seed)
            for each in found.records
        ),
        notes=(*copy.notes, *(f"{what}: {note}" for note in found.notes)),
        protocol=manifest.protocol,
        dataset=copy.dataset,
        revision=copy.revision,
        sha256=_digest((each.id or "", each.asked, each.answer) for each in found.records),
        answer_kind=manifest.answer_kind,
        options=_options_of(manifest),
    )
    # The wording of the published files is the benchmark's, odd as it may be.
    if copy.published:
        return Examined(benchmark, what, found.faults, odd=found.wording)
    return Examined(benchmark, what, (*found.wording, *found.faults))


def _options_of(manifest: RowsManifest) -> tuple[tuple[str, str | bool], ...]:
    if manifest.answer_kind != "choice":
        return ()
    return ("mark", manifest.mark), ("shuffled", manifest.shuffle)


def _copy(listed: Listed, manifest: RowsManifest, options: _Options) -> _Copy:
    """Find the files: those of --data, those of the hub, or those beside the manifest."""
    data = options.data
    if data is not None:
        if not data.is_file():
            what = "is a folder" if data.is_dir() else "no such file"
            raise ConfigError(
                f"--data {data}: {what}; give a file with the problems of {listed.name}"
            )
        pinned = manifest.sha256 is not None and manifest.sha256 == _sha256(data)
        return _Copy((data,), str(data), data.name, None, pinned)
    if isinstance(manifest, HubManifest):
        return _fetched(manifest, observer=options.observer)
    paths = tuple(listed.path.parent / name for name in manifest.files)
    if missing := [path for path in paths if not path.is_file()]:
        raise ConfigError(f"{listed.path}: file={missing[0].name}: no such file beside it")
    notes = _other_bytes(paths[0], manifest, as_on="in its manifest")
    pinned = manifest.sha256 is not None and not notes
    return _Copy(paths, str(listed.path), ", ".join(manifest.files), None, pinned, notes)


def _fetched(manifest: HubManifest, *, observer: Observer) -> _Copy:
    commit, notes = _commit(manifest)
    paths: tuple[Path, ...] = ()
    for file in _files(manifest, commit):
        path, said = fetch(file, observer=observer)
        paths, notes = (*paths, path), (*notes, *said)
    other = _other_bytes(paths[0], manifest, as_on="on huggingface.co")
    published = manifest.revision is not None and not other
    where = f"{manifest.dataset} at {commit[:8]}"
    return _Copy(paths, where, manifest.dataset, commit, published, (*notes, *other))


def _commit(manifest: HubManifest) -> tuple[str, tuple[str, ...]]:
    """Return the commit to read; without one in the manifest, the newest, which a note tells."""
    return resolve_revision(
        manifest.dataset,
        manifest.revision,
        instead="pass a copy with --data FILE",
        fixed="the manifest names no commit",
    )


def _files(manifest: HubManifest, commit: str) -> list[HubFile]:
    instead = "pass a copy with --data FILE"
    if manifest.gated:
        instead += f" (its conditions: https://huggingface.co/datasets/{manifest.dataset})"
    return [HubFile(manifest.dataset, commit, name, instead) for name in manifest.files]


def _prompt(
    record: Record, manifest: RowsManifest, wrapping: _Wrapping, *, source: str, seed: int
) -> Prompt:
    options, answer = record.options, record.answer
    if manifest.shuffle and not record.odd:
        options, answer = shuffled(options, answer, seed=seed, id=record.id or "")
    problem = with_options(record.problem, options, mark=manifest.mark)
    return wrapping.prompt(id=record.id or "", problem=problem, answer=answer, source=source)


def is_cached(name: str) -> bool:
    """Whether a benchmark can be read without the hub."""
    listed = find(name)
    manifest = None if listed is None else listed.manifest()
    if not isinstance(manifest, HubManifest):
        return True
    commit = manifest.revision
    return commit is not None and all(cached(file) for file in _files(manifest, commit))


def prefetch(name_or_path: str, *, observer: Observer) -> None:
    """Download the files of a benchmark of the hub if the cache lacks them.

    Raises:
        BackendError: the hub cannot be reached, or refuses a file.
        DataError: a file that arrives does not have the hub's checksum.
    """
    if not is_cached(name_or_path):
        manifest = load_manifest(name_or_path)
        if isinstance(manifest, HubManifest):
            _fetched(manifest, observer=observer)


def _read_and_examine(
    paths: Sequence[Path], manifest: RowsManifest, columns: tuple[str, str], *, answers: bool
) -> Examination:
    """Read the files of a benchmark; the caller's columns win over the manifest's.

    Copies of a dataset may have the usual names; a manifest's own file has those that it names.
    """
    defaults = ("problem", "answer")
    own = [
        [column] if column != default else []
        for column, default in zip(columns, defaults, strict=True)
    ]
    names = manifest.columns
    usual = defaults if isinstance(manifest, HubManifest) else ()
    fields = Fields(
        ids=(names.id, "id"),
        problems=(*own[0], names.problem, *usual[:1]),
        answers=(*own[1], names.answer, *usual[1:]),
        options=names.options,
        wrong=names.wrong,
        index=names.index,
        where=manifest.where,
    )
    records: list[Record] = []
    for path in paths:
        for record in read_records(path, fields):
            place = f"{path.name}, {record.place}" if len(paths) > 1 else record.place
            records.append(replace(record, place=place, number=len(records) + 1))
    return examine(records, manifest, answers=answers)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _other_bytes(path: Path, manifest: RowsManifest, *, as_on: str) -> tuple[str, ...]:
    """Return a note if the file is not the one of the manifest."""
    if manifest.sha256 is None or (found := _sha256(path)) == manifest.sha256:
        return ()
    return (
        f"{path.name} has sha256 {found[:12]}…, not {manifest.sha256[:12]}… as {as_on}: "
        f"the checks below were made, but not of the wording",
    )


def _judged(faults: Sequence[str], what: str, *, strict: bool) -> tuple[str, ...]:
    """Return the first ten faults and the number of others as notes, or raise them together."""
    if not faults:
        return ()
    more = len(faults) - _SHOWN
    lines = [*faults[:_SHOWN], *([f"and {more} more faults"] if more > 0 else [])]
    if not strict:
        return tuple(f"{what}: {line}" for line in lines)
    count = f"{len(faults)} faults" if len(faults) > 1 else "a fault"
    listed = "".join(f"\n  {line}" for line in lines)
    raise DataError(f"{what}: {count} in the data; fix it, or pass --no-strict{listed}")


def _from_file(path: Path, wrapping: _Wrapping, options: _Options) -> Examined:
    bare, left_out = read_prompts(
        path,
        template=PLACEHOLDER,
        system=None,
        problem_column=options.columns[0],
        answer_column=options.columns[1],
        others=options.others,
    )
    faults = [*left_out]
    for prompt in bare:
        text = "\n".join(message.content for message in prompt.messages)
        faults += text_faults(Record(f"problem {prompt.id!r}", prompt.id, text, prompt.answer))
    if options.integers:
        faults += _not_integers(bare)
    benchmark = Benchmark(
        name=path.stem,
        prompts=tuple(wrapping.around(prompt) for prompt in bare),
        notes=left_out,
        protocol=None,
        dataset=path.name,
        revision=None,
        sha256=_digest((_given_id(prompt, path), _asked(prompt), prompt.answer) for prompt in bare),
    )
    return Examined(benchmark, str(path), tuple(faults))


def _not_integers(prompts: Sequence[Prompt]) -> list[str]:
    found = [prompt for prompt in prompts if read_integer(prompt.answer) is None]
    if not found:
        return []
    return [
        f"{len(found)} of {len(prompts)} answers are not plain integers, the first is that of "
        f"problem {found[0].id!r}; for general answers set reward.kind = 'math'"
    ]


def _given_id(prompt: Prompt, path: Path) -> str:
    """Return the row's id; "" if it is only the name of the file and the number of the line."""
    return "" if re.fullmatch(re.escape(path.stem) + r":\d+", prompt.id) else prompt.id


def _asked(prompt: Prompt) -> str:
    if len(prompt.messages) == 1:
        return prompt.messages[0].content
    return json.dumps([[message.role, message.content] for message in prompt.messages])


def _digest(triples: Iterable[tuple[str, str, str]]) -> str:
    text = json.dumps([list(each) for each in triples], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
