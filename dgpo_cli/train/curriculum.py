"""A curriculum by measured difficulty: prompts whose pass rate is out of bounds are passed over.

A prompt that was never drawn is drawn in its turn. One that was drawn has a pass rate, the mean
over its newest draws; while that is out of bounds, only every `again_every`-th of its turns draws
it, to measure it again. If a whole epoch has too few prompts, those that were passed over fill the
step.

What is known when a step draws is what the steps before it sampled, also with rollout.overlap, and
a checkpoint keeps it: a resumed run draws what it would have drawn.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from dgpo_cli.core.codec import encoded
from dgpo_cli.core.formats import SELECTED, Measurements, Position
from dgpo_cli.core.types import Prompt, ScoredGroup, StepMetrics
from dgpo_cli.prompts.datasets import PromptStream
from dgpo_cli.prompts.settings import SelectSettings
from dgpo_cli.runs.pending import SELECTED_FILE, read_optional


class Curriculum:
    """What is known of every prompt, and which are drawn."""

    def __init__(self, settings: SelectSettings, known: Measurements | None = None) -> None:
        self._settings = settings
        self._rates = dict(known.rates) if known else {}
        self._passed = dict(known.passed) if known else {}
        self._scanned: list[bool] = []  # of this draw: whether each turn drew its prompt
        self._forced = 0

    def text(self) -> str:
        """Return the file of a checkpoint."""
        return encoded(SELECTED.dump(self.known())) + "\n"

    def known(self) -> Measurements:
        """Return a copy of what is known."""
        return Measurements(dict(self._rates), dict(self._passed))

    def restore(self, known: Measurements) -> None:
        """Go back to what was known."""
        self._rates, self._passed = dict(known.rates), dict(known.passed)

    def begin(self) -> None:
        """Begin the draw of a step; it may take several times."""
        self._scanned, self._forced = [], 0

    def take(
        self, stream: PromptStream, at: Position, *, count: int
    ) -> tuple[list[Prompt], Position]:
        """Return the next `count` prompts that are to be drawn, and the position after them."""
        chosen: dict[str, Prompt] = {}
        passed: dict[str, Prompt] = {}
        epoch, scanned = len(stream.prompts or ()) + count, 0
        while len(chosen) < count and scanned < epoch:
            block = stream.take(at, count=count - len(chosen))
            at = at.after(len(block))
            scanned += len(block)
            for prompt in block:
                draws = prompt.id not in chosen and self._draws(prompt.id)
                self._scanned.append(draws)
                (chosen if draws else passed)[prompt.id] = prompt
        spare = [prompt for id, prompt in passed.items() if id not in chosen]
        found = [*chosen.values(), *spare][:count]
        self._forced += count - min(count, len(chosen))
        while len(found) < count:  # fewer prompts than a step takes
            found += found[: count - len(found)]
        return found, at

    def record(self, groups: Sequence[ScoredGroup]) -> StepMetrics:
        """Add the pass rates of what a step sampled, and return the metrics of its draw.

        groups: of a step that took none, with dynamic sampling, they are known already.
        """
        for group in groups if self._scanned else ():
            scored = [v for v in group.verdicts if v.is_scored and v.outcome != "scored"]
            if scored:
                rate = sum(v.outcome == "correct" for v in scored) / len(scored)
                newest = (*self._rates.get(group.prompt.id, ()), rate)[-self._settings.window :]
                self._rates[group.prompt.id] = newest
        within = sum(map(self._is_within, self._rates.values()))
        return {
            "select/measured": float(len(self._rates)),
            "select/within": within / len(self._rates) if self._rates else 1.0,
            "select/passed_over": self._scanned.count(False) / max(1, len(self._scanned)),
            "select/forced": float(self._forced),
        }

    def _draws(self, id: str) -> bool:
        """Whether the prompt is drawn at this turn of it."""
        rates = self._rates.get(id)
        if rates is None or self._is_within(rates):
            self._passed.pop(id, None)
            return True
        turns = self._passed.get(id, 0) + 1
        if turns >= self._settings.again_every:
            self._passed.pop(id, None)
            return True
        self._passed[id] = turns
        return False

    def _is_within(self, rates: Sequence[float]) -> bool:
        return self._settings.low <= statistics.fmean(rates) <= self._settings.high


def starting_curriculum(
    settings: SelectSettings | None, *, checkpoint: Path | None
) -> Curriculum | None:
    """Return the curriculum at the start of a run or at a checkpoint; None where it is off.

    Raises:
        CheckpointError: what the checkpoint knows cannot be read.
    """
    if settings is None or not settings.is_on:
        return None
    known = None if checkpoint is None else read_optional(checkpoint / SELECTED_FILE, SELECTED)
    return Curriculum(settings, known)
