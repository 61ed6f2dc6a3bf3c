"""The manifests in data/benchmarks: the data of a named benchmark and its answer key."""

from __future__ import annotations

import tomllib
from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.resources import resource_dir
from dgpo_cli.core.schema import Frozen

SHA256 = r"^[0-9a-f]{64}$"


class SumsManifest(Frozen):
    """Generated problems from the side of the split that training never draws."""

    kind: Literal["sums"]
    title: str = Field(min_length=1, description="One line on what is asked.")
    protocol: str | None = Field(
        None,
        min_length=1,
        description="Protocol that it belongs to; none: the settings as they are.",
    )
    operations: int = Field(ge=1, description="Operations in each problem.")
    count: int = Field(ge=1, description="Problems.")
    max_operand: int = Field(99, ge=1, le=999, description="Largest number in a problem.")
    sha256: str | None = Field(
        None, pattern=SHA256, description="Digest of the problems; others are refused."
    )


class ManifestColumns(Frozen):
    """Names of the fields of a row."""

    id: str = Field("id", min_length=1, description="Field with the problem's id.")
    problem: str = Field("problem", min_length=1, description="Field with the problem's text.")
    answer: str = Field("answer", min_length=1, description="Field with the answer.")


class Leaderboard(Frozen):
    """Where the hub keeps scores of a benchmark: a dataset that it knows as one, and a task of it.

    Source: docs/hub/eval-results.md of huggingface/hub-docs.
    """

    dataset: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="Hub id of the dataset.")
    task: str = Field(min_length=1, description="Id of the task in the dataset's eval.yaml.")


class HubManifest(Frozen):
    """Problems of a Hugging Face dataset, or of a local copy of it, and the key to them."""

    kind: Literal["hub"]
    title: str = Field(min_length=1, description="One line on what is asked.")
    protocol: str | None = Field(None, min_length=1, description="Protocol that it belongs to.")
    dataset: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="Hub id of the dataset.")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$", description="Commit of the dataset.")
    file: str = Field(min_length=1, description="The file with the problems.")
    sha256: str | None = Field(None, pattern=SHA256, description="Digest of that file.")
    problems: int = Field(ge=1, description="Problems that there must be.")
    minimum: int = Field(0, description="Smallest answer.")
    maximum: int = Field(999, description="Largest answer.")
    columns: ManifestColumns = Field(ManifestColumns(), description="Fields of a row of the file.")
    leaderboard: Leaderboard | None = Field(None, description="Where the hub keeps its scores.")
    answers: dict[str, int] = Field(
        min_length=1,
        description="The key: id of a problem to its answer, in the order of the examination.",
    )
    remarks: dict[str, str] = Field(
        {}, description="By id: what to know when an answer differs from the key."
    )

    @model_validator(mode="after")
    def _key_fits(self) -> Self:
        if len(self.answers) > self.problems:
            raise ValueError(f"{len(self.answers)} answers for problems={self.problems}")
        for name, answer in self.answers.items():
            if not self.minimum <= answer <= self.maximum:
                raise ValueError(f"answer {answer} of {name} is not in range")
        if unknown := self.remarks.keys() - self.answers.keys():
            raise ValueError(f"a remark on {min(unknown)}, which has no answer")
        return self


Manifest = Annotated[SumsManifest | HubManifest, Field(discriminator="kind")]
_READER: TypeAdapter[SumsManifest | HubManifest] = TypeAdapter(Manifest)


def benchmark_names() -> tuple[str, ...]:
    """Return the names of the benchmarks, sorted."""
    folder = resource_dir("data") / "benchmarks"
    return tuple(sorted(path.stem for path in folder.glob("*.toml")))


def load_manifest(name: str) -> SumsManifest | HubManifest:
    """Return the manifest of the benchmark `name`, one of `benchmark_names()`.

    Raises:
        DataError: the manifest is broken.
    """
    path = resource_dir("data") / "benchmarks" / f"{name}.toml"
    try:
        return _READER.validate_python(tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path}: not TOML ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        kinds = ("sums", "hub")  # pydantic puts the kind in front of the field
        where = ".".join(str(part) for part in first["loc"] if part not in kinds) or "manifest"
        raise DataError(f"{path}: {where}: {first['msg']}") from error
