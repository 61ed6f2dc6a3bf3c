"""How far an evaluation has come: the score of its samples so far."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from dgpo_cli.core.events import Judged
from dgpo_cli.core.types import Interval, Outcome, Price, Prompt
from dgpo_cli.evals.samples import Sample
from dgpo_cli.stats.estimators import avg_at_k
from dgpo_cli.stats.intervals import rerun_interval
from dgpo_cli.stats.stopping import LEAST_ROUNDS, is_enough

_UNKNOWN = Interval(math.nan, math.nan)


class Running:
    """Counts the samples 0 to k - 1 of every problem as they come, in any order.

    A round is one sample of each problem: sample 0 of all is the first. The score is that of the
    whole rounds, in which every problem has the same number of samples.

    stop_when: half the width of the rerun interval that is small enough. The rounds after the
    first that reaches it are not counted, so that the score is that of its samples alone.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        *,
        bench: str,
        k: int,
        model: str = "",
        price: Price | None = None,
        max_cost: float | None = None,
        stop_when: float | None = None,
        greedy: bool = False,
    ) -> None:
        """greedy: a rerun gives the same, so that there is no error over reruns."""
        self.prompts, self.bench, self.model, self.k = prompts, bench, model, k
        self.price, self.max_cost, self.stop_when = price, max_cost, stop_when
        self.greedy = greedy
        self.rounds = 0
        self.enough = False
        self._right: list[set[str]] = [set() for _ in range(k)]  # ids, by sample
        self._there = [0] * k
        self._counts = {prompt.id: (0, 0) for prompt in prompts}
        self._correct = dict.fromkeys(self._counts, 0)  # in whole rounds
        self._outcomes: Counter[Outcome] = Counter()
        self._prompt_tokens: int | None = 0
        self._tokens: int | None = 0
        self._rerun_95 = _UNKNOWN

    def add(self, samples: Iterable[Sample]) -> None:
        """Count samples, each once."""
        for sample in samples:
            if sample.index < self.k:
                self._add(sample)
        before = self.rounds
        while not self.finished and self._there[self.rounds] == len(self.prompts):
            for name in self._right[self.rounds]:
                self._correct[name] += 1
            self.rounds += 1
            self.enough = self.stop_when is not None and is_enough(
                list(self._correct.values()), k=self.rounds, margin=self.stop_when
            )
        if self.rounds > before and not self.greedy:
            self._rerun_95 = rerun_interval(list(self._correct.values()), k=self.rounds)

    @property
    def finished(self) -> bool:
        """Whether no more rounds are needed: k are there, or the error is small enough."""
        return self.enough or self.rounds == self.k

    def goal(self) -> int:
        """Return the number of rounds to begin before looking at the error again.

        The error falls with the square root of the rounds, which says how many it will take.
        """
        if self.stop_when is None:
            return self.k
        expected = self.rounds * (self._rerun_95.half_width / self.stop_when) ** 2
        more = max(LEAST_ROUNDS, self.rounds + 1, math.ceil(expected) if self.rounds else 0)
        return min(self.k, more)

    def _add(self, sample: Sample) -> None:
        right = sample.verdict.outcome == "correct"
        correct, done = self._counts[sample.prompt_id]
        self._counts[sample.prompt_id] = correct + right, done + 1
        self._outcomes[sample.verdict.outcome] += 1
        self._there[sample.index] += 1
        if right:
            self._right[sample.index].add(sample.prompt_id)
        self._prompt_tokens = _plus(self._prompt_tokens, sample.prompt_tokens)
        self._tokens = _plus(self._tokens, sample.tokens)

    @property
    def rerun_95(self) -> Interval:
        """The 95% interval over reruns, of the whole rounds; NaN before the first or if greedy."""
        return self._rerun_95

    @property
    def cost(self) -> float | None:
        """What all counted samples cost; None if a number of tokens or the price is unknown."""
        if self.price is None or self._prompt_tokens is None or self._tokens is None:
            return None
        return self.price.of(prompt=self._prompt_tokens, completion=self._tokens)

    def event(self, *, drawn: int, tokens: int, seconds: float) -> Judged:
        """Return the event; drawn, tokens, seconds: of this command."""
        done, expected = sum(self._there), self.rounds if self.enough else self.goal()
        return Judged(
            bench=self.bench,
            model=self.model,
            k=self.k,
            done=done,
            total=max(done, expected * len(self.prompts)),
            problems=dict(self._counts),
            outcomes=dict(self._outcomes),
            rounds=self.rounds,
            avg=avg_at_k(list(self._correct.values()), k=self.rounds) if self.rounds else math.nan,
            rerun_95=self._rerun_95,
            drawn=drawn,
            tokens=tokens,
            seconds=seconds,
            cost=self.cost,
            max_cost=self.max_cost,
        )


def _plus(total: int | None, more: int | None) -> int | None:
    return None if total is None or more is None else total + more
