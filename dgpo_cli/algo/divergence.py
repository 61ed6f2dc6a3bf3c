"""What two sets of logits say about each token: log-probability, entropy, squared Hellinger.

Logits are already divided by the sampling temperature and are float32 or better. A masked-out
vocabulary entry is -inf. V is the width of the logits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Stands in for log 0, so that 0 * log 0 is 0; exp of it is exactly 0 in float32 and float64.
_LOG_ZERO = -1e30


def _widened(logits: Tensor) -> Tensor:
    import torch

    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def selected_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probability in nats of each chosen token; differentiable.

    logits: [..., V]; ids: int64 [...]. Returns [...]. Bit for bit the log-probabilities of
    `token_statistics` on the same logits.
    """
    import torch

    logprobs = torch.log_softmax(_widened(logits), dim=-1)
    return logprobs.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def token_statistics(
    policy_logits: Tensor, reference_logits: Tensor | None, token_ids: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (logprobs, entropy, hellinger_sq), each [...], without gradient.

    policy_logits, reference_logits: [..., V], left as they are; without a reference the
    distance is 0. token_ids: int64 [...]. Needs room for three more tensors like the logits.

    The entropy is the policy's, in nats. The squared Hellinger distance is in [0, 1] and exactly
    0 for equal logits. Source: quantities 2 and 3 of DGPO, arXiv 2605.03327.
    """
    import torch

    with torch.no_grad():
        policy = _widened(policy_logits)
        log_p = torch.log_softmax(policy, dim=-1)
        logprobs = log_p.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
        log_p.clamp_(min=_LOG_ZERO)
        work = log_p.exp()
        entropy = work.mul_(log_p).sum(dim=-1).neg_().clamp_(min=0.0)
        if reference_logits is None:
            return logprobs, entropy, torch.zeros_like(entropy)
        reference = _widened(reference_logits)
        return logprobs, entropy, _hellinger_sq(policy, reference, log_p=log_p, work=work)


def hellinger_sq(policy_logits: Tensor, reference_logits: Tensor) -> Tensor:
    """Squared Hellinger distance 1/2 sum (sqrt p - sqrt q)^2 over V; [..., V] to [...]."""
    import torch

    with torch.no_grad():
        policy, reference = _widened(policy_logits), _widened(reference_logits)
        log_p = torch.log_softmax(policy, dim=-1)
        work = torch.empty_like(log_p)
        return _hellinger_sq(policy, reference, log_p=log_p, work=work)


def _hellinger_sq(policy: Tensor, reference: Tensor, *, log_p: Tensor, work: Tensor) -> Tensor:
    """Sum 1/2 max(p, q) (1 - exp(-|log p - log q| / 2))^2; overwrites `log_p` and `work`.

    Each term is (sqrt p - sqrt q)^2 without the cancellation. log p - log q comes from logits less
    the largest of their row, which loses no digits where p is large, and one shift for the row. A
    rounding error e of the shift moves the sum by e * d + e^2 / 8 only, as p and q sum to 1.
    """
    import torch

    top_p = policy.amax(dim=-1, keepdim=True)
    top_q = reference.amax(dim=-1, keepdim=True)
    torch.sub(policy, top_p, out=work)
    work.sub_(reference - top_q)
    # -inf less -inf: the entry is masked out in both, and max(p, q) = 0 takes it away below.
    work.nan_to_num_(nan=0.0, posinf=math.inf, neginf=-math.inf)
    log_q = torch.log_softmax(reference, dim=-1)
    # The largest log-probability is minus the log of the row's sum of exp(logit - largest).
    work.add_(log_p.amax(dim=-1, keepdim=True) - log_q.amax(dim=-1, keepdim=True))
    work.abs_().mul_(-0.5)
    torch.expm1(work, out=work)
    torch.maximum(log_p, log_q, out=log_p).exp_()
    return work.square_().mul_(log_p).sum(dim=-1).mul_(0.5).clamp_(max=1.0)
