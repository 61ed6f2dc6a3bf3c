"""Settings of the prompt sources; one class a source, chosen by `kind`. No torch here."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from dgpo_cli.core.own_code import Spec
from dgpo_cli.core.schema import Change, Frozen, JsonTable, Table
from dgpo_cli.environments.source import EnvSource

# What rendering itself gives to a chat template, and the arguments of apply_chat_template.
RESERVED = frozenset(
    (
        *("conversation", "messages", "tools", "documents", "chat_template"),
        *("add_generation_prompt", "continue_final_message", "tokenize", "padding", "truncation"),
        *("max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
        *("tokenizer_kwargs", "additional_special_tokens", "raise_exception", "strftime_now"),
        *(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")),
    )
)


def _without_reserved(arguments: dict[str, Any] | None) -> dict[str, Any] | None:
    for name in arguments or ():
        if name in RESERVED:
            raise ValueError(f"{name} is set by dgpo or the tokenizer; leave it out")
    return arguments


class TemplateFields(Frozen):
    """How a problem becomes the messages that the model sees."""

    template: str = Field(
        "{problem}",
        pattern=r"\{problem\}",
        description="The user turn; {problem} is replaced by the problem's text.",
    )
    system: str | None = Field(None, description="System turn, if any.")
    chat_template: Annotated[Table, AfterValidator(_without_reserved)] = Field(
        None,
        description="Arguments of the model's chat template, such as {enable_thinking = false}.",
    )
    assistant_prefix: str | None = Field(
        None,
        min_length=1,
        description="Text that the assistant's turn begins with, which the model continues.",
    )
    max_prompt_tokens: int = Field(
        1024, ge=1, description="Longer prompts are left out, and counted."
    )


class SelectSettings(Frozen):
    """A curriculum: prompts whose measured pass rate is out of bounds are passed over."""

    low: float = Field(
        0.0, ge=0, le=1, description="Least share of correct completions of a prompt that is drawn."
    )
    high: float = Field(
        1.0, ge=0, le=1, description="Largest share; with low=0 and high=1 every prompt is drawn."
    )
    window: int = Field(
        2, ge=1, le=100, description="Newest draws of a prompt whose mean is its share."
    )
    again_every: int = Field(
        4,
        ge=2,
        le=1000,
        description="A prompt out of bounds is drawn at every such turn of it, to be measured "
        "again.",
    )

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low={self.low:g} is above high={self.high:g}: no share is between")
        return self

    @property
    def is_on(self) -> bool:
        """Whether any share is out of bounds."""
        return self.low > 0 or self.high < 1


_SELECT = Field(SelectSettings(), description="A curriculum by measured difficulty.")


class SumsFields(Frozen):
    """Generated problems."""

    kind: Annotated[Literal["sums"], Change.FIXED] = "sums"
    operations: tuple[Annotated[int, Field(ge=1, le=32)], ...] = Field(
        (2,), min_length=1, description="Numbers of operations a problem may have, equally likely."
    )
    max_operand: int = Field(
        99, ge=1, le=999, description="Largest number that a problem is written with."
    )


class SumsPrompts(SumsFields, TemplateFields):
    """Generated nested arithmetic with integer answers 0 to 999; never the held-out test set."""


class ColumnFields(Frozen):
    """Where a row has its problem and its answer."""

    problem_column: Annotated[str, Change.FIXED] = Field(
        "problem",
        min_length=1,
        description="Field with the problem: text, or a list of chat messages; nested: a.b, a.0.b.",
    )
    answer_column: Annotated[str, Change.FIXED] = Field(
        "answer", min_length=1, description="Field with the answer."
    )


_OVERLAP = Field(
    False,
    description="Leave out problems that are also in the run's benchmark (eval.bench) or in a "
    "generated one. Otherwise contamination is only reported.",
)


class RowFields(ColumnFields, TemplateFields):
    """How problems are read from rows of data."""

    drop_overlap: bool = _OVERLAP
    select: SelectSettings = _SELECT


class FileFields(Frozen):
    """A file of rows."""

    kind: Annotated[Literal["file"], Change.FIXED] = "file"
    path: str = Field(
        min_length=1, description="The file; its suffix gives the format, JSONL if unknown."
    )


class FilePrompts(FileFields, RowFields):
    """Problems and answers from a local file: JSONL, JSON (a list), CSV or Parquet."""


class HubFields(Frozen):
    """Files of a dataset on the hub."""

    kind: Annotated[Literal["hub"], Change.FIXED] = "hub"
    dataset: Annotated[str, Change.FIXED] = Field(
        min_length=1, description="Hub id of the dataset."
    )
    revision: Annotated[str | None, Change.FIXED] = Field(
        None, description="Commit, tag or branch; resolved to a commit at the start of a run."
    )
    split: Annotated[str, Change.FIXED] = Field(
        "train", min_length=1, description="Split of the dataset."
    )
    files: Annotated[str | None, Change.FIXED] = Field(
        None,
        min_length=1,
        description="Pattern of the data files, such as 'en/*.parquet'; unset: the split's.",
    )


class HubPrompts(HubFields, RowFields):
    """Problems and answers from a Hugging Face dataset: its Parquet, JSONL, JSON or CSV files."""


class PartFields(Frozen):
    """A source of a mixture. What is unset here is the mixture's."""

    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        description="Name in metrics and ids, and for sources of [[reward.terms]]; unset: that of "
        "the file or dataset.",
    )
    weight: float = Field(
        1.0, gt=0, le=1e6, description="Its share of the prompts, in proportion to the others'."
    )
    template: str | None = Field(
        None, pattern=r"\{problem\}", description="The user turn; unset: prompts.template."
    )
    system: str | None = Field(None, description="System turn; unset: prompts.system.")

    @property
    def title(self) -> str:
        """What the source is called if it has no name."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """The name of the source."""
        return self.name or self.title


class SumsPart(SumsFields, PartFields):
    """Generated problems."""

    @property
    def title(self) -> str:
        return "sums"


class FilePart(FileFields, ColumnFields, PartFields):
    """The problems of a local file."""

    @property
    def title(self) -> str:
        return PurePath(self.path).stem


class HubPart(HubFields, ColumnFields, PartFields):
    """The problems of a Hugging Face dataset."""

    @property
    def title(self) -> str:
        return self.dataset.rpartition("/")[2]


AnyPart = Annotated[SumsPart | FilePart | HubPart, Field(discriminator="kind")]
_ALONE: dict[str, type[SumsPrompts | FilePrompts | HubPrompts]] = {
    "sums": SumsPrompts,
    "file": FilePrompts,
    "hub": HubPrompts,
}


class MixturePrompts(TemplateFields):
    """The problems of several sources, in fixed shares."""

    kind: Annotated[Literal["mixture"], Change.FIXED] = "mixture"
    sources: tuple[AnyPart, ...] = Field(
        min_length=1,
        max_length=100,
        description="The sources, each a table [[prompts.sources]] of its kind.",
    )
    drop_overlap: bool = _OVERLAP
    select: SelectSettings = _SELECT

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = Counter(source.label for source in self.sources)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"two sources are named {twice[0]!r}; set the name of one of them")
        return self

    def alone(self) -> tuple[SumsPrompts | FilePrompts | HubPrompts, ...]:
        """Return the settings of each source as if it were the only one."""
        shared = {name: getattr(self, name) for name in TemplateFields.model_fields}
        return tuple(
            _ALONE[source.kind](**{**shared, **source.model_dump(exclude=_OWN, exclude_none=True)})
            for source in self.sources
        )


_OWN = {"name", "weight"}


class PlayedPrompts(Frozen):
    """The tasks of an environment, which are conversations of several turns."""

    chat_template: Annotated[Table, AfterValidator(_without_reserved)] = Field(
        None,
        description="Arguments of the model's chat template, such as {enable_thinking = false}.",
    )
    max_prompt_tokens: int = Field(
        1024, ge=1, description="Tasks with a longer first prompt are left out, and counted."
    )
    env_args: Annotated[JsonTable, Change.FIXED] = Field(
        None, description="Arguments of the environment, such as {limit = 100}."
    )
    max_turns: int = Field(10, ge=1, le=1000, description="Most turns of the model.")
    max_turn_tokens: int | None = Field(
        None,
        ge=1,
        description="Longest turn of the model; unset: what is left of "
        "rollout.max_completion_tokens, which bounds all turns and what is said between them.",
    )
    timeout_s: Annotated[float, Change.FREE] = Field(
        60.0, gt=0, le=86400, description="Longest wait for an answer or a reward; then unscored."
    )

    # An environment writes its own prompts.
    template: ClassVar[str] = "{problem}"
    system: ClassVar[str | None] = None
    assistant_prefix: ClassVar[str | None] = None


class EnvironmentPrompts(PlayedPrompts):
    """The tasks of an environment of yours: a subclass of dgpo_cli.Environment."""

    kind: Annotated[Literal["environment"], Change.FIXED] = "environment"
    env: Annotated[Spec, Change.FIXED] = Field(
        description="The class, as file.py:Name or package.module:Name."
    )


class VerifiersPrompts(PlayedPrompts):
    """The tasks of an environment of the package verifiers."""

    kind: Annotated[Literal["verifiers"], Change.FIXED] = "verifiers"
    env: Annotated[str, Change.FIXED] = Field(
        min_length=1, description="Its name: a taskset that is installed, such as my-task-v1."
    )


PromptSettings = Annotated[
    SumsPrompts | FilePrompts | HubPrompts | MixturePrompts | EnvironmentPrompts | VerifiersPrompts,
    Field(discriminator="kind"),
]


def env_source(settings: PlayedPrompts) -> EnvSource:
    """Return which environment settings name."""
    assert isinstance(settings, EnvironmentPrompts | VerifiersPrompts)
    return EnvSource(settings.kind, settings.env, settings.env_args or {}, settings.timeout_s)
