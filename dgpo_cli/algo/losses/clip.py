"""The clipped surrogate of PPO, GRPO and DAPO, token by token."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dgpo_cli.schema import Frozen


class ClipLoss(Frozen):
    """-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A); no KL term."""

    kind: Literal["clip"] = "clip"
    clip_low: float = Field(0.2, ge=0, lt=1, description="The ratio is clipped below at 1 - this.")
    clip_high: float = Field(0.28, ge=0, description="The ratio is clipped above at 1 + this.")
    aggregation: Literal["token-mean", "sequence-mean", "constant"] = Field(
        "token-mean",
        description="token-mean: DAPO's. sequence-mean: GRPO's. constant: Dr. GRPO's.",
    )
