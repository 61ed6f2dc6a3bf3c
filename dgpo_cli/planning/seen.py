"""What is seen of a model and its problems before anything is decided: kinds, forms, lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dgpo_cli.config.settings import Settings
from dgpo_cli.core.events import NOBODY, Observer
from dgpo_cli.core.formats import Position
from dgpo_cli.core.refusal import shown
from dgpo_cli.core.types import Message, Prompt
from dgpo_cli.prompts.datasets import first_rows, open_prompts
from dgpo_cli.prompts.files import Row
from dgpo_cli.prompts.settings import MixturePrompts, PlayedPrompts, SumsPrompts
from dgpo_cli.prompts.templates import PLACEHOLDER, encode_prompt, names_a_form
from dgpo_cli.rewards.integer import read_integer
from dgpo_cli.rewards.reading.options import LETTERS, letter_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_EVENLY, _LONGEST = 2000, 64  # prompts whose tokens are counted
_DRAWN = 256  # generated problems that stand for all
_ROWS = 200  # rows that are searched for worked solutions
_THINKS = ("enable_thinking", "<think>", "reasoning_effort")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of prompts: of 99 in 100, and of the longest."""

    most: int
    longest: int


def problems_seen(
    settings: Settings, *, observer: Observer = NOBODY
) -> tuple[tuple[Prompt, ...], int | None]:
    """Return problems under the settings' template, and how many there are.

    Of generated ones some are drawn, and their number is None.

    Raises:
        As open_prompts.
    """
    stream = open_prompts(
        settings.prompts,
        seed=settings.seed,
        answered=settings.reward.needs_answer,
        observer=observer,
    )
    if stream.prompts is not None:
        return stream.prompts, len(stream.prompts)
    return tuple(stream.take(Position(), count=_DRAWN)), None


def checker_for(prompts: Sequence[Prompt]) -> tuple[str, str]:
    """Return the checker that can compare with all these answers, and why."""
    count = f"all {len(prompts):,} answers" if len(prompts) > 1 else "the only answer"
    other = next((each for each in prompts if read_integer(each.answer) is None), None)
    if other is None:
        return "integer", f"{count} {'are integers' if len(prompts) > 1 else 'is an integer'}"
    if all(letter_of(each.answer) is not None for each in prompts):
        return "choice", f"{count} {'are letters' if len(prompts) > 1 else 'is a letter'}"
    place = f" ({other.place})" if other.place else ""
    text = shown(other.answer if len(other.answer) <= 30 else f"{other.answer[:30]}…")
    return "math", f"the answer {text}{place} is not an integer"


def options_of(prompts: Sequence[Prompt]) -> int:
    """Return the number of options up to the last letter among the answers; 0 without letters."""
    letters = [letter_of(each.answer) for each in prompts]
    return max((LETTERS.index(letter) + 1 for letter in letters if letter is not None), default=0)


def asks_for_a_form(prompts: Sequence[Prompt]) -> bool:
    """Whether most problems say how to write the answer."""
    return _mostly([names_a_form(each.messages[-1].content) for each in prompts])


def rows_ask_for_a_form(rows: Sequence[Row], *, column: str) -> bool:
    """As `asks_for_a_form`, of rows as they are."""
    return _mostly([names_a_form(str(row.get(column))) for row in rows])


def _mostly(found: Sequence[bool]) -> bool:
    return 2 * sum(found) > len(found)


def wrapped(prompts: Sequence[Prompt], *, template: str) -> Iterator[Prompt]:
    """Yield prompts with their last user turn in a template."""
    for each in prompts:
        *earlier, last = each.messages[:-1] if each.prefix else each.messages
        turn = Message("user", template.replace(PLACEHOLDER, last.content))
        begun = each.messages[-1:] if each.prefix else ()
        yield replace(each, messages=(*earlier, turn, *begun))


def prompt_lengths(
    prompts: Sequence[Prompt],
    *,
    tokenizer: PreTrainedTokenizerBase,
    arguments: Mapping[str, object] | None,
) -> Lengths:
    """Count the tokens of prompts: of many at even distances, and of those with most characters."""
    step = max(1, len(prompts) // _EVENLY)
    by_size = sorted(prompts, key=_characters, reverse=True)
    even = sorted(_count(each, tokenizer, arguments) for each in prompts[::step])
    longest = max(_count(each, tokenizer, arguments) for each in by_size[:_LONGEST])
    return Lengths(even[min(len(even) - 1, len(even) * 99 // 100)], longest)


def _characters(prompt: Prompt) -> int:
    return sum(len(message.content) for message in prompt.messages)


def _count(
    prompt: Prompt, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, object] | None
) -> int:
    return len(encode_prompt(tokenizer, prompt, arguments=arguments))


def solution_length(settings: Settings, *, tokenizer: Any) -> int | None:
    """Return the tokens of the longest worked solution before a `####`; None if most have none."""
    prompts = settings.prompts
    if isinstance(prompts, SumsPrompts | PlayedPrompts | MixturePrompts):
        return None
    rows = first_rows(prompts, count=_ROWS)
    texts = [str(row.get(prompts.answer_column)) for row in rows]
    worked = [text for text in texts if text.partition("####")[0].strip() and "####" in text]
    if 2 * len(worked) <= len(texts):
        return None
    return max(len(tokenizer.encode(text, add_special_tokens=False)) for text in worked)


def thinks(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the model writes its thoughts first, by what its chat template mentions."""
    template = tokenizer.chat_template
    return isinstance(template, str) and any(mark in template for mark in _THINKS)
