"""Benchmarks by name, and any local file of problems: loaded, examined and digested."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.events import NOBODY, Observer
from dgpo_cli.core.types import Prompt
from dgpo_cli.hub.files import HubFile, cached, fetch
from dgpo_cli.prompts.answer_key import read_integer
from dgpo_cli.prompts.datasets import sum_prompt
from dgpo_cli.prompts.examination import Examination, examine, text_faults
from dgpo_cli.prompts.manifests import HubManifest, SumsManifest, benchmark_names, load_manifest
from dgpo_cli.prompts.problems import read_prompts
from dgpo_cli.prompts.records import Record, read_records
from dgpo_cli.prompts.sums import held_out
from dgpo_cli.prompts.templates import PLACEHOLDER, chat_messages, problem_messages

__all__ = ["Benchmark", "benchmark_names", "load_benchmark", "load_manifest"]

_SHOWN = 10  # faults of a file that an error lists


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A fixed list of problems.

    notes: what was left out or found, a line each.
    protocol: the protocol that the benchmark belongs to, if any.
    dataset: hub id, "generated", or the name of the file that was read.
    revision: commit of a dataset of the hub.
    sha256: digest of the ids, problems (without the template) and answers, in their order; the
        same for the same data in any format.
    """

    name: str
    prompts: tuple[Prompt, ...]
    notes: tuple[str, ...]
    protocol: str | None
    dataset: str
    revision: str | None
    sha256: str


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


def protocol_of(name_or_path: str) -> str | None:
    """Return the name of a benchmark's protocol; None if it has none, and for files."""
    return load_manifest(name_or_path).protocol if name_or_path in benchmark_names() else None


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
    observer: Observer = NOBODY,
) -> Benchmark:
    """Return the benchmark of that name, or the problems of that file.

    The name of a benchmark wins over a file of that name; ./NAME means the file.

    Args:
        template, system: those of settings.prompts.
        problem_column, answer_column: fields of a local file, or of `data` if they differ from
            the manifest's.
        data: a local copy of a named benchmark, instead of the hub's.
        strict: stop at faults of the data; None: for named benchmarks only. Otherwise duplicates
            and empty rows are left out, and every fault becomes a note.
        integers: expect integer answers in a local file.
        observer: gets the progress of downloads.

    Raises:
        ConfigError: no such benchmark or file, or `data` does not apply.
        DataError: the file or the manifest is broken, or strict found faults.
        BackendError: the hub refuses the file.
    """
    wrapping = _Wrapping(template, system)
    columns = (problem_column, answer_column)
    if name_or_path not in benchmark_names():
        path = Path(name_or_path)
        if not path.is_file():
            raise ConfigError(_unknown(name_or_path))
        if data is not None:
            raise ConfigError(f"{path} is a file, not a named benchmark: leave out --data {data}")
        return _from_file(path, wrapping, columns, strict=bool(strict), integers=integers)
    manifest = load_manifest(name_or_path)
    if isinstance(manifest, HubManifest):
        return _named(
            name_or_path,
            manifest,
            wrapping,
            columns,
            data=data,
            strict=strict is not False,
            observer=observer,
        )
    if data is not None:
        raise ConfigError(f"{name_or_path} is generated: leave out --data {data}")
    return _generated(name_or_path, manifest, wrapping)


def _generated(name: str, manifest: SumsManifest, wrapping: _Wrapping) -> Benchmark:
    problems = held_out(manifest.operations, count=manifest.count, max_operand=manifest.max_operand)
    sha256 = _digest((each.expression, each.question, str(each.answer)) for each in problems)
    if manifest.sha256 not in (None, sha256):
        raise DataError(
            f"{name}: the generated problems have sha256 {sha256[:12]}…, the manifest "
            f"{str(manifest.sha256)[:12]}…; scores would not compare with those of other versions"
        )
    return Benchmark(
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
    )


def _named(
    name: str,
    manifest: HubManifest,
    wrapping: _Wrapping,
    columns: tuple[str, str],
    *,
    data: Path | None,
    strict: bool,
    observer: Observer,
) -> Benchmark:
    notes: tuple[str, ...] = ()
    path = data
    if path is not None and not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise ConfigError(f"--data {path}: {what}; give a file with the problems of {name}")
    if path is None:
        path, notes = fetch(_file(manifest), observer=observer)
        notes += _other_bytes(path, manifest)
    examination = _read_and_examine(path, manifest, columns)
    where = str(data) if data is not None else f"{manifest.dataset} at {manifest.revision[:8]}"
    notes += _judged(examination.faults, f"{name} ({where})", strict=strict)
    if not examination.records:
        raise DataError(f"{name} ({where}): no problems in it")
    return Benchmark(
        name=name,
        prompts=tuple(
            wrapping.prompt(
                id=each.id or each.place, problem=each.problem, answer=each.answer, source=name
            )
            for each in examination.records
        ),
        notes=(*notes, *(f"{name} ({where}): {note}" for note in examination.notes)),
        protocol=manifest.protocol,
        dataset=manifest.dataset if data is None else data.name,
        revision=manifest.revision if data is None else None,
        sha256=_digest((each.id or "", each.problem, each.answer) for each in examination.records),
    )


def _file(manifest: HubManifest) -> HubFile:
    return HubFile(manifest.dataset, manifest.revision, manifest.file)


def prefetch(name_or_path: str, *, observer: Observer) -> None:
    """Download the file of a named benchmark if the cache lacks it.

    Raises:
        BackendError: the hub cannot be reached, or refuses the file.
        DataError: the file that arrives does not have the hub's checksum.
    """
    if name_or_path in benchmark_names():
        manifest = load_manifest(name_or_path)
        if isinstance(manifest, HubManifest) and cached(_file(manifest)) is None:
            fetch(_file(manifest), observer=observer)


def _read_and_examine(path: Path, manifest: HubManifest, columns: tuple[str, str]) -> Examination:
    """Read a copy of a named benchmark; the caller's columns win over the manifest's."""
    defaults = ("problem", "answer")
    own = [
        [column] if column != default else []
        for column, default in zip(columns, defaults, strict=True)
    ]
    records = read_records(
        path,
        ids=(manifest.columns.id, "id"),
        problems=(*own[0], manifest.columns.problem, defaults[0]),
        answers=(*own[1], manifest.columns.answer, defaults[1]),
    )
    return examine(tuple(records), manifest)


def _other_bytes(path: Path, manifest: HubManifest) -> tuple[str, ...]:
    """Return a note if the file is not the one of the manifest."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if manifest.sha256 in (None, found):
        return ()
    return (
        f"{path.name} has sha256 {found[:12]}…, not {str(manifest.sha256)[:12]}… as on "
        f"huggingface.co: the checks below were made, but not of the wording",
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


def _from_file(
    path: Path, wrapping: _Wrapping, columns: tuple[str, str], *, strict: bool, integers: bool
) -> Benchmark:
    bare, left_out = read_prompts(
        path,
        template=PLACEHOLDER,
        system=None,
        problem_column=columns[0],
        answer_column=columns[1],
    )
    faults = [*left_out] if strict else []
    for prompt in bare:
        text = "\n".join(message.content for message in prompt.messages)
        faults += text_faults(Record(f"problem {prompt.id!r}", prompt.id, text, prompt.answer))
    if integers:
        faults += _not_integers(bare)
    notes = _judged(faults, str(path), strict=strict)
    return Benchmark(
        name=path.stem,
        prompts=tuple(wrapping.around(prompt) for prompt in bare),
        notes=(*left_out, *notes),
        protocol=None,
        dataset=path.name,
        revision=None,
        sha256=_digest((_given_id(prompt, path), _asked(prompt), prompt.answer) for prompt in bare),
    )


def _not_integers(prompts: Sequence[Prompt]) -> list[str]:
    found = [prompt for prompt in prompts if read_integer(prompt.answer) is None]
    if not found:
        return []
    return [
        f"{len(found)} of {len(prompts)} answers are not plain integers, the first is "
        f"{found[0].answer[:40]!r} of problem {found[0].id!r}; for general answers set "
        "reward.kind = 'math'"
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


def _unknown(name: str) -> str:
    names = benchmark_names()
    if name not in ("", ".") and Path(name).is_dir():
        return f"{name}: is a folder; give a file of problems, or one of {', '.join(names)}"
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{name}: no such benchmark or file; {hint}benchmarks: {', '.join(names)}"
