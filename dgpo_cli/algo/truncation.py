"""What top_k and top_p leave of a distribution over the vocabulary.

First the k likeliest tokens stay; of these, the fewest that hold the share top_p of their
probability. That is vLLM's order too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Likeliest tokens among which a nucleus is looked for before the whole vocabulary is sorted.
_FIRST = 1024


@dataclass(frozen=True, slots=True)
class Truncation:
    """The tokens that may be drawn: top_k 0 and top_p 1 keep all."""

    top_p: float
    top_k: int

    @classmethod
    def of(cls, *, temperature: float, top_p: float, top_k: int) -> Truncation | None:
        """Return the truncation of a sampler; None if it keeps all, or is greedy."""
        keeps_all = top_p >= 1.0 and top_k <= 0
        return None if keeps_all or temperature == 0 else cls(top_p, top_k)

    def cut(self, probs: Tensor) -> Tensor:
        """Return probabilities [N, V] with 0 for the tokens that go; rows sum to at most 1."""
        import torch

        if self._cuts_ranks(probs):
            # By rank, not by value: ties with the k-th value would let more than k pass.
            ranked = probs.topk(self.top_k, dim=-1)
            probs = torch.zeros_like(probs).scatter_(-1, ranked.indices, ranked.values)
        if self.top_p < 1.0:
            ranked_probs, order = probs.sort(dim=-1, descending=True, stable=True)
            total = ranked_probs.sum(dim=-1, keepdim=True)
            before = ranked_probs.cumsum(dim=-1) - ranked_probs
            ranked_probs = ranked_probs.masked_fill(before >= self.top_p * total, 0.0)
            probs = torch.zeros_like(probs).scatter_(-1, order, ranked_probs)
        return probs

    def kept(self, probs: Tensor) -> Tensor:
        """Return which tokens stay, bool [N, V]: those that `cut` leaves.

        Looks at few of them where that is enough, which takes the time to wait for a GPU.
        """
        import torch

        few = min(_FIRST, probs.shape[-1] // 4)
        if few < 2 or self.top_p == 1.0 or self._cuts_ranks(probs):
            return self.cut(probs) > 0
        first = probs.topk(few, dim=-1).values
        before = first.cumsum(dim=-1) - first
        inside = before < self.top_p * probs.sum(dim=-1, keepdim=True)
        count = inside.sum(dim=-1, keepdim=True).clamp(min=1)  # 0 in a row of NaN
        last = first.gather(-1, count - 1)
        # Where the next one is as likely, rank decides and not the value.
        clear = (count < few) & (last > first.gather(-1, count.clamp(max=few - 1)))
        kept = probs >= last
        rest = torch.nonzero(~clear[:, 0])[:, 0]
        if len(rest):
            kept[rest] = self.cut(probs[rest]) > 0
        return kept

    def _cuts_ranks(self, probs: Tensor) -> bool:
        return 0 < self.top_k < probs.shape[-1]
