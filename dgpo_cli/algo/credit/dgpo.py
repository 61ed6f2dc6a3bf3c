"""The credit rule of DGPO: weight by how far the policy has moved and how unsure it is."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from dgpo_cli.schema import Frozen


class DgpoCredit(Frozen):
    """w = T * softmax(d * h^kappa / tau). Source: arXiv 2605.03327."""

    needs_reference: ClassVar[bool] = True

    rule: Literal["dgpo"] = "dgpo"
    tau: float = Field(
        0.5, gt=0, description="Temperature of the weights; larger is closer to GRPO's."
    )
    kappa: float = Field(1.0, ge=0, description="Power of the entropy gate; 0 switches it off.")
