"""From a problem's text to messages, and from messages to token ids."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from dgpo_cli.core.errors import ConfigError, DataError, ModelError
from dgpo_cli.core.refusal import shown
from dgpo_cli.core.types import Message, Prompt
from dgpo_cli.prompts.settings import RESERVED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACEHOLDER = "{problem}"
_FORM = re.compile(r"\\boxed|\banswer\s*:|####", re.IGNORECASE)


def names_a_form(text: str) -> bool:
    """Whether a text says how an answer is to be written, in a form that a checker reads."""
    return _FORM.search(text) is not None


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


def begun(prompt: Prompt, *, prefix: str | None) -> Prompt:
    """Return a prompt with the beginning of the assistant's turn, if any, as its last message."""
    if prefix is None:
        return prompt
    return replace(prompt, messages=(*prompt.messages, Message("assistant", prefix)))


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    *,
    arguments: Mapping[str, object] | None = None,
) -> tuple[int, ...]:
    """Return the token ids that the model continues.

    With a chat template: the rendered conversation, opened for the assistant's turn, with only the
    template's special tokens. Without one: the messages' texts with a blank line between them,
    after the tokenizer's BOS if it adds one. A last turn of the assistant is one that the model
    continues: its text follows what opens the turn, and is tokenised together with it.

    arguments: those of the chat template.

    Raises:
        ModelError: the chat template refuses the messages.
        ConfigError: there is no chat template, or it does not read one of its arguments.
        DataError: the prompt has no tokens.
    """
    check_arguments(tokenizer, arguments)
    if tokenizer.chat_template:
        ids = _encode_chat(tokenizer, prompt, arguments=arguments or {})
    else:
        ids = _encode_plain(tokenizer, "\n\n".join(message.content for message in prompt.messages))
    if not ids:
        raise DataError(f"{prompt.source}: prompt {prompt.id!r} has no tokens")
    return ids


def _encode_chat(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, *, arguments: Mapping[str, object]
) -> tuple[int, ...]:
    from jinja2 import TemplateError

    asked = prompt.messages[:-1] if prompt.prefix else prompt.messages
    turns = [{"role": message.role, "content": message.content} for message in asked]
    plain = {name: list(x) if isinstance(x, tuple) else x for name, x in arguments.items()}
    try:
        text = tokenizer.apply_chat_template(
            turns,
            add_generation_prompt=True,
            tokenize=not prompt.prefix,
            return_dict=False,
            **plain,
        )
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in turns)
        given = ", ".join(["prompts.system", *(["prompts.chat_template"] if plain else [])])
        raise ModelError(
            f"the model's chat template refuses the turns {roles} of prompt {prompt.id!r} "
            f"({error}); see {given}"
        ) from error
    if prompt.prefix:
        return _bare(tokenizer, f"{text}{prompt.prefix}")
    return tuple(int(token) for token in text)


def _encode_plain(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    bare = _bare(tokenizer, text)
    opened = tokenizer.encode(text, add_special_tokens=True)
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and opened[:1] == [bos] and bare[:1] != (bos,)
    return (int(bos), *bare) if adds_bos else bare


def _bare(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(int(token) for token in tokenizer.encode(text, add_special_tokens=False))


def check_arguments(
    tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, object] | None
) -> None:
    """Check that the model's chat template reads every one of its arguments.

    Raises:
        ConfigError: it does not, or the tokenizer has none.
        ModelError: its syntax is broken.
    """
    if not arguments:
        return
    if not tokenizer.chat_template:
        raise ConfigError(
            f"prompts.chat_template={shown(dict(arguments))}: the model has no chat template; set "
            "prompts.chat_template= (nothing), or give a model that has one"
        )
    known = _arguments_of(tokenizer.get_chat_template())
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            reads = f"reads {', '.join(known)}" if known else "reads no arguments"
            raise ConfigError(
                f"prompts.chat_template.{name}: this model's chat template does not read it; it "
                f"{reads}{hint}"
            )


@lru_cache(maxsize=8)
def _arguments_of(template: str) -> tuple[str, ...]:
    """Return the names that a chat template reads and that a user may give, sorted."""
    from jinja2 import Environment, TemplateSyntaxError, meta, nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        """The block that marks the assistant's tokens."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = Environment(extensions=[Generation, "jinja2.ext.loopcontrols"])
    try:
        names = meta.find_undeclared_variables(environment.parse(template))
    except TemplateSyntaxError as error:
        raise ModelError(f"the model's chat template is broken: {error}") from error
    return tuple(sorted(names - RESERVED))
