"""Scores of a model in the two forms that the Hugging Face hub shows, by huggingface_hub's classes.

The model-index is a part of a card's metadata and takes any benchmark. An entry of
`.eval_results/*.yaml` belongs to the leaderboard of a dataset that the hub knows as a benchmark,
and to one of its tasks.

Sources: docs/hub/eval-results.md and eval_results.yaml of huggingface/hub-docs at 242f4a1e; that
values are percent, its docs/hub/model-release-checklist.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from dgpo_cli import __version__
from dgpo_cli.core.codec import parsed
from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.formats import EvalRecord
from dgpo_cli.core.io import read_bytes
from dgpo_cli.core.numbers import UNKNOWN, ends, margin, percent
from dgpo_cli.core.text import markdown_code, markdown_plain
from dgpo_cli.core.types import Card, Evaluation, Interval
from dgpo_cli.evals.eval_folder import EvalFolder
from dgpo_cli.evals.views.evaluation_json import from_json
from dgpo_cli.prompts.benchmarks import benchmark_names, load_manifest
from dgpo_cli.prompts.manifests import HubManifest, Leaderboard

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, EvalResultEntry

MARK = "dgpo"  # in the args of a metric, and the first word of an entry's notes: it is of dgpo


@dataclass(frozen=True, slots=True)
class Score:
    """A score of one model.

    name: the benchmark's, or that of a file. date: of the last sample, as in 2026-01-31.
    card: None if the folder of the evaluation is gone. truncated: a share; NaN is unknown.
    """

    name: str
    k: int
    avg_at_k: float
    rerun_95: Interval | None = None
    problems_95: Interval | None = None
    truncated: float = math.nan
    date: str | None = None
    card: Card | None = None

    @property
    def dataset(self) -> str:
        """Hub id of the dataset if the problems came from there, else the name."""
        on_hub = self.revision is not None and self.card is not None
        return str(self.card.protocol["dataset"]) if on_hub and self.card else self.name

    @property
    def revision(self) -> str | None:
        """Commit of the dataset; None if it is not from the hub."""
        found = None if self.card is None else self.card.protocol.get("revision")
        return None if found is None else str(found)

    @property
    def metric(self) -> str:
        return f"Avg@{self.k}"

    @property
    def protocol(self) -> str | None:
        """Name of the protocol, with the settings that were changed."""
        if self.card is None:
            return None
        entries = self.card.protocol
        changed = ", ".join(sorted(entries.get("changed") or {}))
        return f"{entries.get('name', 'unknown')}{changed and f' (changed: {changed})'}"

    @property
    def greedy(self) -> bool:
        return self.card is not None and self.card.protocol.get("temperature") == 0


def read_score(folder: Path) -> Score:
    """Read the score of an evaluation's folder.

    Raises:
        ConfigError: it has no finished evaluation. DataError: its files are broken.
    """
    stored = EvalFolder(folder)
    if not stored.report_file.is_file():
        raise ConfigError(
            f"{folder}: no {stored.report_file.name} in it; name the folder of an evaluation"
        )
    file = stored.report_file
    evaluation, card = from_json(parsed(read_bytes(file), where=str(file)), where=str(file))
    if card is None:
        raise DataError(f"{file}: has no card, which says what was evaluated")
    return score_of(evaluation, card, folder=folder)


def score_of(evaluation: Evaluation, card: Card, *, folder: Path) -> Score:
    """Return the score of a finished evaluation; its date is that of the samples in `folder`."""
    return Score(
        name=evaluation.bench,
        k=evaluation.k,
        avg_at_k=evaluation.avg_at_k,
        rerun_95=evaluation.rerun_95,
        problems_95=evaluation.problems_95,
        truncated=evaluation.truncated,
        date=_day(EvalFolder(folder).samples.path),
        card=card,
    )


def score_of_line(line: EvalRecord, *, card: Card | None) -> Score:
    """Return a score that training measured."""
    return Score(
        name=PurePath(line.bench).name,
        k=line.k,
        avg_at_k=line.avg_at_k,
        rerun_95=line.rerun_95,
        problems_95=line.problems_95,
        truncated=line.truncated,
        card=card,
    )


def _day(file: Path) -> str | None:
    from datetime import UTC, datetime

    try:
        return datetime.fromtimestamp(file.stat().st_mtime, tz=UTC).date().isoformat()
    except OSError:
        return None


def leaderboard(score: Score) -> tuple[Leaderboard | None, str]:
    """Return where on the hub the score belongs; None, and why, if nowhere."""
    nowhere = f"{score.name} has no leaderboard on the hub"
    if score.card is None or score.name not in benchmark_names():
        return None, nowhere
    manifest = load_manifest(score.name)
    if not isinstance(manifest, HubManifest) or manifest.leaderboard is None:
        return None, nowhere
    if score.dataset != manifest.dataset:
        return None, f"{score.name} was read from a local file, not from the hub"
    if score.card.protocol.get("n_problems") != manifest.problems:
        return None, f"{score.name} was evaluated without some of its problems"
    return manifest.leaderboard, ""


def entry(score: Score, place: Leaderboard, *, url: str | None) -> EvalResultEntry:
    """Return the entry of `.eval_results`. url: of the model's repository, if it is known."""
    from huggingface_hub import EvalResultEntry

    return EvalResultEntry(
        dataset_id=place.dataset,
        task_id=place.task,
        value=round(100 * score.avg_at_k, 2),
        dataset_revision=score.revision if score.dataset == place.dataset else None,
        date=score.date,
        source_url=url,
        source_name=None if url is None else "Model Card",
        notes=_notes(score),
    )


def _notes(score: Score) -> str:
    """Return in one line how a score came about; it begins with the mark."""
    parts = [f"{MARK} {__version__}: {score.metric}"]
    if score.card is not None:
        entries = score.card.protocol
        names = () if score.greedy else ("temperature", "top_p")
        known = [f"{name} {entries[name]}" for name in names if entries.get(name) is not None]
        if limit := entries.get("max_completion_tokens"):
            known.append(f"up to {limit} tokens")
        how = ["greedy"] if score.greedy else []
        if (half := entries.get("stop_when")) is not None:
            how.append(f"sampled until the error over reruns was {margin(half)} points")
        parts.append(", ".join([f"protocol {score.protocol}", *known, *how]))
    if not math.isnan(score.truncated):
        parts.append(f"{percent(score.truncated)} truncated")
    parts += [f"95% {text}" for text in _intervals(score)]
    if score.card is not None:
        parts.append(f"card {score.card.key[:8]}")
    return "; ".join(parts)


def _intervals(score: Score) -> list[str]:
    named = (("over reruns", score.rerun_95), ("over other problems", score.problems_95))
    return [f"{span} {name}" for name, each in named if (span := _span(each)) != UNKNOWN]


def results(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Return the results of a model-index, one a score."""
    from huggingface_hub.repocard_data import eval_results_to_model_index

    # One at a time: results of one dataset would be put under the first one's name and source.
    return [
        found
        for score in scores
        for found in eval_results_to_model_index("", [_result(score)])[0]["results"]
    ]


def _result(score: Score) -> EvalResult:
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type="text-generation",
        dataset_type=score.dataset,
        dataset_name=score.name,
        dataset_revision=score.revision,
        metric_type=score.metric.lower(),
        metric_name=score.metric,
        metric_value=score.avg_at_k,
        metric_args=_args(score),
    )


def _args(score: Score) -> dict[str, Any]:
    """Return what a reader needs to know of a score; shares, as the score."""
    named = {"rerun_95": score.rerun_95, "problems_95": score.problems_95}
    found = {
        MARK: __version__,
        "k": score.k,
        "protocol": score.protocol,
        **{
            name: [interval.low, interval.high]
            for name, interval in named.items()
            if interval is not None and not (math.isnan(interval.low) or math.isnan(interval.high))
        },
        "truncated": None if math.isnan(score.truncated) else score.truncated,
        "greedy": score.greedy or None,
        "stop_when": None if score.card is None else score.card.protocol.get("stop_when"),
        "date": score.date,
        "card": None if score.card is None else score.card.key,
    }
    return {name: value for name, value in found.items() if value is not None}


def is_ours(result: object) -> bool:
    """Return whether a result of a model-index is one of dgpo."""
    metrics = result.get("metrics") if isinstance(result, dict) else None
    return any(
        isinstance(metric, dict) and isinstance(metric.get("args"), dict) and MARK in metric["args"]
        for metric in (metrics if isinstance(metrics, list) else ())
    )


def table(scores: Sequence[Score]) -> str:
    """Return the scores as a Markdown table for the text of a card."""
    errors = "95% over reruns | 95% over other problems"
    rows = [
        f"| benchmark | k | Avg@k | {errors} | truncated | protocol |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for score in scores:
        cells = (
            markdown_plain(score.name),
            str(score.k) + (" (greedy)" if score.greedy else ""),
            percent(score.avg_at_k),
            _span(score.rerun_95),
            _span(score.problems_95),
            percent(score.truncated),
            markdown_code(score.protocol or UNKNOWN),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _span(interval: Interval | None) -> str:
    return UNKNOWN if interval is None else ends(interval)
