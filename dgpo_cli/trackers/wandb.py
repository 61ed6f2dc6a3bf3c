"""Weights & Biases; offline it writes to the run folder, for `wandb sync`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dgpo_cli.core.errors import ConfigError

if TYPE_CHECKING:
    from dgpo_cli.trackers.protocol import TrackedRun


class Wandb:
    """One run of wandb, under the id in the run folder."""

    replaces_steps = False  # sent steps stay

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        offline = run.mode == "offline" or (
            run.mode == "auto" and os.environ.get("WANDB_MODE", "") in ("offline", "dryrun")
        )
        mode = None if run.mode == "auto" else run.mode
        disabled = run.mode == "auto" and os.environ.get("WANDB_MODE") == "disabled"
        if not (offline or disabled) and wandb.api.api_key is None:
            # wandb would ask for it on the terminal, and the run would wait.
            raise ConfigError("no API key of wandb: run wandb login, or set track.mode=offline")
        # No output of wandb between ours, and no copy of our output.
        settings = wandb.Settings(silent=True, console="off")
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=run.id,
            dir=str(run.folder),
            config=dict(run.config),
            allow_val_change=True,
            mode=mode,
            resume=None if offline else "allow",  # offline, the id alone identifies the run
            settings=settings,
        )
        later = f"wandb sync {run.folder / 'wandb'}/offline-run-*-{run.id}"
        self.place = later if offline else str(self._run.url)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def words(self, step: int, name: str, text: str) -> None:
        self._run.log({name: text}, step=step)

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=1 if failed else 0)
