"""Draws next tokens from logits, with its own stream of uniform numbers for every row.

One uniform number per token and the inverse cumulative distribution: a row's tokens depend only
on its seed and logits, not on batching, order or resuming.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from dgpo_cli.algo.truncation import Truncation

if TYPE_CHECKING:
    from torch import Tensor

    from dgpo_cli.samplers.base import SamplingParams

_BLOCK = 1024


class UniformStreams:
    """A counter-based stream (Philox) of uniform numbers in [0, 1) for each seed."""

    def __init__(self, seeds: Sequence[int]) -> None:
        import numpy as np

        self._streams = [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds]
        self._block = torch.empty(len(seeds), 0, dtype=torch.float64)
        self._start = 0

    def at(self, position: int) -> Tensor:
        """Return number `position` of every stream, float64 [B]. Positions must not go back."""
        import numpy as np

        if position >= self._start + self._block.shape[1]:
            self._start += self._block.shape[1]
            assert position == self._start
            # The first block is small: most completions are short, and drawing costs time.
            size = min(_BLOCK, max(64, position))
            block = np.stack([stream.random(size) for stream in self._streams])
            self._block = torch.from_numpy(block)
        return self._block[:, position - self._start]


def draw_tokens(
    logits: Tensor, *, uniforms: Tensor, params: SamplingParams
) -> tuple[Tensor, Tensor]:
    """Draw one token a row.

    Args:
        logits: float32 [B, V], not yet divided by the temperature.
        uniforms: float64 [B] in [0, 1).

    Returns:
        tokens int64 [B], and their log-probabilities float32 [B] in nats under the distribution
        that they are drawn from: that of the logits divided by the temperature, over the tokens
        that top_k and top_p keep. When greedy, that of the plain logits.
    """
    if params.temperature == 0:
        tokens = logits.argmax(dim=-1)
        logprobs = torch.log_softmax(logits, dim=-1)
        return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]
    logprobs = torch.log_softmax(logits / params.temperature, dim=-1)
    probs = logprobs.exp()
    truncation = Truncation.of(
        temperature=params.temperature, top_p=params.top_p, top_k=params.top_k
    )
    if truncation is None:
        tokens = _invert(probs, uniforms=uniforms)
        return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]
    kept = truncation.cut(probs)
    tokens = _invert(kept, uniforms=uniforms)
    logprobs = logprobs.masked_fill(kept == 0, -torch.inf).log_softmax(dim=-1)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def _invert(probs: Tensor, *, uniforms: Tensor) -> Tensor:
    """Return the token at which the cumulative distribution passes each uniform, int64 [B]."""
    # float64: over 150,000 tokens a float32 sum loses the tails of the distribution. Apple's GPUs
    # have no float64, so the CPU sums.
    device = probs.device
    probs = probs.cpu() if device.type == "mps" else probs
    cumulative = probs.cumsum(dim=-1, dtype=torch.float64)
    target = uniforms.to(cumulative.device)[:, None] * cumulative[:, -1:]
    # A uniform below 1 stays below 1 when rounded, so its target is below the sum.
    tokens = torch.searchsorted(cumulative, target, right=True)[:, 0]
    # A row of NaN gets some token: the trainer rejects batches that are not finite.
    return tokens.clamp(max=probs.shape[-1] - 1).to(device)
