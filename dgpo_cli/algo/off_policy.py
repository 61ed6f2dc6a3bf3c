"""Corrects for a sampler that differs from the policy: truncated or masked importance weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dgpo_cli.core.schema import Frozen

if TYPE_CHECKING:
    from torch import Tensor

Level = Literal["none", "token", "sequence"]

# Above 88 exp is infinite in float32; every cap is far below.
_MAX_LOG_RATIO = 80.0


@dataclass(frozen=True, slots=True)
class Correction:
    """The correction for one sampler."""

    level: Level
    mode: Literal["truncate", "mask"]
    cap: float

    def weights(
        self,
        old_logprobs: Tensor,  # float32 [B, T], nats, the trainer's
        sampling_logprobs: Tensor,  # float32 [B, T], nats, the sampler's
        mask: Tensor,  # bool [B, T]
    ) -> tuple[Tensor, Tensor]:
        """Return the weights, float32 [B, T], and which tokens are within the cap, bool [B, T].

        Neither has a gradient; both are zero outside the mask. With level "none" every weight
        is 1.

        Source: truncated importance sampling, Ionides 2008 (J. Comput. Graph. Stat. 17); for
        samplers that differ from the trainer, https://fengyao.notion.site/off-policy-rl.
        """
        import torch

        with torch.no_grad():
            ones = mask.to(torch.float32)
            if self.level == "none":
                return ones, mask
            gap = torch.where(mask, old_logprobs - sampling_logprobs, 0.0)
            if self.level == "sequence":
                gap = gap.sum(dim=1, keepdim=True).expand_as(gap)
            ratio = gap.clamp(max=_MAX_LOG_RATIO).exp()
            within = (ratio <= self.cap) & mask
            beyond = self.cap if self.mode == "truncate" else 0.0
            return torch.where(within, ratio, beyond) * ones, within


class OffPolicySettings(Frozen):
    """Importance weights of tokens whose probability differs between sampler and trainer.

    The loss of a token is multiplied by p_trainer / p_sampler, taken before the update;
    "sequence" takes the product over the completion.
    """

    correction: Literal["auto", "none", "token", "sequence"] = Field(
        "auto",
        description="auto: token for vLLM samplers, none for hf, which is the trainer's own model.",
    )
    mode: Literal["truncate", "mask"] = Field(
        "truncate", description="Above the cap: the cap itself, or 0."
    )
    cap: float = Field(2.0, gt=1, le=1000, description="Largest importance weight.")

    def of(self, backend: str) -> Correction:
        """Return the correction for the sampler `backend`."""
        level: Level = "token"
        if self.correction != "auto":
            level = self.correction
        elif backend == "hf":
            level = "none"
        return Correction(level, self.mode, self.cap)
