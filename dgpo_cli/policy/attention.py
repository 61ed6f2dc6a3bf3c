"""Picks an implementation of attention that computes the same as eager.

A fast kernel silently omits what a family adds to attention (a soft-cap on its logits, sinks,
biases) unless it supports it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dgpo_cli.core.errors import ConfigError
from dgpo_cli.policy.head import alike, class_name, decoder_of, dtype_of

if TYPE_CHECKING:
    from torch import Tensor

_TOKENS = 16
# Bounds that queries are scaled to give attention logits: a soft-cap shows in large logits, sinks
# and biases in small ones.
_LOGITS = (4.0, 200.0)
# Shorter than the tokens, so that the window is compared too.
_WINDOW = 5
_WINDOWS = ("sliding_window", "attention_chunk_size")


def settle(model: Any, *, chosen: str) -> str | None:
    """Switch the model to eager attention if its own computes something else; return a note then.

    Costs two passes over a few tokens, whatever the size of the model.

    Args:
        chosen: the setting `model.attention`; only "auto" allows the switch.

    Raises:
        ConfigError: the chosen attention is wrong for the model.
    """
    own = model.config._attn_implementation
    if own == "eager" or _as_eager(model, own):
        return None
    apart = _nats_apart(model, own)
    wrong = (
        f"{own} computes the attention of {class_name(model)} wrongly (log-probabilities up to "
        f"{apart:.2g} nats off)"
    )
    if chosen != "auto":
        raise ConfigError(f"model.attention={chosen}: {wrong}; set model.attention=eager")
    model.set_attn_implementation("eager")
    return f"model.attention=auto uses eager, because {wrong}"


def _as_eager(model: Any, own: str) -> bool:
    """Whether each layer's attention equals eager's, and so the final hidden states.

    Hidden states in 16 bits are compared only if the layers could not be: their rounding,
    especially with experts, hides most faults.
    """
    ids, decoder = _probe_ids(model), decoder_of(model)
    with torch.no_grad(), _short_windows(model):
        with _compared(own) as same:
            found = decoder(input_ids=ids, use_cache=False).last_hidden_state
        dtype = dtype_of(decoder)
        if not all(same) or (same and dtype != torch.float32):
            return all(same)
        with _eager(model, own):
            expected = decoder(input_ids=ids, use_cache=False).last_hidden_state
    return alike(found, expected, dtype=dtype)


@contextlib.contextmanager
def _eager(model: Any, own: str) -> Iterator[None]:
    """Run eager for a while; a model without it keeps its own."""
    with contextlib.suppress(ValueError):
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(own)


@contextlib.contextmanager
def _short_windows(model: Any) -> Iterator[None]:
    """Make every attention window shorter than the compared tokens."""
    held = []
    for owner in (model.config.get_text_config(), *model.modules()):
        for name in _WINDOWS:
            size = vars(owner).get(name)
            if isinstance(size, int) and size > _WINDOW:
                held.append((owner, name, size))
                setattr(owner, name, _WINDOW)
    try:
        yield
    finally:
        for owner, name, size in held:
            setattr(owner, name, size)


@contextlib.contextmanager
def _compared(own: str) -> Iterator[list[bool]]:
    """Compare every call of an implementation with the family's eager function."""
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    plain, same = ALL_ATTENTION_FUNCTIONS[own], []

    def both(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **named: Any
    ) -> Any:
        eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        # A 16-bit kernel is compared up to the rounding of its output.
        exact = own == "sdpa"
        dtype = _widest(query.device) if exact else query.dtype
        largest = query.float().norm(dim=-1).amax() * key.float().norm(dim=-1).amax()
        for logits in _LOGITS if eager is not None else ():
            scale = logits / (largest * (named.get("scaling") or query.shape[-1] ** -0.5))
            call = _Call(module, query * scale, key, value, mask, named)
            same.append(call.same(plain, eager, dtype=dtype, tolerance=1e-3 if exact else 3e-2))
        return plain(module, query, key, value, mask, **named)

    AttentionInterface.register(own, both)
    try:
        yield same
    finally:
        AttentionInterface.register(own, plain)


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of an attention function."""

    module: Any
    query: Tensor  # [B, heads, T, size]
    key: Tensor
    value: Tensor
    mask: Tensor | None
    named: dict[str, Any]

    def same(self, plain: Any, eager: Any, *, dtype: torch.dtype, tolerance: float) -> bool:
        """Whether two functions agree in every head, with inputs in a dtype."""
        states = [tensor.to(dtype) for tensor in (self.query, self.key, self.value)]
        wide = [tensor.to(_widest(tensor.device)) for tensor in states]
        found, _ = plain(self.module, *states, self.mask, **self.named)
        expected, _ = eager(self.module, *wide, self._added(), **self.named)
        apart = (found - expected).abs().amax(dim=(0, 1, 3))  # of [B, T, heads, size]
        return bool((apart <= tolerance * expected.abs().amax(dim=(0, 1, 3))).all())

    def _added(self) -> Tensor | None:
        """Return the mask as eager attention adds it; for a kernel, None may mean causal."""
        mask, named = self.mask, self.named
        if mask is not None and mask.dtype != torch.bool:
            return mask
        if mask is None:
            causal = named.get("is_causal")
            if not (getattr(self.module, "is_causal", True) if causal is None else causal):
                return None
            rows, columns = self.query.shape[2], self.key.shape[2]
            last = columns - rows  # the diagonal of the newest key that a query sees
            mask = torch.ones(rows, columns, dtype=torch.bool, device=self.query.device).tril(last)
            if named.get("sliding_window"):
                mask = mask.triu(last - named["sliding_window"] + 1)
        hidden = torch.finfo(torch.float32).min
        return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, hidden)


def _nats_apart(model: Any, own: str) -> float:
    """Return the largest difference in log-probabilities between a model's attention and eager."""
    ids = _probe_ids(model)
    with torch.no_grad(), _short_windows(model):
        found = model(input_ids=ids, use_cache=False).logits.float().log_softmax(dim=-1)
        with _eager(model, own):
            expected = model(input_ids=ids, use_cache=False).logits.float().log_softmax(dim=-1)
    return float((found - expected).abs().max())


def _probe_ids(model: Any) -> Tensor:
    """Return a few token ids, int64 [1, T]."""
    device = next(model.parameters()).device
    vocab_size = int(model.config.get_text_config().vocab_size)
    return (torch.arange(_TOKENS, device=device)[None] * 7 + 1) % vocab_size
