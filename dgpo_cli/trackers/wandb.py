"""Weights & Biases; offline it writes into the run folder, for `wandb sync` later."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dgpo_cli.core.errors import ConfigError

if TYPE_CHECKING:
    from dgpo_cli.trackers.protocol import TrackedRun


class Wandb:
    """One run of wandb, under an id that the run folder keeps."""

    takes_steps_again = False  # what was sent stays

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        offline = run.mode == "offline" or (
            run.mode == "auto" and os.environ.get("WANDB_MODE", "") in ("offline", "dryrun")
        )
        mode = None if run.mode == "auto" else run.mode
        disabled = run.mode == "auto" and os.environ.get("WANDB_MODE") == "disabled"
        if not (offline or disabled) and wandb.api.api_key is None:
            # wandb would ask for it on the terminal, and a run would wait for an answer.
            raise ConfigError("no key of wandb here: wandb login, or track.mode=offline")
        # Not silent about what is its own, but no lines of its own between ours, and no copy of
        # what we print.
        settings = wandb.Settings(silent=True, console="off")
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=run.id,
            dir=str(run.folder),
            config=dict(run.config),
            allow_val_change=True,
            mode=mode,
            resume=None if offline else "allow",  # offline there is nobody to ask; the id says it
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
