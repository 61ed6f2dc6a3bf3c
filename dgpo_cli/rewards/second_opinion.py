r"""The math checker's verdicts on answers that the integer checker has judged; only for comparison.

| the integer checker found | the math checker gets |
| --- | --- |
| only digits, and gold is only digits | nothing: the integers are compared, as it would do |
| any other box | its content as written: the two may parse it differently |
| any other answer line or last number | the line, to read as a whole or to search |
| nothing, and thinking has ended | the end of the completion, to search |
| nothing in a truncated text or an unclosed thought | nothing: the verdict stands |

Equal pairs of gold and answer are judged once. A `timeout` or `crash` is not a disagreement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dgpo_cli.core.events import Observer, phase
from dgpo_cli.core.thinking import after_thinking
from dgpo_cli.core.types import Verdict
from dgpo_cli.rewards.answer import read_answer
from dgpo_cli.rewards.protocol import Check, Task
from dgpo_cli.rewards.workers.pool import WorkerPool

if TYPE_CHECKING:
    from dgpo_cli.core.types import FinishReason, Outcome
    from dgpo_cli.rewards.grader import GradeItem
    from dgpo_cli.rewards.settings import Extract

ENDING_CHARS = 400  # of a completion without an answer: two or three sentences
MAX_ANSWER_CHARS = 4096
TASKS_PER_WORKER = 64  # take as long as the import of sympy: fewer need no further worker
MAX_DIGITS = 300
_BOX, _LINE, _ENDING = "box", "line", "ending"  # how a worker reads the text
_UNKNOWN = ("timeout", "crash")


def second_opinions(
    items: Sequence[GradeItem],
    *,
    verdicts: Sequence[Verdict],
    where: Extract,
    timeout_s: float,
    workers: int,
    observer: Observer,
) -> list[Outcome]:
    """Return the math checker's outcome for each of `items`, which have `verdicts`.

    where: the first checker's `reward.extract`.
    timeout_s: hard deadline of one opinion; then its worker is killed.

    Raises:
        DgpoError: the workers cannot be started.
    """
    asked = [
        _question(item, verdict, where=where) for item, verdict in zip(items, verdicts, strict=True)
    ]
    tasks = list(dict.fromkeys(task for task in asked if isinstance(task, tuple)))
    workers = min(workers, 1 + len(tasks) // TASKS_PER_WORKER)
    check = Check("dgpo_cli.rewards.second_opinion:judge", chunk_tasks=16)
    with (
        WorkerPool(check, workers=workers, timeout_s=timeout_s) as pool,
        phase(observer, "second opinion", total=len(tasks), unit="answers") as advance,
    ):
        results = pool.run(tasks, on_done=advance)
    opinions = {task: outcome for task, (outcome, _) in zip(tasks, results, strict=True)}
    return [opinions[task] if isinstance(task, tuple) else task for task in asked]


def disagree(outcome: Outcome, second: Outcome) -> bool:
    """Whether only one of the two says `correct`, and neither is unknown."""
    if outcome in _UNKNOWN or second in _UNKNOWN:
        return False
    return (outcome == "correct") != (second == "correct")


def judge(gold: str, text: str, *, finish_reason: FinishReason) -> tuple[Outcome, str | None]:
    """Judge what `second_opinions` sends, with the math checker; runs only in workers."""
    from dgpo_cli.rewards.math import bare, is_equal, is_equal_to_any

    form, _, body = text.partition("\n")
    if form != _ENDING and is_equal(bare(gold), bare(body)):
        return "correct", None
    if form == _BOX:
        return "wrong", None
    equal = is_equal_to_any(gold, body)
    return ("no_answer" if equal is None else "correct" if equal else "wrong"), None


def warm_up() -> None:
    """Import math-verify before the first deadline starts."""
    from dgpo_cli.rewards import math

    math.warm_up()


def _question(item: GradeItem, verdict: Verdict, *, where: Extract) -> Task | Outcome:
    """Return a worker's task for `item`, or the opinion if none is needed."""
    cut = item.finish_reason == "length"
    gold = item.gold.strip()
    text = item.judged
    found, _ = read_answer(text, where=where, cut=cut)
    if found is not None:
        answer = found.text.strip()
        if _is_digits(answer) and _is_digits(gold):
            return "correct" if int(answer) == int(gold) else "wrong"
        if len(answer) > MAX_ANSWER_CHARS:
            return "wrong"
        form = _BOX if found.form == "boxed" else _LINE
        return (gold, f"{form}\n{answer}", "stop")
    start = after_thinking(text)
    if cut or start is None:
        return verdict.outcome
    ending = text[max(start, len(text) - ENDING_CHARS) :].strip()
    return (gold, f"{_ENDING}\n{ending}", "stop") if ending else verdict.outcome


def _is_digits(answer: str) -> bool:
    return len(answer) <= MAX_DIGITS and answer.isascii() and answer.isdigit()
