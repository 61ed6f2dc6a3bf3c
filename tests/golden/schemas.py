"""Which schema in docs/schemas each file and each --json of the golden runs is held to."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

FOLDER = Path(__file__).parents[2] / "docs" / "schemas"
# By the name of the group of files and the path in it; of several, the last is of all other lines.
SCHEMAS = {
    r"(.*/)?values\.jsonl": "values, value",
    r"rollout/rollouts\.jsonl": "rollout",
    r".*/(rollouts|bad_batches)/step-\d+\.jsonl": "trained-rollout",
    r".*metrics\.jsonl": "metrics",
    r".*evals\.jsonl": "eval",
    r".*changes\.jsonl": "change",
    r".*trackers\.json": "trackers",
    r".*settings\.toml": "settings",
    r".*samples\.jsonl": "sample",
    r".*card\.json": "card",
    r".*report\.json|evaluations/(before|after)\.json": "evaluation",
    r".*state\.json": "state",
    r".*carried\.json": "carried",
    r".*waiting\.json": "waiting",
    r"report/printed\.json": "report",
    r"study/printed\.json": "study",
    r"regrade/printed\.json": "regrade",
    r"evaluations/compare\.json": "comparison",
    r"inspect/.*\.json": "inspection",
    r"check/.*\.jsonl": "check",
    r"plan/.*\.json": "plan",
}
# Written by transformers, tokenizers and peft; and the types of what doctor prints.
FOREIGN = re.compile(
    r"doctor/printed\.json|.*/(tokenizer|tokenizer_config|config|generation_config|adapter_config)\.json"
)


def hold(name: str, content: Path | str) -> None:
    """Validate a file, or what was printed, by its schema; every JSON of ours has one."""
    if not name.endswith((".json", ".jsonl", "settings.toml")) or FOREIGN.fullmatch(name):
        return
    found = [schema for pattern, schema in SCHEMAS.items() if re.fullmatch(pattern, name)]
    assert found, f"{name}: has no schema; add its Format to docs/make_schemas.py"
    schemas = found[0].split(", ")
    text = content if isinstance(content, str) else content.read_text(encoding="utf-8")
    for number, value in enumerate(_values(name, text), start=1):
        validator = _validator(schemas[min(number, len(schemas)) - 1])
        for error in validator.iter_errors(value):
            raise AssertionError(f"{name}: {number}: {error.json_path}: {error.message[:200]}")
        _documented(value, validator.schema, name=name)


def _values(name: str, text: str) -> Iterator[Any]:
    if name.endswith(".toml"):
        yield tomllib.loads(text)
    else:
        for part in text.splitlines() if name.endswith(".jsonl") else [text]:
            yield json.loads(part, parse_constant=_refused)


def _refused(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


def _documented(value: Any, schema: Any, *, name: str) -> None:
    """Every field of the outermost object is one that the schema documents."""
    if "properties" in schema and "check --json" not in schema["title"]:  # which copies others
        assert set(value) <= set(schema["properties"]), name


@cache
def _validator(name: str) -> Any:
    schema = json.loads((FOLDER / f"{name}.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)
