"""The language-model head of a Hugging Face causal model: final hidden states to logits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from dgpo_cli.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor


# Names of the soft-cap on logits: Gemma's, RecurrentGemma's and xLSTM's.
_SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


@dataclass(frozen=True, slots=True)
class Head:
    """logits = softcap(scale * (hidden @ weight.T + bias)), in float32.

    compute: type that a GPU rounds both factors of the product to, if any.
    """

    weight: Tensor  # [V, D], any floating dtype
    bias: Tensor | None  # [V]
    scale: float
    softcap: float | None
    compute: torch.dtype | None = None

    def now(self, model: Any) -> Head:
        """Return the head with the model's weight as it is now: that of a sharded model is whole
        only inside its passes."""
        output = model.get_output_embeddings()
        return replace(self, weight=output.weight, bias=getattr(output, "bias", None))

    @property
    def vocab_size(self) -> int:
        return int(self.weight.shape[0])

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [..., V] of hidden states [..., D].

        The product is taken in float32 whatever the dtype of the weights: bfloat16 logits alone
        would make equal models look 1e-4 apart in squared Hellinger distance.
        """
        import torch.nn.functional as F

        bias = None if self.bias is None else self.bias.float()
        weight = self.weight
        if weight.is_cuda and weight.itemsize == 2 and not torch.is_grad_enabled():
            # As in the token pass: no copy of the weight in float32 for every token.
            rows = hidden.reshape(-1, hidden.shape[-1]).to(weight.dtype)
            logits = torch.mm(rows, weight.t(), out_dtype=torch.float32)
            logits = logits.view(*hidden.shape[:-1], -1)
            logits = logits if bias is None else logits + bias
        else:
            logits = F.linear(hidden.float(), weight.float(), bias)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = (logits / self.softcap).tanh() * self.softcap
        return logits


def head_of(model: Any, *, compute: torch.dtype | None = None) -> Head:
    """Return the head of a Hugging Face causal model, with its family's scale and soft-cap.

    Raises:
        ModelError: the head is not plain linear, is quantised, or has an adapter.
    """
    output = model.get_output_embeddings()
    weight = getattr(output, "weight", None)
    if output is None or weight is None:
        raise ModelError(
            f"{class_name(model)} has no output embedding, which token statistics need"
        )
    if any("lora_" in name for name, _ in output.named_parameters()):
        raise ModelError("adapter.targets includes the output head: leave lm_head out")
    if weight.ndim != 2 or not weight.is_floating_point():
        raise ModelError(
            f"the output head is stored as {str(weight.dtype).removeprefix('torch.')} "
            f"{list(weight.shape)}, not as a plain matrix, which token statistics need; give a "
            "model whose lm_head is not quantised"
        )
    config = model.config.get_text_config()
    scale = 1.0
    if getattr(config, "logit_scale", None) is not None:  # Cohere
        scale *= float(config.logit_scale)
    if getattr(config, "logits_scaling", None) is not None:  # Granite
        scale /= float(config.logits_scaling)
    found = (getattr(config, name, None) for name in _SOFTCAPS)
    softcap = next((value for value in found if value is not None), None)
    return Head(
        weight=weight,
        bias=getattr(output, "bias", None),
        scale=scale,
        softcap=None if softcap is None else float(softcap),
        compute=compute,
    )


def check_head(model: Any, *, head: Head) -> None:
    """Check that the head on the decoder's hidden states gives the model's own logits.

    A family that computes them differently would silently give wrong numbers.

    Raises:
        ModelError: the two disagree.
    """
    import torch

    ids = torch.arange(1, 5, device=head.weight.device)[None] % head.vocab_size
    with torch.no_grad():
        # Not model(): a check inside a pass of a sharded model must not begin another.
        own = model.forward(input_ids=ids, use_cache=False).logits.float()
        hidden = decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
        ours = head.logits(hidden)
    # The model's own product may be in bfloat16: 3 significant digits of the largest logit.
    tolerance = 1e-4 if head.weight.dtype == torch.float32 else 2e-2
    if own.shape != ours.shape or not torch.allclose(
        own, ours, rtol=tolerance, atol=tolerance * float(own.abs().max())
    ):
        raise ModelError(
            f"{class_name(model)} computes its logits in a way that dgpo does not support: "
            "token statistics would be wrong"
        )


def class_name(model: Any) -> str:
    """Return the name of a model's class, without what sharding puts before it."""
    return type(model).__name__.removeprefix("FSDP")


def decoder_of(model: Any) -> Any:
    """Return the part of a causal model that computes final hidden states."""
    decoder = model.get_decoder()
    return model.model if decoder is model else decoder  # Llama 4 names itself


def dtype_of(decoder: Any) -> torch.dtype:
    """Return the dtype that a model computes in; its residual stream may have another."""
    dtype: torch.dtype = decoder.get_input_embeddings().weight.dtype
    return dtype


def alike(found: Tensor, expected: Tensor, *, dtype: torch.dtype) -> bool:
    """Whether two tensors of hidden states, computed in a dtype, differ only by rounding.

    In 16 bits, rounding moves a deep model's by 0.05 of their norm (measured), more if a token
    switches experts; wrong ones are off by their own size. The limit is 0.2.
    """
    tolerance = 1e-4 if dtype == torch.float32 else 0.2
    apart = (found.float() - expected.float()).norm()
    return bool(apart <= tolerance * expected.float().norm())
