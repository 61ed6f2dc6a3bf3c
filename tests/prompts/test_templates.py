"""From problems to messages, and to token ids with exactly one BOS."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from dgpo_cli.core.errors import DataError, ModelError
from dgpo_cli.core.types import Message, Prompt
from dgpo_cli.prompts.templates import chat_messages, encode_prompt, problem_messages

VOCAB = ["<unk>", "<s>", "</s>", "\n", *"0123456789+?", "U", "A", "S", ":"]
USER = Message("user", "1+2?")
CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ m.role[0]|upper + ':' + m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)


def tokenizer(*, template: str | None = None, adds: str | None = None) -> PreTrainedTokenizerBase:
    """A tokenizer of characters; `adds` is the post-processor's pattern of special tokens."""
    inner = Tokenizer(models.WordLevel({t: i for i, t in enumerate(VOCAB)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if adds:
        inner.post_processor = processors.TemplateProcessing(
            single=adds, special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    made.chat_template = template
    return made


def encoded(made: PreTrainedTokenizerBase, *messages: Message) -> list[str]:
    ids = encode_prompt(made, Prompt("p", messages, "3", "test"))
    assert all(type(token) is int for token in ids)
    return [VOCAB[token] for token in ids]


def test_only_the_problem_is_replaced() -> None:
    template = r"Put {x} in \boxed{}: {problem} {problem} {0} {{problem}}"
    (message,) = problem_messages(r"\frac{1}{2} {answer}", template=template, system=None)
    text = r"\frac{1}{2} {answer}"
    assert message == Message("user", rf"Put {{x}} in \boxed{{}}: {text} {text} {{0}} {{{text}}}")


def test_system_turn_comes_first() -> None:
    messages = problem_messages("1+1?", template="{problem}", system="Think.")
    assert messages == (Message("system", "Think."), Message("user", "1+1?"))


def test_template_wraps_the_last_turn_of_a_chat() -> None:
    turns = [USER, Message("assistant", "3"), Message("user", "4?")]
    assert chat_messages(turns, template="Q {problem}", system="S") == (
        Message("system", "S"),
        *turns[:2],
        Message("user", "Q 4?"),
    )


def test_a_chat_keeps_its_own_system_turn() -> None:
    turns = [Message("system", "own"), USER]
    assert chat_messages(turns, template="{problem}", system="other") == tuple(turns)


@pytest.mark.parametrize("turns", [[], [USER, Message("assistant", "3")]])
def test_a_chat_must_end_with_the_user(turns: list[Message]) -> None:
    with pytest.raises(ValueError, match="user's"):
        chat_messages(turns, template="{problem}", system=None)


@pytest.mark.parametrize("adds", [None, "<s> $A", "<s> $A </s>"])
def test_chat_template_alone_decides_on_special_tokens(adds: str | None) -> None:
    with_bos = encoded(tokenizer(template=CHAT, adds=adds), USER)
    assert with_bos == ["<s>", *"U:1+2?", "\n", *"A:"]
    without = tokenizer(template=CHAT.removeprefix("{{ bos_token }}"), adds=adds)
    assert encoded(without, USER) == [*"U:1+2?", "\n", *"A:"]


def test_chat_keeps_every_turn() -> None:
    made = tokenizer(template=CHAT)
    assert "".join(encoded(made, Message("system", "7"), USER)) == "<s>S:7\nU:1+2?\nA:"


@pytest.mark.parametrize(
    ("adds", "opening"), [(None, []), ("<s> $A", ["<s>"]), ("<s> $A </s>", ["<s>"])]
)
def test_plain_text_opens_with_the_tokenizers_own_bos_and_never_ends_with_eos(
    adds: str | None, opening: list[str]
) -> None:
    assert encoded(tokenizer(adds=adds), USER) == [*opening, *"1+2?"]


def test_plain_text_that_has_a_bos_gets_no_second_one() -> None:
    made = tokenizer(adds="<s> $A")
    assert encoded(made, Message("user", "<s>1+2?")) == ["<s>", *"1+2?"]


def test_plain_text_separates_messages_by_a_blank_line() -> None:
    assert "".join(encoded(tokenizer(), Message("system", "7"), USER)) == "7\n\n1+2?"


def test_a_template_that_refuses_is_explained() -> None:
    made = tokenizer(template="{{ raise_exception('System role not supported') }}")
    with pytest.raises(ModelError, match=r"system, user.*System role not supported.*prompts\.sys"):
        encoded(made, Message("system", "7"), USER)


def test_a_template_with_broken_syntax_is_explained() -> None:
    with pytest.raises(ModelError, match="refuses"):
        encoded(tokenizer(template="{% for %}"), USER)


def test_an_empty_prompt_is_an_error() -> None:
    with pytest.raises(DataError, match="'p' has no tokens"):
        encoded(tokenizer(), Message("user", ""))
