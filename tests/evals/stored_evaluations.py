"""Folders of evaluations for tests, written by the code that dgpo eval writes them with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dgpo_cli.core.types import Card, Completion, Message, Prompt, Verdict
from dgpo_cli.core.types.evaluation import BY_LETTER
from dgpo_cli.evals.eval_folder import EvalFolder
from dgpo_cli.evals.samples import sample_line, sample_of
from dgpo_cli.evals.tally import report_of

EVIL = (
    "</script><script>window.evil = 1</script><img src=x onerror='window.evil = 2'>\x1b[2J\u202e\0"
)


def card(bench: str, n_problems: int) -> Card:
    return Card({"bench": bench, "n_problems": n_problems}, {"model": "m"}, {"backend": "hf"})


def line(name: str, index: int, letter: str, *, text: str | None = None, **more: Any) -> Any:
    """A sample of outcome `letter`; its length in tokens is 10 (index + 1)."""
    outcome = BY_LETTER[letter]
    said = (
        f"<think>thinking of {name}, {index}</think>so {name} is {index}" if text is None else text
    )
    prompt = Prompt(name, (Message("user", f"How much is {name}?"),), f"gold of {name}", "test")
    tokens = 10 * (index + 1)
    finish = "length" if outcome == "truncated" else "stop"
    completion = Completion((3,) * tokens, (), said, finish, 0, index)  # type: ignore[arg-type]
    read = {"correct": "right", "wrong": "7"}.get(outcome)
    verdict = Verdict(outcome, read, float(outcome == "correct"))
    made = sample_line(prompt, completion, verdict, index=index, temperature=0.6, checker="1")
    return made | more


def evaluation(
    path: Path,
    outcomes: dict[str, str],
    *,
    bench: str = "sums",
    wanted: int | None = None,
    report: bool = True,
    lines: Sequence[Any] = (),
) -> EvalFolder:
    """Write an evaluation with these letters of outcomes, a string for each problem.

    lines: those that replace the lines of the same problem and number.
    """
    folder = EvalFolder(path)
    path.mkdir(parents=True)
    own = card(bench, len(outcomes) if wanted is None else wanted)
    folder.write_card(own)
    other = {(each["prompt_id"], each["index"]): each for each in lines}
    k = max(map(len, outcomes.values()))
    rows = [
        other.get((name, index)) or line(name, index, letters[index])
        for index in range(k)
        for name, letters in outcomes.items()
        if index < len(letters)
    ]
    folder.samples.append(rows)
    if report:
        found = report_of(
            list(map(sample_of, rows)),
            card=own,
            k=k,
            ids=list(outcomes),
            second_opinion=True,
            sampled_tokens=0,
            sampling_s=0.0,
        )
        folder.write_report(found, own)
    return folder
