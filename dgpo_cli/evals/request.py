"""The requests and results of dgpo eval and dgpo regrade."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgpo_cli.config.layers import Layer
from dgpo_cli.config.load import Resolved, layered
from dgpo_cli.config.protocols import Protocol
from dgpo_cli.core.codec import Format
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.events import Observer
from dgpo_cli.core.types import Card, Evaluation, Outcome, Price
from dgpo_cli.samplers.endpoint.budget import Budget


@dataclass(frozen=True, slots=True)
class Subject:
    """What is evaluated: settings, the adapter if any, and a name for files."""

    resolved: Resolved
    adapter: Path | None
    name: str


def trained(run: Path, resolved: Resolved, *, adapter: Path | None, observer: Observer) -> Subject:
    """Return the newest checkpoint of a run folder, under these settings.

    adapter: another one to put on the model of a run that trained an adapter.

    Raises:
        CheckpointError: there is none, or it is damaged.
        ConfigError: an adapter is given, and the run trained none.
    """
    from dgpo_cli.runs.run_folder import checkpoint_to_load

    checkpoint = checkpoint_to_load(run, step=None, observer=observer)
    name = run.resolve().name
    if resolved.settings.adapter.kind == "lora":
        return Subject(resolved, adapter or checkpoint, name)
    if adapter is not None:
        raise ConfigError(f"--adapter={adapter}: this run trained no adapter; leave it out")
    model = Layer("--run", {"model": {"path": str(checkpoint)}})
    return Subject(layered(resolved, model), None, name)


@dataclass(frozen=True, slots=True)
class EvalRequest:
    """An evaluation; what affects samples is in the settings.

    bench: name of a benchmark, or a file of problems. data: a local copy of a named benchmark.
    name: the model's name in that of the folder.
    out: the folder; None for evals/BENCH-NAME-CARD.
    columns: other names of the columns "problem" and "answer".
    strict: stop at faults of the data; None leaves it to the benchmark.
    fresh: delete what is in the folder.
    second_opinion: ask the math checker as well if the checker is for integers.
    price: what tokens cost, if it is known. budget: the limit on the cost, if there is one; all
        requests of a command share it.
    stop_when: half the width of the rerun interval at which sampling stops; k is then the most.
    """

    bench: str
    k: int
    name: str
    out: Path | None = None
    protocol: Protocol | None = None
    adapter: Path | None = None
    data: Path | None = None
    columns: Mapping[str, str] | None = None
    strict: bool | None = None
    fresh: bool = False
    second_opinion: bool = True
    price: Price | None = None
    stop_when: float | None = None
    budget: Budget | None = None


@dataclass(frozen=True, slots=True)
class EvalResult:
    """A finished evaluation. sampled: the completions drawn now; the others were stored.

    stopped: why it has fewer samples than were asked for, if it has.
    """

    evaluation: Evaluation
    card: Card
    out: Path
    sampled: int
    stopped: str | None = None


@dataclass(frozen=True, slots=True)
class Flip:
    """A stored sample whose verdict changed when it was judged again.

    answer: None where answers are not shown.
    """

    prompt_id: str
    index: int
    answer: str | None
    old: Outcome
    new: Outcome
    old_extracted: str | None
    new_extracted: str | None


@dataclass(frozen=True, slots=True)
class Logged:
    """What another program reported for the samples of its log: its own scores, by its names."""

    program: str
    version: str | None
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class RegradeJson:
    """What flipped, and the new report; its fields are in evaluation.schema.json.

    logged, out: what a log of another program said, and the folder that was made of it.
    """

    flips: tuple[Flip, ...]
    report: dict[str, Any]
    logged: Logged | None = None
    out: str | None = None


REGRADE = Format(
    RegradeJson,
    name="regrade",
    what="dgpo regrade --json",
    stamp="version",
    sparse=("logged", "out"),
)


@dataclass(frozen=True, slots=True)
class RegradeResult:
    """Samples judged again: their number, and those that flipped, in file order.

    logged: what another program said of them, if they are of its log. out: their folder.
    """

    evaluation: Evaluation
    card: Card
    samples: int
    flips: tuple[Flip, ...]
    logged: Logged | None = None
    out: Path | None = None
