"""The folder of an evaluation: which card its samples belong to, and who may write.

card.json       what affects the score; samples of two cards never mix
settings.toml   the resolved settings
samples.jsonl   a line a sample, appended as they come
report.json     the report of the last finished evaluation
run.lock        the process that may write
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated

from pydantic import Field

from dgpo_cli.core import io
from dgpo_cli.core.codec import Format, encoded, filled, parsed
from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.formats import CARD, CardRecord
from dgpo_cli.core.schema import Count, Number, Text
from dgpo_cli.core.types import Card, Evaluation
from dgpo_cli.evals.samples import SampleFile
from dgpo_cli.evals.views.evaluation_json import to_json
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.stats.cards import differences


@dataclass(frozen=True, slots=True)
class _Protocol:
    """The entries that a report needs; the others are only shown and compared."""

    bench: Text
    n_problems: Annotated[Count, Field(ge=1)]
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    top_k: Count = 0
    stop_when: Annotated[Number, Field(gt=0, lt=1)] | None = None


_PROTOCOL = Format(_Protocol)


class EvalFolder:
    """The files of one evaluation. Only the holder of the lock writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.card_file = path / "card.json"
        self.settings_file = path / "settings.toml"
        self.report_file = path / "report.json"
        self.samples = SampleFile(path / "samples.jsonl")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder for this process; create it if needed.

        Raises:
            RunFolderBusy: another process has locked it; the message names it.
            ConfigError: the folder cannot be created, or contains a training run.
        """
        run = RunFolder(self.path)
        if run.metrics_file.exists() or run.checkpoints_dir.exists():
            raise ConfigError(f"{self.path}: contains a training run; give another --out")
        with io.locked(self.path):
            yield

    def begin(self, card: Card, *, settings: str, fresh: bool) -> None:
        """Start or resume an evaluation of `card`. fresh: delete what is there first.

        Raises:
            ConfigError: samples of another card are there; each difference is named.
        """
        if fresh:
            for path in (self.samples.path, self.card_file, self.report_file, self.settings_file):
                path.unlink(missing_ok=True)
        if self.samples.path.exists():
            self._compare(card)
        else:
            self.write_card(card)
        io.write(self.settings_file, settings)

    def is_of(self, card: Card) -> bool:
        """Return whether the stored samples, if any, belong to this card."""
        if not self.samples.path.exists():
            return True
        try:
            return self.read_card().key == card.key
        except DataError:  # no readable card: unknown
            return False

    def read_card(self) -> Card:
        """Read card.json.

        Raises:
            DataError: it is missing or broken.
        """
        where = str(self.card_file)
        record = CARD.read(parsed(io.read_bytes(self.card_file), where=where), where=where)
        needed = {field.name: f"protocol.{field.name}" for field in fields(_Protocol)}
        _PROTOCOL.read(record.protocol, where=where, named=needed)
        return filled(Card, record)

    def write_card(self, card: Card) -> None:
        """Write card.json in one piece."""
        data = CARD.dump(filled(CardRecord, card))
        io.write(self.card_file, encoded(data, indent=2) + "\n")

    def write_report(self, evaluation: Evaluation, card: Card) -> None:
        """Write report.json in one piece."""
        io.write(self.report_file, encoded(to_json(evaluation, card), indent=2) + "\n")

    def _compare(self, card: Card) -> None:
        fix = "give another --out, or --fresh to start from scratch"
        if not self.card_file.exists():
            raise ConfigError(f"{self.path}: contains samples without a card.json; {fix}")
        entries = differences(asdict(self.read_card()), asdict(card))
        changed = [f"{key}: {change}" for key, change in entries]
        if changed:
            raise ConfigError(
                f"{self.path}: contains samples of another evaluation: {'; '.join(changed)}; {fix}"
            )
