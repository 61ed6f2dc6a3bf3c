"""Logs in the formats of other programs, written by hand after their sources.

inspect_ai: src/inspect_ai/log/_log.py and log/_recorders at 499e6152. lighteval:
src/lighteval/logging/evaluation_tracker.py, models/model_output.py, tasks/requests.py at 3fd15266.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Json = dict[str, Any]
SYSTEM = "Think first."
DATE = "2026-01-31T15-23-34.026089"
TASK = "aime25|0"


def sample(
    name: int | str = 1,
    *,
    epoch: int = 1,
    text: Any = r"so \boxed{70}",
    target: Any = "70",
    score: Any = "C",
    answer: str | None = "70",
    **changes: Any,
) -> Json:
    """A sample of inspect_ai. changes: fields of the sample, or of the output's choice."""
    message = {"id": "m", "content": text, "source": "generate", "role": "assistant"}
    turns = [
        {"content": SYSTEM, "role": "system"},
        {"content": f"What is {name}?", "source": "input", "role": "user"},
    ]
    choice = {"message": message, "stop_reason": changes.pop("stop_reason", "stop")}
    return {
        "id": name,
        "epoch": epoch,
        "input": f"What is {name}?",
        "target": target,
        "messages": [*turns, message],
        "output": {
            "model": "m",
            "choices": [choice],
            "usage": {
                "input_tokens": 40,
                "output_tokens": 7,
                "total_tokens": 47,
                "input_tokens_cache_read": 2,
                "reasoning_tokens": 3,
            },
        },
        "scores": {"match": {"value": score, "answer": answer, "explanation": "x", "history": []}},
        "metadata": {},
        "store": {},
        "events": [{"event": "sample_init"}],
        "model_usage": {},
        "attachments": {},
    } | changes


def header(**changes: Any) -> Json:
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "run_id": "r",
            "created": "2026-01-31T12:37:50+00:00",
            "task": "evals/aime2025",
            "task_id": "t",
            "task_args": {},
            "dataset": {"name": "aime", "location": "math-ai/aime25", "samples": 2},
            "model": "openai/some-model",
            "model_generate_config": {"max_tokens": 4096},
            "model_args": {"api_key": "SECRET"},
            "config": {"epochs": 2, "epochs_reducer": ["mean"]},
            "packages": {"inspect_ai": "0.3.160"},
            "metadata": None,
        },
        "plan": {
            "name": "plan",
            "steps": [
                {"solver": "system_message", "params": {"template": SYSTEM}},
                {"solver": "prompt_template", "params": {"template": "{prompt}\n\nBox it."}},
                {"solver": "generate", "params": {}},
            ],
            "config": {"temperature": 0.5, "seed": None},
        },
        "results": {
            "total_samples": 4,
            "completed_samples": 4,
            "scores": [
                {
                    "name": "match",
                    "scorer": "match",
                    "metrics": {"accuracy": {"name": "accuracy", "value": 0.5, "options": {}}},
                }
            ],
        },
        "stats": {"started_at": "", "completed_at": "", "model_usage": {}},
    } | changes


def four() -> list[Json]:
    """Two problems, two epochs each: one sample is wrongly called wrong, and one wrongly right."""
    return [
        sample(2, epoch=1, text=r"\boxed{8}", target="588", score="C", answer="588"),
        sample(2, epoch=2, text=r"\boxed{588}", target="588", score="C", answer="588"),
        sample(1, epoch=1, text=r"\boxed{70}", score="I", answer="7"),
        sample(1, epoch=2, text="no idea", score="I", answer=None),
    ]


def as_json(path: Path, samples: Sequence[Json], **changes: Any) -> Path:
    path.write_text(json.dumps(header(**changes) | {"samples": list(samples)}))
    return path


def entries_of(samples: Sequence[Json], **changes: Any) -> dict[str, Any]:
    return {
        "_journal/start.json": {name: header()[name] for name in ("version", "eval", "plan")},
        **{f"samples/{each['id']}_epoch_{each['epoch']}.json": each for each in samples},
        "summaries.json": [],
        "header.json": header(**changes),
    }


def as_zip(path: Path, entries: dict[str, Any]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, value in entries.items():
            file.writestr(name, json.dumps(value))
    return path


def as_zstd(path: Path, entries: dict[str, Any]) -> Path:
    """A zip file by zstandard (method 93), as inspect_ai writes since 2026, in several frames."""
    body, index = b"", b""
    for name, value in entries.items():
        data = json.dumps(value).encode()
        half = len(data) // 2
        packed = b"".join(
            pa.compress(part, codec="zstd", asbytes=True) for part in (data[:half], data[half:])
        )
        sizes = (zlib.crc32(data), len(packed), len(data), len(name))
        fields = struct.pack("<HHHHHIIIHH", 63, 0, 93, 0, 33, *sizes, 0)
        index += b"PK\x01\x02\x3f\x00" + fields + struct.pack("<HHHII", 0, 0, 0, 0, len(body))
        index += name.encode()
        body += b"PK\x03\x04" + fields + name.encode() + packed
    count = len(entries)
    end = struct.pack("<HHHHIIH", 0, 0, count, count, len(index), len(body), 0)
    path.write_bytes(body + index + b"PK\x05\x06" + end)
    return path


def chunked(samples: Sequence[Json]) -> dict[str, Any]:
    """Entries with every sample in chunks, and its text among the attachments."""
    found = entries_of([])
    for each in samples:
        prefix = f"samples/{each['id']}_epoch_{each['epoch']}"
        shell = {k: v for k, v in each.items() if k not in ("messages", "events", "attachments")}
        text = each["output"]["choices"][0]["message"]["content"]
        message = {**each["output"]["choices"][0]["message"], "content": "attachment://1"}
        shell["output"] = {
            **each["output"],
            "choices": [{"message": message, "stop_reason": "stop"}],
        }
        shell["message_refs"] = [[1, 3], [0, 1]]
        system, user, _ = each["messages"]
        found |= {
            f"{prefix}/sample.json": shell,
            f"{prefix}/messages/0.json": [message, system],
            f"{prefix}/messages/2.json": [user],
            f"{prefix}/events/0.json": [],
            f"{prefix}/attachments/0.json": ["unused"],
            f"{prefix}/attachments/1.json": [text],
        }
    return found


def row(
    name: int = 0,
    *,
    texts: Sequence[str] = (r"\boxed{70}",),
    choices: Sequence[str] = ("70",),
    gold: Any = 0,
    metric: Json | None = None,
    tokens: Sequence[int] | None = None,
    sent: str | None = None,
) -> Json:
    """A row of lighteval's details; tokens: of each text."""
    counts = tokens or [5] * len(texts)
    return {
        "doc": {
            "query": f"What is {name}?",
            "choices": list(choices),
            "gold_index": gold,
            "id": str(name),
            "instruction": None,
            "generation_size": 100,
            "num_samples": len(texts),
            "task_name": TASK,
        },
        "metric": metric or {"avg@n:n=1": 1.0},
        "model_response": {
            "input": sent or f"<user>What is {name}?<assistant>",
            "input_tokens": [1, 2],
            "text": list(texts),
            "output_tokens": [[1] * count for count in counts],
            "reasonings": [],
            "logits": [[0.5]],
        },
    }


RESULTS = {
    "config_general": {
        "lighteval_sha": "3fd15266" * 5,
        "model_name": "me/model",
        "model_config": {
            "model_name": "me/model",
            "system_prompt": SYSTEM,
            "generation_parameters": {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 50},
        },
    },
    "results": {TASK: {"avg@n:n=4": 0.25, "avg@n:n=4_stderr": 0.1}, "all": {"avg@n:n=4": 0.25}},
    "versions": {TASK: 2},
    "config_tasks": {TASK: {"name": "aime25", "hf_repo": "yentinglin/aime_2025"}},
}


def as_details(root: Path, rows: Sequence[Json], *, task: str = TASK, results: bool = True) -> Path:
    """Write details, and the results of the run, where lighteval does; return the details."""
    folder = root / "details" / "me" / "model" / DATE
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"details_{task}_{DATE}.parquet"
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    if results:
        place = root / "results" / "me" / "model"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"results_{DATE}.json").write_text(json.dumps(RESULTS))
    return path
