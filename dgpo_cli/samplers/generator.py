"""What the HF sampler needs of a model; policy/policy.py provides it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Generator(Protocol):
    """A causal language model with a cache and a tokenizer."""

    @property
    def device(self) -> Any: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end a completion."""
        ...

    @property
    def pads_prompts(self) -> bool:
        """Whether prompts of different lengths can be sampled side by side.

        Raises:
            ConfigError: the model cannot be sampled from here.
        """
        ...

    def new_cache(self) -> Any:
        """Return an empty cache whose `select` keeps rows by their numbers."""
        ...

    def next_logits(self, ids: Tensor, *, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """Return the logits after the last token of each row, float32 [B, V].

        Args:
            ids: the next tokens, int64 [B, T]; mask: int64 [B, L], of those so far and these.
            positions: int64 [B, T].
        """
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of a completion, special tokens left out."""
        ...
