"""Settings of the trackers. No torch, and no tracker is imported here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dgpo_cli.core.schema import Frozen

TrackerName = Literal["tensorboard", "wandb", "trackio"]


class TrackSettings(Frozen):
    """Where a run's metrics go besides its folder. API keys are never settings: the trackers store
    them (wandb login, hf auth login)."""

    to: tuple[TrackerName, ...] = Field(
        (),
        description='Any of "tensorboard", "wandb", "trackio"; each needs the extra of its name.',
    )
    project: str = Field(
        "dgpo", pattern=r"^[\w.-]{1,100}$", description="Project of wandb and trackio."
    )
    name: str | None = Field(
        None, min_length=1, max_length=100, description="Name of the run; unset: its folder's."
    )
    mode: Literal["auto", "online", "offline"] = Field(
        "auto",
        description="offline: nothing leaves this machine. online: wandb sends. auto: what the "
        "tracker's own settings say, such as WANDB_MODE.",
    )
