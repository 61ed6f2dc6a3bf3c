"""Everything about one token: what else could have come there, under the policy and reference."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from dgpo_cli.config.load import resolve
from dgpo_cli.config.settings import Settings
from dgpo_cli.core.errors import CheckpointError, ConfigError, ModelError, UnreadableError
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.core.types import Alternative, InspectedCompletion, TokenDetail
from dgpo_cli.inspect.rollout_file import Entry, RolloutFile
from dgpo_cli.inspect.shown_credit import Statistics
from dgpo_cli.policy.settings import LoraAdapter
from dgpo_cli.runs.run_folder import RunFolder, check_state, step_of
from dgpo_cli.runs.token_texts import TokenTexts

if TYPE_CHECKING:
    from dgpo_cli.policy.policy import Policy

TOP = 8  # likeliest tokens of each model
_OFF = 1e-2  # nats by which a checkpoint's log-probability may differ from the stored one


def check_position(position: int, completion: InspectedCompletion) -> None:
    """Refuse a token that the completion does not have.

    Raises:
        ConfigError: see above.
    """
    count = len(completion.tokens)
    if position >= count:
        raise ConfigError(
            f"--at {position}: completion {completion.index} of {completion.prompt_id} has tokens "
            f"0 to {count - 1}"
        )


def computed_detail(
    position: int, *, found: Statistics, policy: Policy, texts: TokenTexts, weights: str
) -> TokenDetail:
    """Run the policy and its reference over what stands before the token.

    weights: which weights those are, in words.
    """
    from dgpo_cli.inspect.alternatives import next_token

    line = found.line
    ids = line.completion.token_ids
    sampled = ids[position]
    temperature = line.temperature or 1.0
    before = (*line.prompt_ids, *ids[:position])
    models = next_token(policy, before, temperature=temperature)
    shown = models.likeliest(TOP, sampled=sampled)
    ranks = models.ranks_of(sampled)
    previous = ids[position - 1] if position else None
    return TokenDetail(
        position=position,
        alternatives=tuple(
            Alternative(
                id=i,
                text=texts.after(previous, i),
                hex=texts.hexes([i])[0],
                policy=math.exp(models.policy[i]),
                reference=math.exp(models.reference[i]),
            )
            for i in shown
        ),
        policy_rank=ranks[0],
        reference_rank=ranks[1],
        temperature=temperature,
        weights=weights,
    )


def stored_detail(
    position: int,
    *,
    found: Statistics,
    file: RolloutFile,
    entry: Entry,
    texts: TokenTexts,
    observer: Observer,
) -> TokenDetail:
    """Find the weights that sampled a stored completion; without them, say what computes it."""
    bare = TokenDetail(position=position, temperature=found.line.temperature or 1.0)
    asked = _Asked(file, entry, position)
    run = RunFolder(file.path.parent.parent)
    if not run.settings_file.is_file():
        return _with_hint(bare, asked.command("--model M --reference R"))
    settings = resolve(config=run.settings_file).settings
    version = found.line.completion.policy_version
    checkpoint = None if version == 0 else _checkpoint_of(run, version=version)
    if version > 0 and checkpoint is None:
        return _with_hint(bare, _nearest(run, settings, asked=asked))
    weights = "the initial model" if checkpoint is None else str(checkpoint)
    try:
        policy = _load(settings, checkpoint=checkpoint)
    except (CheckpointError, ModelError, UnreadableError) as error:
        tell(observer, f"{weights}, which sampled it, does not load: {error}")
        return _with_hint(bare, asked.command("--model M --reference R"))
    detail = computed_detail(position, found=found, policy=policy, texts=texts, weights=weights)
    _compare(detail, found=found, observer=observer)
    return detail


def _compare(detail: TokenDetail, *, found: Statistics, observer: Observer) -> None:
    """Tell where the weights give the sampled token another probability than training stored."""
    sampled = found.line.completion.token_ids[detail.position]
    (own,) = (each.policy for each in detail.alternatives if each.id == sampled)
    stored = found.logprobs[detail.position]
    now = math.log(own) if own > 0 else -math.inf
    if not abs(now - stored) <= _OFF:
        tell(
            observer,
            f"{detail.weights} gives token {detail.position} log-probability {now:.4f}, "
            f"training stored {stored:.4f}: these are not the weights that sampled it",
        )


def _checkpoint_of(run: RunFolder, *, version: int) -> Path | None:
    """Return the checkpoint whose weights had seen so many updates."""
    for checkpoint in run.checkpoints():
        try:
            if check_state(checkpoint).policy_version == version:
                return checkpoint
        except (CheckpointError, UnreadableError):
            continue  # a broken checkpoint is no reason not to look at another one
    return None


def _load(settings: Settings, *, checkpoint: Path | None) -> Policy:
    from dgpo_cli.policy.policy import load_policy

    return load_policy(
        settings.model,
        adapter=settings.adapter,
        seed=settings.seed,
        with_reference=True,
        checkpoint=checkpoint,
    )


class _Asked:
    """What was asked, to be put into a command that the user can copy."""

    def __init__(self, file: RolloutFile, entry: Entry, position: int) -> None:
        group = file.groups.index(entry.prompt_id)
        self._end = (
            f"--rollouts {shlex.quote(str(file.path))} --group {group} --sample {entry.index} "
            f"--at {position}"
        )

    def command(self, models: str) -> str:
        return f"dgpo inspect {models} {self._end}"


def _with_hint(detail: TokenDetail, hint: str) -> TokenDetail:
    return TokenDetail(position=detail.position, temperature=detail.temperature, hint=hint)


def _nearest(run: RunFolder, settings: Settings, *, asked: _Asked) -> str:
    """Return the command that takes the newest checkpoint, as the right one is not kept."""
    checkpoints = run.checkpoints()
    initial = shlex.quote(settings.model.path)
    if not checkpoints:
        return asked.command(f"--model M --reference {initial}")
    newest = shlex.quote(str(checkpoints[-1]))
    lora = isinstance(settings.adapter, LoraAdapter)
    models = (
        f"--model {initial} --adapter {newest}"
        if lora
        else (f"--model {newest} --reference {initial}")
    )
    return f"{asked.command(models)}  # weights after step {step_of(checkpoints[-1])}"
