"""What an environment of the user's own is: tasks, and a conversation about each of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dgpo_cli.core.errors import DgpoError
from dgpo_cli.core.types import Outcome

ChatMessage = dict[str, Any]  # as chat templates take it: role, content and whatever they read


@dataclass(frozen=True, slots=True)
class EnvTask:
    """A task of an environment. messages: the conversation up to the model's first turn.

    A text in place of the messages is the user's turn. data: the environment's own, which stays in
    its process.
    """

    id: str
    messages: str | Sequence[ChatMessage]
    answer: str = ""
    data: Any = None

    @property
    def opening(self) -> list[ChatMessage]:
        """The messages, as dictionaries."""
        return as_messages((self.messages,) if isinstance(self.messages, str) else self.messages)


@dataclass(frozen=True, slots=True)
class Said:
    """A turn of the model. finish_reason: "length" if a limit of tokens cut it.

    over: no turn was sampled, because the conversation has no room left: its text is empty, and
    no further turn will come.
    """

    text: str
    finish_reason: str = "stop"
    over: bool = False


@dataclass(frozen=True, slots=True)
class EnvScore:
    """The result of a conversation.

    terms: named numbers beside the reward, for the log. outcome: "correct", "wrong" or another of
    dgpo's words; None: by reward.correct_at. note: what a reader of the rollouts should know.
    """

    reward: float
    terms: Mapping[str, float] = field(default_factory=dict)
    outcome: Outcome | None = None
    note: str | None = None


Ask = Callable[[list[ChatMessage], list[Any] | None], Awaitable[Said]]


class Episode:
    """One conversation with the model about a task.

    seed: the same whenever the conversation is played again; the only randomness to use.
    messages: all turns so far.
    """

    def __init__(self, task: EnvTask, *, seed: int, ask: Ask) -> None:
        self.task, self.seed = task, seed
        self.messages: list[ChatMessage] = task.opening
        self._ask, self._begun, self._over = ask, False, False

    async def turn(self, *messages: str | ChatMessage, tools: Sequence[Any] | None = None) -> Said:
        """Say something to the model, and return its next turn.

        Args:
            messages: what comes after the model's last turn; a text is the user's. None before
                the first turn: the task has its messages.
            tools: those of the chat template, at the first turn.

        Raises:
            RuntimeError: nothing was said after a turn, or the conversation is over.
        """
        if self._over:
            raise RuntimeError("asked for a turn of a conversation that is over (see Said.over)")
        if self._begun and not messages:
            raise RuntimeError("a turn follows another without a message between them")
        new = as_messages(messages)
        self.messages += new
        opening = self.messages if not self._begun else new
        self._begun = True
        said = await self._ask(list(opening), None if tools is None else list(tools))
        self._over = said.over
        if not said.over:
            self.messages.append({"role": "assistant", "content": said.text})
        return said


class Environment:
    """The base class of environments. It runs in a process of its own.

    Arguments of its `__init__` are those of `prompts.env_args`. Subclasses have `tasks` and `play`.

    Examples:
        >>> from dgpo_cli import Environment, EnvTask
        >>> class Echo(Environment):
        ...     def tasks(self):
        ...         return [EnvTask(word, f"Say {word}.") for word in ("yes", "no")]
        ...
        ...     async def play(self, task, episode):
        ...         first = await episode.turn()
        ...         again = await episode.turn("Say it again.")
        ...         return first.text == again.text == task.id
    """

    def tasks(self) -> Iterable[EnvTask]:
        """Return all tasks, in the same order at every start."""
        raise NotImplementedError

    async def play(self, task: EnvTask, episode: Episode) -> EnvScore | float | bool:
        """Play a task and return its result; many run at a time, on one event loop.

        An exception makes the completion unscored, with the outcome "error".
        """
        raise NotImplementedError

    async def start(self) -> None:
        """Begin what all conversations share."""

    async def stop(self) -> None:
        """End it."""


def as_messages(messages: Iterable[str | ChatMessage]) -> list[ChatMessage]:
    """Return messages as dictionaries; a text is the user's turn."""
    return [
        {"role": "user", "content": each} if isinstance(each, str) else dict(each)
        for each in messages
    ]


def as_score(result: Any) -> EnvScore:
    """Return what `play` returned as a score.

    Raises:
        DgpoError: it is neither a number, nor true or false, nor a score.
    """
    if isinstance(result, EnvScore):
        return result
    if isinstance(result, bool):
        return EnvScore(float(result), outcome="correct" if result else "wrong")
    if isinstance(result, int | float):
        return EnvScore(float(result))
    name = "None" if result is None else f"a value of the type {type(result).__name__}"
    raise DgpoError(f"play returned {name}; return a number, True, False or an EnvScore")
