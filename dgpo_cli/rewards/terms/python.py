"""The term that calls a function of the user's, in killable workers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from dgpo_cli.core.own_code import Spec, digests_of
from dgpo_cli.core.schema import Frozen
from dgpo_cli.rewards.protocol import Check, packed
from dgpo_cli.rewards.terms.base import (
    NAME,
    Done,
    RewardTerm,
    Scorer,
    Shared,
    TermScore,
    calls_of,
    failed,
    told_score,
)

if TYPE_CHECKING:
    from dgpo_cli.rewards.item import GradeItem

_GIB = 1 << 30
MOST_AT_ONCE = 64  # calls of a function for one completion that a worker gets at once


class OwnFunction(Frozen):
    """A function, and how it is called."""

    means_else: ClassVar[frozenset[str]] = frozenset({"timeout_s"})  # of a call, not of an answer

    path: Spec = Field(description="The function: file.py:name, or package.module:name.")
    group: bool = Field(
        False, description="Call it with the completions of one prompt, all of them, at a time."
    )
    batch_size: int = Field(
        64, ge=1, description="Most completions of one call, if the function takes several."
    )
    correct_at: float | None = Field(
        None, description="A score from here on is correct, any other is wrong; unset: neither."
    )
    timeout_s: float = Field(
        60.0, gt=0, le=86400, description="Hard deadline of one call; then its worker is killed."
    )
    memory_gib: float = Field(
        8.0, ge=0, description="Address space that a worker may use, in GiB; 0: no limit."
    )


class PythonTerm(OwnFunction, RewardTerm):
    """A function of yours."""

    judges: ClassVar[bool] = True
    wants_columns: ClassVar[bool] = True

    kind: Literal["python"] = "python"

    @classmethod
    def own_name(cls, given: Mapping[str, Any]) -> str:
        name = str(given.get("path", "")).rpartition(":")[2].strip("_")
        return name if re.fullmatch(NAME, name) else "python"

    @property
    def pools(self) -> bool:
        return True

    def code(self) -> str:
        return self.path

    def scorer(self, shared: Shared) -> Scorer:
        return PythonScorer(self, shared)


class PythonScorer:
    """Calls the function for one completion, a batch or a group at a time.

    Workers that start later run the code of now, or refuse.
    """

    def __init__(self, term: PythonTerm, shared: Shared) -> None:
        from dgpo_cli.rewards.workers.pool import WorkerPool

        self._term = term
        options = {
            "path": term.path,
            "group": term.group,
            "timeout_s": term.timeout_s,
            "digests": digests_of(term.path),
        }
        self._pool = WorkerPool(
            Check("dgpo_cli.rewards.terms.call:open_calls", options, opens=True),
            workers=shared.workers,
            timeout_s=term.timeout_s,
            memory_bytes=int(term.memory_gib * _GIB),
            log=shared.log,
            observer=shared.observer,
        )

    def start(self) -> None:
        self._pool.start()

    def wait(self) -> None:
        self._pool.open()

    def opened(self) -> dict[str, Any]:
        """Load the function in a worker; return what its signature says, see open_calls.

        Raises:
            DgpoError: it cannot be loaded, or takes other arguments.
        """
        return self._pool.open()

    def score(self, items: Sequence[GradeItem], *, done: Done) -> list[TermScore]:
        if not items:
            return []
        told = self.opened()
        most = 1 if told["single"] else self._term.batch_size
        calls = list(calls_of(items, most=most, group=self._term.group))
        tasks = [(_message(call, columns=told["columns"]),) for call in calls]
        chunk = MOST_AT_ONCE if told["single"] else 1
        results = self._pool.run(
            tasks, on_done=done, sizes=[len(call) for call in calls], chunk_tasks=chunk
        )
        return [
            score
            for call, (state, found) in zip(calls, results, strict=True)
            for score in self._scores(state, found, count=len(call))
        ]

    def close(self) -> None:
        self._pool.close()

    def _scores(self, state: str, found: Any, *, count: int) -> list[TermScore]:
        """Return the scores of one call, which has failed as a whole or not."""
        if state == "done":
            return [told_score(*each, correct_at=self._term.correct_at) for each in found]
        # A worker that died is an error of the function: it left, or took too much memory.
        return [failed("timeout" if state == "timeout" else "error", str(found))] * count


def _message(call: Sequence[GradeItem], *, columns: list[str] | None) -> dict[str, Any]:
    """Return what a worker gets of a call; a prompt is sent once.

    columns: those that the function asks for; None: all.
    """
    prompts: list[dict[str, Any]] = []
    rows = []
    last: GradeItem | None = None
    for item in call:
        if last is None or not _same_prompt(item, last):
            named = item.columns if columns is None else columns
            prompts.append(
                {
                    "id": item.prompt_id,
                    "answer": item.gold,
                    "messages": [[turn.role, turn.content] for turn in item.messages],
                    "columns": {n: item.columns[n] for n in named if n in item.columns},
                }
            )
        rows.append([len(prompts) - 1, item.text, packed(item.token_ids), item.finish_reason])
        last = item
    return {"prompts": prompts, "rows": rows}


def _same_prompt(one: GradeItem, other: GradeItem) -> bool:
    return (
        one.prompt_id == other.prompt_id
        and one.gold == other.gold
        and one.messages == other.messages
        and one.columns == other.columns
    )
