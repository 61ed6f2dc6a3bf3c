"""Credit for other trainers: of logits, or of models that another program trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dgpo_cli.algo.credit import CreditRule, DgpoCredit
from dgpo_cli.core.types import TokenStats
from dgpo_cli.policy.batching import Rows
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.scoring import token_stats
from dgpo_cli.policy.token_pass.moments import Ledger
from dgpo_cli.policy.token_pass.reduce import reduce_two
from dgpo_cli.policy.token_pass.tiles import LOG_ZERO

if TYPE_CHECKING:
    from torch import Tensor


_MOST = 1 << 22  # logits that are reduced at a time


@torch.no_grad()
def credit_weights(
    policy_logits: Tensor,
    reference_logits: Tensor | None,
    mask: Tensor,
    tau: float = 0.5,
    kappa: float = 1.0,
    *,
    temperature: float = 1.0,
) -> Tensor:
    """Return the weight of every token that the advantage of its completion is multiplied by.

    float32 [B, T], without gradient: a mean of 1 over each completion, 0 outside the mask. The
    arithmetic is that of training. A trainer that has no room for logits takes `CreditMeter`.

    Args:
        policy_logits: floating [B, T, V]; those at t are what token t was drawn from. -inf stands
            for a token that cannot be drawn.
        reference_logits: those of the reference, [B, T, V]; None: a distance of 0.
        mask: bool or 0 and 1, [B, T]; True on the tokens of the completion.
        tau: how strongly scores turn into weights; larger is closer to GRPO.
        kappa: power of the entropy gate; 0 switches it off.
        temperature: of the sampling; both sets of logits are divided by it.

    Raises:
        ValueError: shapes do not fit, or tau, kappa or temperature is out of range.

    Source: quantities 2 to 5 of DGPO, arXiv 2605.03327.

    Examples:
        >>> import torch
        >>> from dgpo_cli import credit_weights
        >>> policy, reference = torch.randn(2, 1, 5, 50, generator=torch.manual_seed(0))
        >>> weights = credit_weights(policy, reference, torch.ones(1, 5), tau=0.01)
        >>> weights.shape, round(weights.mean().item(), 4)
        (torch.Size([1, 5]), 1.0)
    """
    rule = DgpoCredit(tau=tau, kappa=kappa)
    stats = stats_of_logits(policy_logits, reference_logits, mask, temperature=temperature)
    return rule.credit(stats, mask.bool(), vocab_size=policy_logits.shape[-1]).weights


def stats_of_logits(
    logits: Tensor, reference_logits: Tensor | None, mask: Tensor, *, temperature: float
) -> TokenStats:
    """Return entropy and distance of every token on the mask, float32 [B, T]; no log-probability.

    Arguments and errors are those of `credit_weights`.
    """
    _check_logits(logits, reference_logits, mask)
    if not temperature > 0:
        raise ValueError(f"temperature={temperature:g}: must be positive")
    columns = torch.zeros(2, *mask.shape, device=logits.device)
    for rows in mask.nonzero().split(max(1, _MOST // logits.shape[-1])):
        where = tuple(rows.unbind(dim=1))
        columns[:, where[0], where[1]] = _columns(
            _halved(logits[where], temperature=temperature),
            None
            if reference_logits is None
            else _halved(reference_logits[where], temperature=temperature),
        )
    entropy, distance = columns.unbind(dim=0)
    return TokenStats(torch.zeros_like(entropy), entropy=entropy, hellinger_sq=distance)


class CreditMeter:
    """Weighs the tokens of completions by the models that another trainer has in memory.

    It runs dgpo's own pass: hidden states without padding, and statistics over tiles of the
    vocabulary, so that no logits of a whole batch are held. The models are used as they are at each
    call, in evaluation mode and without gradient; their mode is restored.

    Weights that are split over processes (FSDP, ZeRO-3) cannot be measured.
    """

    def __init__(
        self,
        model: Any,
        *,
        reference: Any | None = None,
        tokenizer: Any,
        rule: CreditRule | None = None,
        temperature: float = 1.0,
        micro_batch_size: int = 8,
    ) -> None:
        """
        Args:
            model: a causal transformers model; with a PEFT adapter, the reference is the same model
                with the adapter off.
            reference: a second model, which nobody trains; None: the adapter off, or a distance of
                0 without an adapter.
            rule: by default `DgpoCredit()`, with the paper's tau and kappa.
            temperature: of the sampling.
            micro_batch_size: completions of a pass.

        Raises:
            ModelError: a model's logits are not supported, or the vocabularies differ.
        """
        self.rule = rule or DgpoCredit()
        self._temperature, self._size = temperature, micro_batch_size
        self._model = model
        has_adapter = hasattr(model, "peft_config")
        self._measures = self.rule.needs_reference and (has_adapter or reference is not None)
        self._policy = Policy(
            model,
            tokenizer=tokenizer,
            reference=None if has_adapter else reference,
            has_adapter=has_adapter,
        )

    def weights(
        self,
        *,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        completion_ids: Tensor,
        completion_mask: Tensor,
        advantages: Tensor,
    ) -> Tensor:
        """Return the weight of every token, float32 [B, T] on the device of `advantages`.

        Args:
            prompt_ids: int64 [B, L], padded on the left. prompt_mask: bool or 0 and 1, [B, L].
            completion_ids: int64 [B, T], padded on the right. completion_mask: [B, T].
            advantages: [B], of the completions; the reference runs where they are not 0.
        """
        mask = completion_mask.bool()
        rows = Rows(prompt_ids, prompt_mask.bool(), completion_ids, mask, mask)
        training = self._model.training
        self._model.eval()
        try:
            stats = token_stats(
                self._policy,
                rows,
                temperature=self._temperature,
                micro_batch_size=self._size,
                with_reference=self._measures,
                needs_reference=advantages != 0,
            )
        finally:
            self._model.train(training)
        vocab_size = self._policy.vocab_size
        return self.rule.credit_for(stats, mask, advantages, vocab_size=vocab_size).weights


def _halved(logits: Tensor, *, temperature: float) -> Tensor:
    return (logits.float() * (0.5 / temperature)).clamp(min=LOG_ZERO)


def _columns(x: Tensor, z: Tensor | None) -> Tensor:
    """Return entropy and distance, float32 [2, N], of half logits [N, V]."""
    ledger = Ledger(len(x), device=x.device)
    reduce_two(x, z, scratch=torch.empty_like(x), numbers=ledger.next_tile())
    sums = ledger.result()
    return torch.stack((sums.entropy(), sums.hellinger_sq())).float()


def _check_logits(logits: Tensor, reference_logits: Tensor | None, mask: Tensor) -> None:
    """Raise ValueError unless logits are floating [B, T, V], and the mask [B, T] without halves."""
    shape = tuple(logits.shape)
    if len(shape) != 3 or not logits.is_floating_point():
        raise ValueError(f"policy_logits: {logits.dtype} {list(shape)}; must be floating [B, T, V]")
    if reference_logits is not None and tuple(reference_logits.shape) != shape:
        raise ValueError(
            f"reference_logits: {list(reference_logits.shape)}; must be those of policy_logits, "
            f"{list(shape)}"
        )
    if tuple(mask.shape) != shape[:2] or not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            f"mask: {mask.dtype} {list(mask.shape)}; must be 0 and 1, {list(shape[:2])}"
        )
