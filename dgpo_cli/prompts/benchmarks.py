"""Benchmarks: the manifests in data/benchmarks, and any local file of problems."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from dgpo_cli.errors import ConfigError, DataError
from dgpo_cli.prompts.datasets import read_prompts, sum_prompt
from dgpo_cli.prompts.sums import held_out
from dgpo_cli.resources import resource_dir
from dgpo_cli.schema import Frozen
from dgpo_cli.types import Prompt


class SumsManifest(Frozen):
    """Generated problems from the side of the split that training never draws."""

    kind: Literal["sums"]
    title: str = Field(min_length=1, description="One line on what is asked.")
    operations: int = Field(ge=1, description="Operations in each problem.")
    count: int = Field(ge=1, description="Problems.")
    max_operand: int = Field(99, ge=1, le=999, description="Largest number in a problem.")


# With a second kind this becomes Annotated[SumsManifest | Other, Field(discriminator="kind")].
Manifest = SumsManifest


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A fixed list of problems; `notes` says what was left out, a line each."""

    name: str
    prompts: tuple[Prompt, ...]
    notes: tuple[str, ...] = ()


def benchmark_names() -> tuple[str, ...]:
    """The benchmarks that dgpo ships, sorted."""
    return tuple(sorted(path.stem for path in _folder().glob("*.toml")))


def load_manifest(name: str) -> Manifest:
    """Return the manifest of the benchmark `name`, one of `benchmark_names()`.

    Raises:
        DataError: the manifest is broken.
    """
    path = _folder() / f"{name}.toml"
    try:
        return Manifest.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path}: not TOML ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "manifest"
        raise DataError(f"{path}: {where}: {first['msg']}") from error


def load_benchmark(
    name_or_path: str,
    *,
    template: str = "{problem}",
    system: str | None = None,
    problem_column: str = "problem",
    answer_column: str = "answer",
) -> Benchmark:
    """Return the benchmark of that name, or the problems of that file.

    template and system are those of settings.prompts. A name that dgpo ships is taken before a
    file of that name; ./NAME means the file.

    Raises:
        ConfigError: there is neither such a benchmark nor such a file.
        DataError: the file or the manifest is broken.
    """
    if name_or_path in benchmark_names():
        return _generated(name_or_path, template=template, system=system)
    path = Path(name_or_path)
    if not path.is_file():
        raise ConfigError(_unknown(name_or_path))
    prompts, notes = read_prompts(
        path,
        template=template,
        system=system,
        problem_column=problem_column,
        answer_column=answer_column,
    )
    return Benchmark(name=path.stem, prompts=prompts, notes=notes)


def _generated(name: str, *, template: str, system: str | None) -> Benchmark:
    manifest = load_manifest(name)
    problems = held_out(manifest.operations, count=manifest.count, max_operand=manifest.max_operand)
    return Benchmark(
        name=name,
        prompts=tuple(
            sum_prompt(problem, template=template, system=system, source=name)
            for problem in problems
        ),
    )


def _unknown(name: str) -> str:
    names = benchmark_names()
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{name}: no such benchmark or file; {hint}benchmarks: {', '.join(names)}"


def _folder() -> Path:
    return resource_dir("data") / "benchmarks"
