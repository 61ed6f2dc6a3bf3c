"""Manifests of benchmarks: where the problems are, how a row is read, what must hold of them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.refusal import problem, shown
from dgpo_cli.core.schema import Frozen

SHA256 = r"^[0-9a-f]{64}$"
AnswerKind = Literal["integer", "math", "choice"]
Value = str | int
_KINDS = ("sums", "hub", "file")


class _Head(Frozen):
    """What every manifest may say."""

    title: str = Field(min_length=1, description="One line on what is asked.")
    aliases: tuple[str, ...] = Field((), description="Other names; case, - and _ do not count.")
    licence: str | None = Field(None, min_length=1, description="Licence of the problems.")
    protocol: str | None = Field(
        None,
        min_length=1,
        description="Protocol that it belongs to; none: the settings as they are.",
    )
    settings: dict[str, dict[str, Any]] = Field(
        {},
        description="Settings that a protocol fixes, on top of the protocol's: prompts, rollout, "
        "reward.",
    )


class SumsManifest(_Head):
    """Generated problems from the side of the split that training never draws."""

    kind: Literal["sums"]
    operations: int = Field(ge=1, description="Operations in each problem.")
    count: int = Field(ge=1, description="Problems.")
    max_operand: int = Field(99, ge=1, le=999, description="Largest number in a problem.")
    sha256: str | None = Field(
        None, pattern=SHA256, description="Digest of the problems; others are refused."
    )

    @property
    def answer_kind(self) -> AnswerKind:
        return "integer"

    @property
    def problems(self) -> int:
        return self.count


class ManifestColumns(Frozen):
    """Names of the fields of a row; a dotted name reaches into nested ones."""

    id: str = Field("id", min_length=1, description="Field with the problem's id.")
    problem: str = Field("problem", min_length=1, description="Field with the problem's text.")
    answer: str = Field(
        "answer",
        min_length=1,
        description="Field with the answer; of a choice its letter or its text.",
    )
    index: str | None = Field(
        None, min_length=1, description="Field with the number of the right option, from 0."
    )
    options: str | None = Field(None, min_length=1, description="Field with the list of options.")
    wrong: tuple[str, ...] = Field(
        (), description="Fields with a wrong option each; `answer` is then the right one's text."
    )


class Where(Frozen):
    """Which values of a field belong to the benchmark."""

    any_of: tuple[Value, ...] = Field((), description="One of these.")
    at_least: int | None = Field(None, description="A number from this on.")
    at_most: int | None = Field(None, description="A number up to this.")

    def holds(self, value: object) -> bool:
        """Return whether a row with this value belongs to the benchmark."""
        if self.any_of and str(value) not in map(str, self.any_of):
            return False
        if self.at_least is None and self.at_most is None:
            return True
        try:
            number = float(str(value))
        except ValueError:
            return False
        low = self.at_least is None or number >= self.at_least
        return low and (self.at_most is None or number <= self.at_most)


class Leaderboard(Frozen):
    """Where the hub keeps scores of a benchmark: a dataset that it knows as one, and a task of it.

    Source: docs/hub/eval-results.md of huggingface/hub-docs.
    """

    dataset: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="Hub id of the dataset.")
    task: str = Field(min_length=1, description="Id of the task in the dataset's eval.yaml.")


class RowsManifest(_Head):
    """Problems that are rows of files, and what must hold of them."""

    file: str | tuple[str, ...] = Field(
        min_length=1, description="The file with the problems, or a list of files."
    )
    sha256: str | None = Field(None, pattern=SHA256, description="Digest of that file.")
    problems: int | None = Field(None, ge=1, description="Problems that there must be.")
    answer_kind: AnswerKind = Field("integer", description="What the answers are.")
    minimum: int | None = Field(None, description="Smallest answer, of integers.")
    maximum: int | None = Field(None, description="Largest answer, of integers.")
    choices: int = Field(4, ge=2, le=26, description="Options of a choice at most.")
    shuffle: bool = Field(
        False, description="Shuffle the options, by the run's seed and the problem's id."
    )
    mark: Literal["A.", "A)", "(A)"] = Field("A.", description="How an option begins.")
    columns: ManifestColumns = Field(ManifestColumns(), description="Fields of a row of the file.")
    where: dict[str, Where] = Field(
        {}, description="By field: the rows that belong to the benchmark; others are left out."
    )
    repeats: bool = Field(
        False, description="Keep problems that the data has twice; otherwise they are a fault."
    )
    answers: dict[str, int] = Field(
        {},
        description="The key: id of a problem to its answer, in the order of the examination.",
    )
    remarks: dict[str, str] = Field(
        {}, description="By id: what to know when an answer differs from the key."
    )

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,) if isinstance(self.file, str) else self.file

    @model_validator(mode="after")
    def _key_fits(self) -> Self:
        if self.problems is not None and len(self.answers) > self.problems:
            raise ValueError(f"{len(self.answers)} answers for problems={self.problems}")
        for name, answer in self.answers.items():
            if not self.in_range(answer):
                raise ValueError(f"answer {answer} of {name} is not in range")
        if unknown := self.remarks.keys() - self.answers.keys():
            raise ValueError(f"a remark on {min(unknown)}, which has no answer")
        return self

    @model_validator(mode="after")
    def _parts_go_together(self) -> Self:
        columns, choice = self.columns, self.answer_kind == "choice"
        if choice and bool(columns.options) == bool(columns.wrong):
            raise ValueError("a choice needs columns.options or columns.wrong, one of them")
        if not choice and (columns.options or columns.wrong or columns.index or self.shuffle):
            raise ValueError("options and shuffle are for answer_kind = 'choice'")
        if columns.wrong and columns.index:
            raise ValueError("columns.index goes with columns.options")
        bounded = self.minimum is not None or self.maximum is not None
        if bounded and self.answer_kind != "integer":
            raise ValueError("minimum and maximum are for answer_kind = 'integer'")
        if self.answers and self.answer_kind != "integer":
            raise ValueError("a key is for answer_kind = 'integer'")
        if self.sha256 is not None and len(self.files) > 1:
            raise ValueError("sha256 is that of one file, and there are several")
        return self

    def in_range(self, answer: int) -> bool:
        """Return whether an integer may be an answer."""
        low = self.minimum is None or answer >= self.minimum
        return low and (self.maximum is None or answer <= self.maximum)


class HubManifest(RowsManifest):
    """Problems of a Hugging Face dataset, or of a local copy of it."""

    kind: Literal["hub"]
    dataset: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="Hub id of the dataset.")
    revision: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{40}$",
        description="Commit of the dataset; none: the hub's newest, which the card then names.",
    )
    leaderboard: Leaderboard | None = Field(None, description="The hub's leaderboard.")
    gated: bool = Field(False, description="The hub asks to accept its conditions first.")


class FileManifest(RowsManifest):
    """Problems of a file beside the manifest."""

    kind: Literal["file"]


AnyManifest = SumsManifest | HubManifest | FileManifest
_READER: TypeAdapter[AnyManifest] = TypeAdapter(Annotated[AnyManifest, Field(discriminator="kind")])


def read_manifest(path: Path) -> AnyManifest:
    """Read a manifest.

    Raises:
        ConfigError: there is no such file.
        DataError: it is not a manifest; the message names the field.
    """
    try:
        return _READER.validate_python(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not TOML ({error})") from error
    except ValidationError as error:
        raise DataError(f"{path}: {_explained(error)}") from error


def _explained(error: ValidationError) -> str:
    first = error.errors()[0]
    # pydantic puts the kind in front of the field, and the types of a union behind it
    where = [
        str(part)
        for part in first["loc"][1:]
        if part != "str" and not str(part).startswith("tuple[")
    ]
    if first["type"] == "union_tag_invalid":
        return f"kind={shown(first['input'].get('kind'))}: must be {', '.join(_KINDS)}"
    if first["type"] == "union_tag_not_found":
        return f"kind: give one of {', '.join(_KINDS)}"
    if first["type"] == "value_error":
        return f"{'.'.join(where) or 'manifest'}: {first['ctx']['error']}"
    return f"{'.'.join(where) or 'manifest'}: {problem(first)}"
