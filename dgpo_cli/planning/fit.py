"""Settings that dgpo chooses for a model and data of one's own, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator

from dgpo_cli.config.layers import Layer, dotted_layer
from dgpo_cli.config.load import Resolved
from dgpo_cli.config.shorthand import Asked
from dgpo_cli.core.events import NOBODY, Observer
from dgpo_cli.prompts.datasets import first_rows
from dgpo_cli.prompts.problems import find_columns
from dgpo_cli.prompts.settings import SumsPrompts

_LOOKED_AT = 100  # rows whose columns are compared


def fitted(asked: Asked, *, observer: Observer = NOBODY) -> Resolved:
    """Resolve what was asked for, with what the data decides.

    Raises:
        ConfigError: a setting is wrong, or there is no such data.
        DataError: the data is broken.
        BackendError: the hub does not give it.
    """
    return asked.resolve(tuple(_columns(asked, observer=observer)))


def _columns(asked: Asked, *, observer: Observer) -> Iterator[Layer]:
    """Yield the names of the columns, where they are others than the default's."""
    prompts = asked.resolve().settings.prompts
    if asked.data is None or isinstance(prompts, SumsPrompts):
        return
    found = find_columns(first_rows(prompts, count=_LOOKED_AT, observer=observer))
    values = {"prompts.problem_column": found.problem, "prompts.answer_column": found.answer}
    yield dotted_layer("the columns of --data", values)
