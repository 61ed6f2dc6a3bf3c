"""A correct and a wrong completion of some prompts of the newest rollouts, with their credit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dgpo_cli.core.types import InspectedCompletion, InspectedToken, Inspection, StoredSamples
from dgpo_cli.inspect.rollout_file import open_rollouts
from dgpo_cli.runs.rollouts import RolloutLine, StoredStats
from dgpo_cli.runs.run_folder import RunFolder, step_of
from dgpo_cli.runs.token_texts import TokenTexts

PROMPTS = 3
MAX_TOKENS = 1_000  # of a completion
LOOKED_AT = 512  # lines searched for correct and wrong ones: files may be very large


@dataclass(frozen=True, slots=True)
class _Examples:
    """The first correct and the first wrong completion of a prompt."""

    right: RolloutLine | None = None
    wrong: RolloutLine | None = None

    @property
    def lines(self) -> Iterator[RolloutLine]:
        yield from (line for line in (self.right, self.wrong) if line is not None)


def newest_samples(folder: RunFolder) -> StoredSamples | None:
    """Return some completions of the newest rollouts with token statistics; None without any.

    Prompts with a correct and a wrong one come first. Long completions end at MAX_TOKENS.

    Raises:
        DataError: the rollouts or the tokenizer cannot be read.
    """
    path = next(reversed(folder.rollouts()), None)
    if path is None:
        return None
    lines = [line for pair in _pairs(path)[:PROMPTS] for line in pair.lines]
    if not lines:
        return None
    texts = TokenTexts.of_run(path)
    first = lines[0].stats
    assert first is not None
    tau, kappa = (_setting(first, name) for name in ("tau", "kappa"))
    inspection = Inspection(
        model=f"the policy of step {step_of(path) - 1}",
        reference="the initial model",
        rule=str(first.credit.get("rule", "unknown")),
        tau=tau,
        kappa=kappa,
        vocab_size=first.vocab_size,
        completions=tuple(_completion(line, texts=texts) for line in lines),
    )
    lengths = tuple(len(line.completion.token_ids) for line in lines)
    return StoredSamples(step=step_of(path), inspection=inspection, lengths=lengths)


def _pairs(path: Path) -> list[_Examples]:
    """Return the prompts of a file, those with both kinds first; stop at PROMPTS of these."""
    found: dict[str, _Examples] = {}
    for line in (entry.line() for entry in open_rollouts(path).entries[:LOOKED_AT]):
        if line.stats is None or line.verdict is None or not line.completion.token_ids:
            continue
        pair = found.get(line.prompt.id, _Examples())
        is_right = line.verdict.outcome == "correct"
        found[line.prompt.id] = _Examples(
            right=pair.right or (line if is_right else None),
            wrong=pair.wrong or (None if is_right else line),
        )
        if sum(len(list(each.lines)) == 2 for each in found.values()) >= PROMPTS:
            break
    return sorted(found.values(), key=lambda pair: -len(list(pair.lines)))


def _completion(line: RolloutLine, *, texts: TokenTexts) -> InspectedCompletion:
    """Return the credit as training stored it."""
    stats = line.stats
    assert stats is not None and line.verdict is not None
    weights = stats.weights
    squares = math.fsum(weight * weight for weight in weights)
    total = math.fsum(weights)
    columns = (stats.logprobs, stats.entropy, stats.hellinger_sq, stats.scores, weights)
    ids = line.completion.token_ids[:MAX_TOKENS]
    foreign = [not own for own in line.completion.written[: len(ids)]]
    numbers = [column[: len(ids)] for column in columns]
    rows = zip(ids, texts.texts(ids), *numbers, [""] * len(ids), foreign, strict=True)
    return InspectedCompletion(
        prompt_id=line.prompt.id,
        index=line.index,
        prompt=line.prompt.text,
        answer=line.prompt.answer,
        outcome=line.verdict.outcome,
        finish_reason=line.completion.finish_reason,
        reward=line.verdict.reward,
        advantage=line.advantage or 0.0,
        effective_fraction=(
            total * total / (line.completion.length * squares) if squares else math.nan
        ),
        tau=_setting(stats, "tau") if stats.tau is None else stats.tau,
        tokens=tuple(InspectedToken(*row) for row in rows),
        noise_floor=stats.noise_floor,
        terms=line.verdict.terms,
        note=line.verdict.note,
    )


def _setting(stats: StoredStats, name: str) -> float | None:
    """Return a parameter of the credit rule; None if it has none."""
    value = stats.credit.get(name)
    return float(value) if isinstance(value, int | float) else None
