"""The next-token distributions of policy and reference at one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dgpo_cli.policy.packing import pack

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.algo.truncation import Truncation
    from dgpo_cli.policy.policy import Policy


@dataclass(frozen=True, slots=True)
class NextToken:
    """Log-probabilities in nats of every possible next token, float64 [V] on the CPU."""

    policy: Tensor
    reference: Tensor

    def likeliest(self, count: int, *, sampled: int) -> list[int]:
        """Return the `count` likeliest ids of each model and `sampled`, by the policy's order."""
        count = min(count, len(self.policy))
        tops = (self.policy.topk(count).indices, self.reference.topk(count).indices)
        ids = {sampled, *(int(i) for top in tops for i in top)}
        return sorted(ids, key=lambda i: (-float(self.policy[i]), -float(self.reference[i]), i))

    def ranks_of(self, token_id: int) -> tuple[int, int]:
        """Return the rank of a token under the policy and the reference, from 1."""
        policy, reference = (
            int((column > column[token_id]).sum()) + 1 for column in (self.policy, self.reference)
        )
        return policy, reference

    def logprob(self, token_id: int, *, truncation: Truncation | None) -> float:
        """Return a token's log-probability under the policy, over what a sampler keeps."""
        own = self.policy
        if truncation is not None:
            kept = truncation.kept(own.exp()[None])[0]
            kept[token_id] = True
            own = own - own[kept].logsumexp(dim=0)
        return float(own[token_id])


@torch.no_grad()
def next_token(policy: Policy, ids: Sequence[int], *, temperature: float) -> NextToken:
    """Run policy and reference once over `ids`, prompt included, with logits of the last alone.

    temperature: what the logits are divided by.
    """
    row = torch.tensor([list(ids)], device=policy.device)
    packed = pack(row, torch.ones_like(row, dtype=torch.bool))
    pairs = (
        (policy.hidden(packed), policy.head),
        (policy.reference_hidden(packed), policy.reference_head),
    )
    own, other = (
        (head.logits(hidden[-1]).double() / temperature).log_softmax(dim=-1).cpu()
        for hidden, head in pairs
    )
    return NextToken(policy=own, reference=other)
