"""Losses: one file each, one line each in the union."""

from __future__ import annotations

from dgpo_cli.algo.losses.clip import ClipLoss

# With a second loss this becomes Annotated[ClipLoss | Other, Field(discriminator="kind")].
LossSettings = ClipLoss

__all__ = ["ClipLoss", "LossSettings"]
