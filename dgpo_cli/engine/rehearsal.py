"""Tries a credit rule and a loss of the user's own on numbers of no model, before one is loaded."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from dgpo_cli.algo.own import check_losses, guarding
from dgpo_cli.core.errors import ConfigError, DgpoError
from dgpo_cli.core.types import TokenStats

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.algo.credit import CreditRule
    from dgpo_cli.algo.losses import Loss
    from dgpo_cli.config.settings import Settings

_VOCABULARY = 1000


def rehearse(settings: Settings) -> None:
    """Try what is the user's own in the settings; does nothing if nothing is.

    Raises:
        ConfigError: it fails, or what it gives cannot be used; one line that names it.
    """
    try:
        if settings.credit.is_own:
            _try_rule(settings.credit)
        if settings.loss.is_own:
            _try_loss(settings.loss)
    except DgpoError as error:  # nothing has been run: the setting is at fault
        raise ConfigError(str(error)) from error


def _try_rule(rule: CreditRule) -> None:
    """Weigh four completions: one without tokens, and one whose d and entropy are 0."""
    mask, logprobs = _completions()
    numbers = torch.linspace(0.0, 1.0, mask.numel()).view(mask.shape)
    there = torch.tensor([[1.0], [1.0], [0.0], [1.0]])
    stats = TokenStats(
        old_logprobs=logprobs,
        entropy=6.0 * numbers * there,
        hellinger_sq=0.1 * numbers * there,
        value_moves=there * (numbers - 0.3) if rule.needs_values else None,
    )
    advantages = torch.tensor([1.0, -0.5, 0.7, -1.2])
    rule.credit_for(stats, mask, advantages, vocab_size=_VOCABULARY)
    if rule.needs_reference:
        return
    unmeasured = replace(stats, hellinger_sq=torch.full_like(stats.hellinger_sq, math.nan))
    try:
        rule.credit_for(unmeasured, mask, advantages, vocab_size=_VOCABULARY)
    except DgpoError as error:  # in a run d would be 0, and all weights might be 1
        raise DgpoError(
            f"credit.rule={rule.name}: uses stats.hellinger_sq, which is measured only for a rule "
            "that says so; add needs_reference: ClassVar[bool] = True to the class"
        ) from error


def _try_loss(loss: Loss) -> None:
    """Take the loss of four completions whose policy has moved a little."""
    mask, old = _completions()
    moved = 0.2 * torch.linspace(-1.0, 1.0, old.numel()).view(old.shape)
    logprobs = (old + moved).masked_fill(~mask, 0.0).requires_grad_()
    advantages = torch.tensor([[1.0], [-0.5], [0.7], [-1.2]]).expand(mask.shape)
    with guarding(loss):
        found = loss.token_losses(
            logprobs,
            old_logprobs=old,
            token_advantages=advantages,
            mask=mask,
            reference_logprobs=old if loss.needs_reference else None,
        )
        check_losses(found, logprobs, mask)


def _completions() -> tuple[Tensor, Tensor]:
    """Return mask and log-probabilities of four completions, [4, 6]."""
    mask = torch.arange(6) < torch.tensor([[6], [3], [4], [0]])
    logprobs = -torch.linspace(0.01, 5.0, mask.numel()).view(mask.shape)
    return mask, logprobs.masked_fill(~mask, 0.0)
