"""Laws of dgpo inspect as a process: valid JSON whatever stands in a file, and a reader may go."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from dgpo_cli.core.resources import resource_dir
from tests.cli.helpers import dgpo, environment, in_process, on_terminal, without_escapes

jsonschema = pytest.importorskip("jsonschema")
SCHEMA = json.loads(
    (Path(__file__).parents[2] / "docs" / "schemas" / "inspection.schema.json").read_text(
        encoding="utf-8"
    )
)
DGPO = (sys.executable, "-m", "dgpo_cli")


def line(*, index: int, weights: list[float], **changes: Any) -> dict[str, Any]:
    """A line as training writes it, of ids that are text, control characters and half an é."""
    ids = [21, 15, 64, 103, 22, 130, 1][: len(weights)]
    numbers = [0.25 * at for at in range(len(ids))]
    return {
        "version": 1,
        "prompt_id": "\x1b[31mp",
        "prompt": "1+1?\u202e",
        "messages": [{"role": "user", "content": "1+1?\u202e"}],
        "answer": "2",
        "index": index,
        "completion": "x",
        "prompt_token_ids": [21],
        "token_ids": ids,
        "sampling_logprobs": [-x for x in numbers],
        "temperature": 1.0,
        "finish_reason": "stop",
        "outcome": "correct",
        "extracted": "2",
        "reward": 1.0,
        "seed": 1,
        "policy_version": 5,
        "advantage": 0.5,
        "vocab_size": 261,
        "credit": {"rule": "dgpo", "tau": 0.5, "kappa": 1.0},
        "logprobs": [None, *(-x for x in numbers[1:])],
        "entropy": numbers,
        "hellinger_sq": [0.125 * x for x in numbers],
        "scores": numbers,
        "weights": weights,
        **changes,
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder of two completions, the second with less even weights."""
    folder = tmp_path / "run"
    (folder / "rollouts").mkdir(parents=True)
    (folder / "tokenizer").symlink_to(resource_dir("data") / "tiny")
    lines = [line(index=0, weights=[1.0] * 7), line(index=1, weights=[0.5] * 6 + [4.0])]
    text = "".join(json.dumps(each) + "\n" for each in lines)
    (folder / "rollouts" / "step-000001.jsonl").write_text(text)
    return folder


@pytest.mark.parametrize(
    "arguments",
    [[], ["--tau", "0.02"], ["--rule", "uniform", "--group", "0"], ["--at", "3"]],
    ids=" ".join,
)
def test_the_json_of_a_run_is_what_the_schema_documents(run: Path, arguments: list[str]) -> None:
    ended = in_process("inspect", str(run), "--json", *arguments)
    assert ended.exit_code == 0, ended.stderr
    assert ended.stdout.isascii()
    found = json.loads(ended.stdout, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    assert len(found["completions"]) == (1 if "--at" in arguments else 2)
    assert found["completions"][-1]["index"] == 1
    assert found["completions"][-1]["tokens"][0]["logprob"] is None
    assert found["source"] == str(run / "rollouts" / "step-000001.jsonl")


def test_the_json_is_the_same_on_a_terminal(run: Path) -> None:
    command = ("inspect", str(run), "--json")
    shown = on_terminal(*DGPO, *command, columns=40)
    assert shown.code == 0
    assert dgpo(*command).out in shown.out


def test_a_reader_that_goes_away_leaves_no_traceback(run: Path) -> None:
    long = line(index=0, weights=[1.0] * 7)
    columns = ("token_ids", "logprobs", "entropy", "hellinger_sq", "scores", "weights")
    long |= {name: long[name] * 4000 for name in columns}
    (run / "rollouts" / "step-000002.jsonl").write_text(json.dumps(long) + "\n")
    process = subprocess.Popen(
        [*DGPO, "inspect", str(run), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(10)
    process.stdout.close()
    errors = process.stderr.read().decode()
    assert process.wait(timeout=60) == 1
    assert "Traceback" not in errors and "error" not in errors


@pytest.mark.parametrize("arguments", [["--at", "3"], ["--tau", "0.02"]], ids=" ".join)
def test_hostile_text_steers_no_terminal_of_40_columns(run: Path, arguments: list[str]) -> None:
    shown = on_terminal(*DGPO, "inspect", str(run), *arguments, columns=40)
    assert shown.code == 0
    text = without_escapes(shown.out)
    assert "\x1b" not in text and "\u202e" not in text
    pictures = [each for each in text.splitlines() if not each.startswith("note: ")]
    assert all(cell_len(each) <= 40 for each in pictures[3:])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["absent.jsonl"], 2, "absent.jsonl: no such run folder or rollouts file"),
        (["--group", "7"], 2, "--group 7: "),
        (["--sample", "7"], 2, "has samples 0 to 1"),
        (["--at", "7"], 2, "has tokens 0 to 6"),
        (["--reference", "r"], 2, "need --model"),
        (
            ["--rule", "entropy", "--kappa", "1"],
            2,
            "credit.kappa (--kappa): rule entropy has no kappa",
        ),
        (
            ["--rule", "grpo"],
            2,
            "credit.rule=grpo (--rule): must be one of dgpo, uniform, entropy, top-entropy",
        ),
        (["--value", "1000000000"], 2, "--value=1000000000: must be at most 10000"),
        (["--target-ess", "0.9999"], 2, "--target-ess"),
        (["--model", "./absent", "--reference", "r"], 2, "absent: no such folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_each_mistake_is_one_line(run: Path, arguments: list[str], code: int, said: str) -> None:
    source = [] if arguments == ["absent.jsonl"] else [str(run)]
    ended = in_process("inspect", *source, *arguments)
    assert (ended.exit_code, ended.stdout) == (code, "")
    errors = [each for each in ended.stderr.splitlines() if not each.startswith("note: ")]
    assert len(errors) == 1 and errors[0].startswith("error: ") and said in errors[0]
