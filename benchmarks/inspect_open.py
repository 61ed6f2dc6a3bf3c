"""CPU time to open a file of rollouts and show a completion: `python benchmarks/inspect_open.py`.

Options: TOKENS of a completion (20,000) and COMPLETIONS of the file (64). The file is written to
a temporary folder, in the form of a training run, with the tokenizer of the embedded model. The
goal is under 1 s for each way to look at it, imports not counted.
"""

from __future__ import annotations

import io
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from dgpo_cli.core.events import NOBODY
from dgpo_cli.core.resources import resource_dir
from dgpo_cli.core.types import Inspection
from dgpo_cli.inspect import as_json as inspection_json
from dgpo_cli.inspect import inspect
from dgpo_cli.inspect.request import Models, Origin, Selection, WhatIf
from dgpo_cli.inspect.rollout_file import open_rollouts
from dgpo_cli.inspect.views import heatmap, what_if

GROUP = 16
SEED = 0


def write_run(run: Path, *, tokens: int, completions: int) -> Path:
    """Write rollouts as training writes them; return the file."""
    draw = random.Random(SEED)
    (run / "rollouts").mkdir()
    (run / "tokenizer").mkdir()
    tokenizer = resource_dir("data") / "tiny" / "tokenizer.json"
    (run / "tokenizer" / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    path = run / "rollouts" / "step-000001.jsonl"
    with path.open("w") as file:
        for number in range(completions):
            file.write(json.dumps(line(number, tokens, draw)) + "\n")
    return path


def line(number: int, tokens: int, draw: random.Random) -> dict[str, Any]:
    def column(top: float) -> list[float]:
        return [float(f"{top * draw.random():.9g}") for _ in range(tokens)]

    weights = column(2.0)
    mean = sum(weights) / tokens
    return {
        "version": 1,
        "prompt_id": f"p{number // GROUP}",
        "prompt": "1+1?",
        "messages": [{"role": "user", "content": "1+1?"}],
        "answer": "2",
        "index": number % GROUP,
        "completion": "1+1=2;" * (tokens // 6),
        "prompt_token_ids": [21, 15, 21],
        "token_ids": [draw.randrange(5, 100) for _ in range(tokens)],
        "sampling_logprobs": column(-1.0),
        "temperature": 1.0,
        "finish_reason": "length",
        "outcome": "truncated",
        "extracted": None,
        "reward": float(number % 2),
        "seed": number,
        "policy_version": 3,
        "length_penalty": 0.0,
        "advantage": (-1.0) ** number,
        "vocab_size": 1024,
        "credit": {"rule": "dgpo", "tau": 0.5, "kappa": 1.0},
        "logprobs": column(-1.0),
        "entropy": column(2.0),
        "hellinger_sq": column(0.1),
        "scores": column(0.1),
        "weights": [weight / mean for weight in weights],
    }


def look(path: Path, *, choice: Selection, tau: float | None = None) -> Inspection:
    return inspect.run(
        Origin(source=path),
        models=Models(),
        choice=choice,
        what_if=WhatIf(tau=tau),
        at=None,
        observer=NOBODY,
    )


def show(path: Path, *, choice: Selection, tau: float | None = None) -> None:
    """What the command does after its imports, into a string."""
    inspection = look(path, choice=choice, tau=tau)
    (shown,) = inspection.completions
    board = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor")
    same: dict[str, Any] = {"inspection": inspection, "width": 100, "top": 10}
    board.print(heatmap.render(shown, **same, color="truecolor"))
    if shown.stored is not None:
        board.print(what_if.render(shown, **same, color="truecolor"))


def export(path: Path, *, choice: Selection) -> None:
    for _ in inspection_json.chunks(look(path, choice=choice)):
        pass


def main() -> None:
    """Print the CPU seconds of each way to look, the slowest of three."""
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    completions = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    with tempfile.TemporaryDirectory() as folder:
        path = write_run(Path(folder), tokens=tokens, completions=completions)
        small = write_run_of_one(Path(folder), path)
        show(small, choice=Selection(one=True))  # imports
        size = path.stat().st_size / 2**20
        print(f"{completions} completions of {tokens:,} tokens, {size:.0f} MiB")
        ways: dict[str, Callable[[], object]] = {
            "open the file": lambda: open_rollouts(path),
            "the most telling one": lambda: show(path, choice=Selection(one=True)),
            "--group 1 --sample 3": lambda: show(path, choice=Selection(1, 3, one=True)),
            "the same, --tau 0.1": lambda: show(path, choice=Selection(1, 3, one=True), tau=0.1),
            "the same, --json": lambda: export(path, choice=Selection(1, 3, one=True)),
        }
        for name, way in ways.items():
            print(f"{name:22} {slowest(way):.2f} s CPU")


def write_run_of_one(folder: Path, path: Path) -> Path:
    """A file of the first few tokens of the first completion, beside it."""
    own = json.loads(path.read_text().partition("\n")[0])
    cut = {k: v[:5] if isinstance(v, list) and k != "messages" else v for k, v in own.items()}
    small = folder / "rollouts" / "step-000000.jsonl"
    small.write_text(json.dumps(cut) + "\n")
    return small


def slowest(way: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        start = time.process_time()
        way()
        times.append(time.process_time() - start)
    return max(times)


if __name__ == "__main__":
    main()
