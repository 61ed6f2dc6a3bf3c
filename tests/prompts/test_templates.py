"""From problems to messages, and to token ids with exactly one BOS."""

import inspect

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from dgpo_cli.core.errors import ConfigError, DataError, ModelError
from dgpo_cli.core.types import Message, Prompt
from dgpo_cli.prompts.settings import RESERVED
from dgpo_cli.prompts.templates import begun, chat_messages, encode_prompt, problem_messages

VOCAB = ["<unk>", "<s>", "</s>", "\n", *"0123456789+?", "U", "A", "S", ":", "T"]
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


def encoded(
    made: PreTrainedTokenizerBase, *messages: Message, arguments: dict[str, object] | None = None
) -> list[str]:
    ids = encode_prompt(made, Prompt("p", messages, "3", "test"), arguments=arguments)
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


# As Qwen3 closes an empty thought, R1 opens one, and gpt-oss names the effort.
QWEN = (
    "{% for m in messages %}U:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}A:"
    "{% if enable_thinking is defined and enable_thinking is false %}T\nT\n{% endif %}{% endif %}"
)
OSS = (
    "{%- macro system() %}{%- if effort is not defined %}{%- set effort = '5' %}{%- endif %}"
    "S:{{ effort }}{%- endmacro %}{{ system() }}{% for m in messages %}{% if loop.first %}"
    "{% continue %}{% endif %}{% endfor %}{% generation %}{{ messages[0].content }}"
    "{% endgeneration %}"
)


def test_a_template_gets_its_arguments() -> None:
    made = tokenizer(template=QWEN)
    assert "".join(encoded(made, USER)) == "U:1+2?\nA:"
    assert "".join(encoded(made, USER, arguments={"enable_thinking": True})) == "U:1+2?\nA:"
    off = encoded(made, USER, arguments={"enable_thinking": False})
    assert "".join(off) == "U:1+2?\nA:T\nT\n"


def test_a_template_gets_a_list_as_a_list() -> None:
    made = tokenizer(template="{{ (parts + ['3'])|join('+') }}")
    assert "".join(encoded(made, USER, arguments={"parts": ("1", "2")})) == "1+2+3"


def test_names_are_found_in_macros_and_where_a_default_is_set() -> None:
    with pytest.raises(ConfigError) as caught:
        encoded(tokenizer(template=OSS), USER, arguments={"efort": "7"})
    assert str(caught.value) == (
        "prompts.chat_template.efort: this model's chat template does not read it; it reads "
        "effort; did you mean effort?"
    )
    assert encoded(tokenizer(template=OSS), USER, arguments={"effort": "7"})[2] == "7"


def test_a_template_without_arguments_takes_none() -> None:
    with pytest.raises(ConfigError, match=r"does not read it; it reads no arguments$"):
        encoded(tokenizer(template=CHAT), USER, arguments={"enable_thinking": False})


def test_a_model_without_a_template_takes_no_arguments() -> None:
    with pytest.raises(
        ConfigError, match=r"chat_template=\{x = true\}: the model has no chat templ"
    ):
        encoded(tokenizer(), USER, arguments={"x": True})


def test_what_rendering_takes_itself_is_reserved() -> None:
    parameters = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    assert set(parameters) - {"self", "kwargs"} <= RESERVED


@pytest.mark.parametrize(
    ("template", "text"), [(CHAT, "<s>U:1+2?\nA:T7"), (QWEN, "U:1+2?\nA:T7"), (None, "1+2?\n\nT7")]
)
def test_a_prefix_follows_what_opens_the_turn(template: str | None, text: str) -> None:
    prompt = begun(Prompt("p", (USER,), "3", "test"), prefix="T7")
    assert (prompt.prefix, prompt.text) == ("T7", "1+2?")
    assert "".join(encoded(tokenizer(template=template), *prompt.messages)) == text


def test_a_prefix_is_tokenised_together_with_what_opens_the_turn() -> None:
    pieces = {"U": 0, "A": 1, ":": 2, "T": 3, ":T": 4, "7": 5}
    inner = Tokenizer(models.BPE(pieces, merges=[(":", "T")]))
    made = PreTrainedTokenizerFast(tokenizer_object=inner)
    made.chat_template = "{{ messages[0].content }}A:"
    messages = (Message("user", "U"), Message("assistant", "T7"))
    assert encode_prompt(made, Prompt("p", messages, "3", "test")) == (0, 1, 4, 5)


def test_no_prefix_leaves_a_prompt_as_it_is() -> None:
    prompt = Prompt("p", (USER,), "3", "test")
    assert begun(prompt, prefix=None) is prompt
    assert prompt.prefix == ""
