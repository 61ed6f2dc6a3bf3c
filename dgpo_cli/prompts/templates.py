"""From a problem's text to messages, and from messages to token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dgpo_cli.core.errors import DataError, ModelError
from dgpo_cli.core.types import Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACEHOLDER = "{problem}"


def problem_messages(problem: str, *, template: str, system: str | None) -> tuple[Message, ...]:
    r"""Return the system turn, if any, and the user turn.

    Only {problem} is replaced in `template`; other braces, such as \boxed{}, stay as they are.
    """
    user = Message("user", template.replace(PLACEHOLDER, problem))
    return (user,) if system is None else (Message("system", system), user)


def chat_messages(
    turns: Sequence[Message], *, template: str, system: str | None
) -> tuple[Message, ...]:
    """Apply `template` to the last of `turns`, and put `system` first if they have no system turn.

    Raises ValueError unless the last turn is the user's.
    """
    if not turns or turns[-1].role != "user":
        raise ValueError("the last message must be the user's")
    *earlier, last = turns
    last = Message("user", template.replace(PLACEHOLDER, last.content))
    has_system = any(turn.role == "system" for turn in earlier)
    opening = [] if system is None or has_system else [Message("system", system)]
    return (*opening, *earlier, last)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> tuple[int, ...]:
    """Return the token ids that the model continues.

    With a chat template: the rendered conversation, opened for the assistant's turn, with only the
    template's special tokens. Without one: the messages' texts with a blank line between them,
    after the tokenizer's BOS if it adds one.

    Raises:
        ModelError: the chat template refuses the messages.
        DataError: the prompt has no tokens.
    """
    if tokenizer.chat_template:
        ids = _encode_chat(tokenizer, prompt)
    else:
        ids = _encode_plain(tokenizer, "\n\n".join(message.content for message in prompt.messages))
    if not ids:
        raise DataError(f"{prompt.source}: prompt {prompt.id!r} has no tokens")
    return ids


def _encode_chat(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> tuple[int, ...]:
    from jinja2 import TemplateError

    turns = [{"role": message.role, "content": message.content} for message in prompt.messages]
    try:
        ids = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise ModelError(
            f"the model's chat template refuses the turns {roles} of prompt {prompt.id!r} "
            f"({error}); see prompts.system"
        ) from error
    return tuple(int(token) for token in ids)


def _encode_plain(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    bare = tokenizer.encode(text, add_special_tokens=False)
    opened = tokenizer.encode(text, add_special_tokens=True)
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and opened[:1] == [bos] and bare[:1] != [bos]
    return tuple(int(token) for token in ([bos, *bare] if adds_bos else bare))
