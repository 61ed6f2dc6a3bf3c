"""The model card of a run: Markdown with the hub's metadata, and no text from a model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from dgpo_cli import __version__
from dgpo_cli.core.numbers import cell, short
from dgpo_cli.core.text import markdown_code, markdown_plain
from dgpo_cli.core.types import SettingChange

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_CURVE_ROWS = 11
_ENDS = 5  # steps in the first and in the last mean
_CURVE = (
    ("reward/mean", "reward"),
    ("outcome/correct", "correct"),
    ("completion/length_mean", "tokens"),
    ("policy/entropy", "entropy (nats)"),
    ("policy/hellinger_sq_mean", "d to the reference"),
)
# Settings that could contain an address or a key; they say nothing about the model.
_LEFT_OUT = ("url", "urls", "api_key", "password", "secret", "host")


@dataclass(frozen=True, slots=True)
class CardEvaluation:
    """A score of the weights that are pushed. dataset, revision: on the hub; None if not there."""

    bench: str
    k: int
    avg_at_k: float
    dataset: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class CardFacts:
    """The contents of a card.

    base: hub id of the base model, or the name of a local folder. settings: values by dotted key,
    at the pushed step. changes, metrics: up to that step.
    """

    title: str
    base: str
    base_is_on_hub: bool
    revision: str | None
    is_adapter: bool
    step: int
    settings: Mapping[str, Any]
    changes: Sequence[SettingChange]
    metrics: Sequence[Mapping[str, float | None]]
    evaluations: Sequence[CardEvaluation] = ()


def model_card(facts: CardFacts) -> str:
    """Return the text of README.md."""
    parts = [
        _metadata(facts),
        f"# {markdown_plain(facts.title)}",
        _summary(facts),
        _usage(facts),
        "## Data\n\n" + _data(facts.settings),
        "## Reward over the run\n\n" + _curve(facts.metrics),
        *_changes(facts.changes),
        "## Settings\n\n" + _settings(facts.settings),
        f"Made with dgpo {__version__} (DGPO: arXiv 2605.03327).",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(facts: CardFacts) -> str:
    from huggingface_hub import ModelCardData

    on_hub, relation = facts.base_is_on_hub, "adapter" if facts.is_adapter else "finetune"
    data = ModelCardData(
        library_name="peft" if facts.is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["dgpo", "reinforcement-learning", *(["lora"] if facts.is_adapter else [])],
        model_name=markdown_plain(facts.title) if facts.evaluations else None,
        eval_results=list(map(_result, facts.evaluations)) or None,
        base_model=facts.base if on_hub else None,
        base_model_relation=relation if on_hub else None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _result(evaluation: CardEvaluation) -> EvalResult:
    """Return an evaluation as the hub shows it; the score is a share."""
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type="text-generation",
        dataset_type=evaluation.dataset or evaluation.bench,
        dataset_name=evaluation.bench,
        dataset_revision=evaluation.revision,
        metric_type=f"avg@{evaluation.k}",
        metric_name=f"Avg@{evaluation.k}",
        metric_value=evaluation.avg_at_k,
    )


def _summary(facts: CardFacts) -> str:
    what = "A LoRA adapter for" if facts.is_adapter else "All weights of a model made from"
    where = "" if facts.base_is_on_hub else " (a local folder, not on the hub)"
    revision = f" at revision {_code(facts.revision)}" if facts.revision else ""
    settings = facts.settings
    return (
        f"{what} {_code(facts.base)}{where}{revision}, trained for {facts.step} steps with "
        f"credit rule {_code(settings['credit.rule'])} and loss aggregation "
        f"{_code(settings['loss.aggregation'])}: {settings['rollout.prompts_per_step']} prompts of "
        f"{settings['rollout.group_size']} completions a step{_until(facts.changes)}."
    )


def _until(changes: Sequence[SettingChange]) -> str:
    steps = sorted({each.step for each in changes})
    return f" (other settings until step {steps[-1]}, see below)" if steps else ""


def _usage(facts: CardFacts) -> str:
    model, imported = "AutoModelForCausalLM", "from transformers import AutoModelForCausalLM, "
    if facts.is_adapter:
        model = "AutoPeftModelForCausalLM"
        imported = f"from peft import {model}\nfrom transformers import "
    load = '.from_pretrained("THIS_REPOSITORY")'
    code = f"{imported}AutoTokenizer\n\nmodel = {model}{load}\ntokenizer = AutoTokenizer{load}"
    return f"```python\n{code}\n```"


def _data(settings: Mapping[str, Any]) -> str:
    match settings["prompts.kind"]:
        case "hub":
            revision = settings.get("prompts.revision")
            at = f" at revision {_code(revision)}" if revision else ""
            split = settings.get("prompts.split")
            return f"Dataset {_code(settings['prompts.dataset'])}{at}, split {_code(split)}."
        case "file":
            return f"Problems of a local file, {_code(settings['prompts.path'])}."
        case kind:
            return f"Problems generated by dgpo ({_code(kind)})."


def _curve(metrics: Sequence[Mapping[str, float | None]]) -> str:
    """Return the table of some evenly spaced steps, the first and last among them."""
    if not metrics:
        return "No metrics were kept."
    count = min(len(metrics), _CURVE_ROWS)
    chosen = sorted({round(i * (len(metrics) - 1) / max(count - 1, 1)) for i in range(count)})
    columns = [(key, name) for key, name in _CURVE if any(key in line for line in metrics)]
    rows = [["step", *(name for _, name in columns)], ["---:"] * (len(columns) + 1)]
    for index in chosen:
        line = metrics[index]
        rows.append(
            [cell(line.get("step"), "{:,.0f}".format), *(cell(line.get(key)) for key, _ in columns)]
        )
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    first, last = _mean(metrics[:_ENDS]), _mean(metrics[-_ENDS:])
    steps = min(_ENDS, len(metrics))
    return f"{table}\n\nMean reward of the first {steps} steps {first}, of the last {last}."


def _mean(lines: Sequence[Mapping[str, float | None]]) -> str:
    found = [value for line in lines if (value := line.get("reward/mean")) is not None]
    return short(sum(found) / len(found)) if found else "unknown"


def _settings(settings: Mapping[str, Any]) -> str:
    rows = ["| setting | value |", "| --- | --- |"]
    for key, value in settings.items():
        if value is None or key.rpartition(".")[2] in _LEFT_OUT:
            continue
        rows.append(f"| {_code(key)} | {_code(value)} |")
    return "\n".join(rows)


def _changes(changes: Sequence[SettingChange]) -> Iterator[str]:
    """Yield the table of settings that changed during the run, if any."""
    if not changes:
        return
    rows = ["| after step | setting | until then | from then on |", "| ---: | --- | --- | --- |"]
    for each in changes:
        values = (_code("unset" if value is None else value) for value in (each.old, each.new))
        rows.append(f"| {each.step} | {_code(each.setting)} | {' | '.join(values)} |")
    text = "The run continued with other settings after these steps."
    yield f"## Changed within the run\n\n{text}\n\n" + "\n".join(rows)


def _code(value: object) -> str:
    """Format a value as code; of a local path only the last part."""
    if isinstance(value, str):
        text = json.dumps(_without_folders(value), ensure_ascii=False)[1:-1]
    else:
        text = json.dumps(value, ensure_ascii=False, default=list)
    return markdown_code(text)


def _without_folders(text: str) -> str:
    return PurePath(text).name if text.startswith(("/", "~", ".")) and "\n" not in text else text
