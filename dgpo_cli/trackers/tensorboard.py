"""TensorBoard: event files in the run folder, under tensorboard/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dgpo_cli.trackers.protocol import TrackedRun


class TensorBoard:
    """Writes through torch.utils.tensorboard, which needs only the package tensorboard."""

    replaces_steps = True  # purge_step hides earlier records of them

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard"
        self.place = f"tensorboard --logdir {folder}"
        self._writer = SummaryWriter(str(folder), purge_step=run.step + 1)
        if not run.resumes:
            self.words(run.step, "settings", run.text)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            # The old style, in float32: all readers support it and its purge_step.
            self._writer.add_scalar(name, value, global_step=step)
        self._writer.flush()

    def words(self, step: int, name: str, text: str) -> None:
        # Markdown: four spaces make it a code block.
        code = "\n".join(f"    {line}" for line in text.splitlines())
        self._writer.add_text(name, code, global_step=step)
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        self._writer.close()
