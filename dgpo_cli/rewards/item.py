"""A completion with all that a reward may look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dgpo_cli.core.thinking import OPENER
from dgpo_cli.core.types import Completion, FinishReason, Message, Outcome, Prompt


@dataclass(frozen=True, slots=True)
class GradeItem:
    """A completion to judge against the answer `gold`.

    starts_in_thought: the prompt opened a thought that the text continues.
    prefix: what the assistant's turn began with, before the text.
    part: the source of the problem in a mixture. group: equal for the completions of one prompt.

    outcome: that of the first term that judges, for terms that read it.

    The other fields are for functions and servers of the user's.
    """

    gold: str
    text: str
    finish_reason: FinishReason = "stop"
    starts_in_thought: bool = False
    prefix: str = ""
    part: str = ""
    group: int = 0
    outcome: Outcome | None = None
    prompt_id: str = ""
    token_ids: tuple[int, ...] = ()
    messages: tuple[Message, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def judged(self) -> str:
        """The whole turn, with the opening mark of a thought that its prompt opened."""
        turn = self.prefix + self.text
        return OPENER + turn if self.starts_in_thought else turn


def grade_item(prompt: Prompt, completion: Completion, *, group: int = 0) -> GradeItem:
    """Return what is judged of a completion; `group` is the number of its group."""
    return GradeItem(
        prompt.answer,
        completion.text,
        completion.finish_reason,
        completion.starts_in_thought,
        prompt.prefix,
        part=prompt.part,
        group=group,
        prompt_id=prompt.id,
        token_ids=completion.token_ids,
        messages=prompt.messages,
        columns=prompt.columns,
    )
