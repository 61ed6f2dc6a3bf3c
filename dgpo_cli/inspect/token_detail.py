"""The details of one token: its alternatives under the policy and the reference."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
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
    from dgpo_cli.inspect.alternatives import NextToken
    from dgpo_cli.policy.policy import Policy

TOP = 8  # likeliest tokens of each model
_OFF = 1e-2  # nats: largest difference of log-probabilities, checkpoint and stored


def check_position(position: int, completion: InspectedCompletion) -> None:
    """Raise ConfigError for a token that the completion does not have, or that has no credit."""
    count = len(completion.tokens)
    if position >= count:
        raise ConfigError(
            f"--at {position}: completion {completion.index} of {completion.prompt_id} has tokens "
            f"0 to {count - 1}"
        )
    if completion.tokens[position].environment:
        first = next(at for at in range(position, count) if not completion.tokens[at].environment)
        raise ConfigError(
            f"--at {position}: the environment wrote this token, which has no credit; the policy's "
            f"next token is {first}"
        )


def computed_detail(
    position: int, *, found: Statistics, policy: Policy, texts: TokenTexts, weights: str
) -> TokenDetail:
    """Run the policy and its reference over the tokens before this one. weights: their name."""
    models = _models(position, found=found, policy=policy)
    return _detail(position, found=found, models=models, texts=texts, weights=weights)


def _models(position: int, *, found: Statistics, policy: Policy) -> NextToken:
    from dgpo_cli.inspect.alternatives import next_token

    line = found.line
    before = (*line.prompt_ids, *line.completion.token_ids[:position])
    return next_token(policy, before, temperature=line.temperature or 1.0)


def _detail(
    position: int, *, found: Statistics, models: NextToken, texts: TokenTexts, weights: str
) -> TokenDetail:
    ids = found.line.completion.token_ids
    sampled = ids[position]
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
        temperature=found.line.temperature or 1.0,
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
    """Load the weights that sampled a stored completion; without them, return a command as hint."""
    from dgpo_cli.policy.load_policy import load_policy

    bare = TokenDetail(position=position, temperature=found.line.temperature or 1.0)
    end = f"--rollouts {shlex.quote(str(file.path))} --group {file.groups.index(entry.prompt_id)}"
    end += f" --sample {entry.index} --at {position}"
    by_hand = replace(bare, hint=f"dgpo inspect --model M --reference R {end}")
    run = RunFolder(file.path.parent.parent)
    if not run.settings_file.is_file():
        return by_hand
    settings = resolve(config=run.settings_file, run_code=False).settings
    version = found.line.completion.policy_version
    checkpoint = None if version == 0 else _checkpoint_of(run, version=version)
    if version > 0 and checkpoint is None:
        return replace(bare, hint=_nearest(run, settings, end=end))
    weights = "the initial model" if checkpoint is None else str(checkpoint)
    try:
        policy = load_policy(
            settings.model,
            adapter=settings.adapter,
            seed=settings.seed,
            with_reference=True,
            checkpoint=checkpoint,
        )
    except (CheckpointError, ModelError, UnreadableError) as error:
        tell(observer, f"{weights}, which sampled it, does not load: {error}")
        return by_hand
    models = _models(position, found=found, policy=policy)
    now = models.logprob(
        found.line.completion.token_ids[position], truncation=settings.rollout.truncation
    )
    stored = found.logprobs[position]
    if not abs(now - stored) <= _OFF:
        tell(
            observer,
            f"{weights} gives token {position} log-probability {now:.4f}, "
            f"training stored {stored:.4f}: these are not the weights that sampled it",
        )
    return _detail(position, found=found, models=models, texts=texts, weights=weights)


def _checkpoint_of(run: RunFolder, *, version: int) -> Path | None:
    """Return the checkpoint after `version` updates."""
    for checkpoint in run.checkpoints():
        try:
            if check_state(checkpoint).policy_version == version:
                return checkpoint
        except (CheckpointError, UnreadableError):
            continue  # try the others
    return None


def _nearest(run: RunFolder, settings: Settings, *, end: str) -> str:
    """Return the command for the newest checkpoint, since the right one is gone."""
    checkpoints = run.checkpoints()
    initial = shlex.quote(settings.model.path)
    if not checkpoints:
        return f"dgpo inspect --model M --reference {initial} {end}"
    newest = shlex.quote(str(checkpoints[-1]))
    models = f"--model {newest} --reference {initial}"
    if isinstance(settings.adapter, LoraAdapter):
        models = f"--model {initial} --adapter {newest}"
    return f"dgpo inspect {models} {end}  # weights after step {step_of(checkpoints[-1])}"
