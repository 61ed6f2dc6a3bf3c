"""What an evaluation draws its samples from: an engine on this machine, or an endpoint."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol as TypingProtocol

from dgpo_cli.config.load import Resolved
from dgpo_cli.config.protocols import Protocol
from dgpo_cli.config.settings import Settings
from dgpo_cli.core.seeds import derive_seed
from dgpo_cli.core.types import Card, Completion, Prompt
from dgpo_cli.evals.samples import Sample
from dgpo_cli.prompts.benchmarks import Benchmark

Missing = tuple[Prompt, int]  # a problem and the number of one of its samples


@dataclass(frozen=True, slots=True)
class Drawn:
    """The completion of sample `index` of a problem."""

    prompt: Prompt
    index: int
    completion: Completion


def sample_seed(seed: int, name: str, index: int) -> int:
    """Return the seed of sample `index` of the problem with the id `name`; seed: settings.seed."""
    return derive_seed(seed, "eval", name, index)


class Source(TypingProtocol):
    """Draws samples of one model, on one benchmark after the other."""

    def describe(
        self, resolved: Resolved, *, benchmark: Benchmark, protocol: Protocol | None
    ) -> Card:
        """Check the benchmark's prompts and return the card of its evaluation.

        Raises:
            DataError, ModelError, ConfigError: a prompt does not fit the model.
        """
        ...

    def draw(
        self, wanted: Iterator[Missing], *, settings: Settings, stored: Sequence[Sample]
    ) -> Generator[list[Drawn]]:
        """Yield the samples `wanted` as they come, in any order, some at a time.

        wanted: taken from as far as samples are begun, so that it may end before all are known.
        stored: the samples that the evaluation has, which a budget counts.
        Closing the iterator gives up what is not drawn. A KeyboardInterrupt thrown into it may
        yield what has been paid for before it comes back.

        Raises:
            BackendError: sampling failed.
        """
        ...
