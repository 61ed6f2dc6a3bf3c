"""What the HF sampler needs of a model; models/policy.py provides it."""

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

    def new_cache(self) -> Any:
        """Return an empty key-value cache that has `batch_select_indices`."""
        ...

    def next_logits(
        self, input_ids: Tensor, *, attention_mask: Tensor, position_ids: Tensor, cache: Any
    ) -> Tensor:
        """Return the logits after the last token of each row, float32 [B, V]."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of a completion, special tokens left out."""
        ...
