"""Settings of the prompt sources; one class a source, chosen by `kind`. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dgpo_cli.schema import Frozen


class TemplateFields(Frozen):
    """How a problem becomes the messages that the model sees."""

    template: str = Field(
        "{problem}",
        pattern=r"\{problem\}",
        description="The user turn; {problem} is replaced by the problem's text.",
    )
    system: str | None = Field(None, description="System turn, if any.")
    max_prompt_tokens: int = Field(
        1024, ge=1, description="Longer prompts are left out, and counted."
    )


class SumsPrompts(TemplateFields):
    """Generated nested arithmetic with integer answers 0 to 999; never the held-out test set."""

    kind: Literal["sums"] = "sums"
    operations: tuple[Annotated[int, Field(ge=1, le=32)], ...] = Field(
        (2,), min_length=1, description="Numbers of operations a problem may have, equally likely."
    )
    max_operand: int = Field(
        99, ge=1, le=999, description="Largest number that a problem is written with."
    )


class FilePrompts(TemplateFields):
    """Problems and answers from a local file: JSONL, JSON (a list), CSV or Parquet."""

    kind: Literal["file"] = "file"
    path: str = Field(
        min_length=1, description="The file; its suffix says what it is, JSONL where unknown."
    )
    problem_column: str = Field(
        "problem",
        min_length=1,
        description="Field with the problem: text, or a list of chat messages; a.b for nested.",
    )
    answer_column: str = Field("answer", min_length=1, description="Field with the answer.")


class HubPrompts(TemplateFields):
    """Problems and answers from a Hugging Face dataset."""

    kind: Literal["hub"] = "hub"
    dataset: str = Field(min_length=1, description="Hub id of the dataset.")
    revision: str | None = Field(None, description="Pinned revision.")
    split: str = Field("train", min_length=1, description="Split of the dataset.")
    problem_column: str = Field("problem", min_length=1, description="Column with the problem.")
    answer_column: str = Field("answer", min_length=1, description="Column with the answer.")


PromptSettings = Annotated[SumsPrompts | FilePrompts | HubPrompts, Field(discriminator="kind")]
