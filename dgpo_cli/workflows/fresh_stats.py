"""Token statistics of stored rollouts, computed afresh under any model and its reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dgpo_cli.algo.advantages import AdvantageSettings
from dgpo_cli.backends.settings import RolloutSettings
from dgpo_cli.config.settings import Settings
from dgpo_cli.errors import ConfigError, DataError
from dgpo_cli.models.settings import ModelSettings
from dgpo_cli.types import Progress, ScoredGroup
from dgpo_cli.workflows.rollouts import RolloutLine, with_ids

if TYPE_CHECKING:
    from dgpo_cli.models.policy import Policy


@dataclass(frozen=True, slots=True)
class FreshStats:
    """One completion's statistics: T numbers in each column."""

    line: RolloutLine
    advantage: float
    logprobs: tuple[float, ...]
    entropy: tuple[float, ...]
    hellinger_sq: tuple[float, ...]


def fresh_stats(
    lines: Sequence[RolloutLine],
    *,
    everything: Sequence[RolloutLine],
    model: str,
    reference: str | None,
    adapter: Path | None,
    progress: Progress,
) -> tuple[list[FreshStats], Policy]:
    """Run the model and its reference once over every line.

    Args:
        everything: all lines of the file; advantages that are not stored come from whole groups.
        reference: another model; with `adapter` it is the model without the adapter instead.

    Raises:
        ConfigError: not exactly one of `reference` and `adapter`.
        DataError: a line has no tokens, or tokens of another vocabulary.
    """
    from dgpo_cli.engine import Engine
    from dgpo_cli.models.policy import load_for_sampling

    if (reference is None) == (adapter is None):
        raise ConfigError(
            "--model needs --reference M (another model) or --adapter A (the model without it "
            "is then the reference)"
        )
    policy = load_for_sampling(
        ModelSettings(path=model),
        adapter=adapter,
        reference=None if reference is None else ModelSettings(path=reference),
    )
    if reference is not None and policy.reference_head.vocab_size != policy.vocab_size:
        raise ConfigError(
            f"--reference {reference} has a vocabulary of {policy.reference_head.vocab_size}, "
            f"--model {model} one of {policy.vocab_size}: their distributions cannot be compared"
        )
    settings = Settings(rollout=RolloutSettings(temperature=_temperature(lines)))
    advantages = _advantages(everything, settings=settings.advantage)
    lines = [_with_token_ids(line, policy=policy) for line in lines]
    groups = [
        ScoredGroup(
            prompt=line.prompt,
            prompt_ids=line.prompt_ids,
            completions=(line.completion,),
            verdicts=(line.verdict,),
            advantages=(advantages[line.prompt.id, line.index],),
        )
        for line in lines
    ]
    engine = Engine(settings, policy=policy, progress=progress)
    stats = engine.make_batch(groups, every_distance=True).stats
    columns = [c.tolist() for c in (stats.old_logprobs, stats.entropy, stats.hellinger_sq)]
    found = []
    for row, line in enumerate(lines):
        length = len(line.completion.token_ids)
        logprobs, entropy, distance = (tuple(column[row][:length]) for column in columns)
        found.append(FreshStats(line, groups[row].advantages[0], logprobs, entropy, distance))
    return found, policy


def _temperature(lines: Sequence[RolloutLine]) -> float:
    """Return the sampling temperature of the lines; greedy ones are scored at 1."""
    temperatures = {line.temperature for line in lines}
    if len(temperatures) > 1:
        raise DataError(
            f"{lines[0].prompt.source}: sampled at temperatures {sorted(temperatures)}; "
            "inspect them one by one"
        )
    return temperatures.pop() or 1.0


def _advantages(
    lines: Sequence[RolloutLine], *, settings: AdvantageSettings
) -> dict[tuple[str, int], float]:
    """Return the advantage of every line: as stored, else from the rewards of its group."""
    groups: dict[str, list[RolloutLine]] = {}
    for line in lines:
        groups.setdefault(line.prompt.id, []).append(line)
    found = {}
    for name, group in groups.items():
        computed = settings.advantages([line.verdict.reward for line in group])
        for line, advantage in zip(group, computed, strict=True):
            stored = line.advantage
            found[name, line.index] = advantage if stored is None else stored
    return found


def _with_token_ids(line: RolloutLine, *, policy: Policy) -> RolloutLine:
    """Encode the text of a line that has no token ids."""
    from dgpo_cli.prompts.templates import encode_prompt

    ids = line.completion.token_ids
    if not ids:
        text = line.completion.text
        ids = tuple(policy.tokenizer.encode(text, add_special_tokens=False))
        if line.completion.finish_reason == "stop":
            ids = (*ids, policy.tokenizer.eos_token_id)
    if not ids:
        raise DataError(
            f"{line.prompt.source}: completion {line.index} of {line.prompt.id} is empty"
        )
    if max(ids) >= policy.vocab_size:
        raise DataError(
            f"{line.prompt.source}: token id {max(ids)} is not in the model's vocabulary of "
            f"{policy.vocab_size}; these rollouts are another model's"
        )
    prompt_ids = line.prompt_ids or encode_prompt(policy.tokenizer, line.prompt)
    return with_ids(line, prompt_ids=prompt_ids, ids=ids)
