"""Opens a tracker by its name, and only then imports its package."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dgpo_cli.trackers.protocol import TrackedRun, Tracker
    from dgpo_cli.trackers.settings import TrackerName


def open_tracker(name: TrackerName, run: TrackedRun) -> Tracker:
    """Start or resume a run in a tracker."""
    match name:
        case "tensorboard":
            from dgpo_cli.trackers.tensorboard import TensorBoard

            return TensorBoard(run)
        case "wandb":
            from dgpo_cli.trackers.wandb import Wandb

            return Wandb(run)
        case "trackio":
            from dgpo_cli.trackers.trackio import Trackio

            return Trackio(run)
