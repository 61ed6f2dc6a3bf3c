"""`dgpo train`: find where the run in a folder stands and train it to its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgpo_cli.config.load import Resolved
from dgpo_cli.core.errors import CalledOff
from dgpo_cli.core.events import Observer, Observers
from dgpo_cli.core.types import StepMetrics
from dgpo_cli.parallel.ranks import ALONE, Ranks
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.train import loop
from dgpo_cli.train.resume import Resume, standing_of, starting_point
from dgpo_cli.train.start import started


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The end of a run. `first` and `last` are the metrics of its first and last step.

    trained: steps of this call; 0 if all were done before.
    curve: the lines of its evaluations, oldest first.
    """

    out: Path
    steps: int
    trained: int
    checkpoint: Path
    first: StepMetrics
    last: StepMetrics
    curve: tuple[dict[str, Any], ...]


def run(
    resolved: Resolved,
    *,
    out: Path,
    resume: Resume,
    allow_change: bool = False,
    ranks: Ranks = ALONE,
    observer: Observer,
) -> TrainResult:
    """Train until `train.steps`, from the newest whole checkpoint of `out` if `resume` allows.

    Args:
        allow_change: resume with other settings than the run's even if they affect what is
            learnt; each change is recorded.
        ranks: this one leads; the others are in `engine.follow`.

    Raises:
        RunFolderBusy: another process holds `out`.
        ConfigError: `out` holds a run and resume is "never", or another run than these settings'.
        CheckpointError: the checkpoint that resume names is missing, or none can be read.
        NonFiniteError: three steps in a row were not finite.
    """
    folder, observers = RunFolder(out), Observers([observer])
    # Nothing is written before the lock: a run that is refused or done stays as it is.
    standing = standing_of(
        folder, resolved=resolved, resume=resume, allow_change=allow_change, observer=observers
    )
    if standing.done:
        folder.finish_pruning()
        return _result(folder, steps=standing.resolved.settings.train.steps, trained=0)
    with folder.lock():
        checkpoint = starting_point(folder, resume=resume, found=standing.found, observer=observers)
        with started(
            standing, folder=folder, checkpoint=checkpoint, ranks=ranks, observers=observers
        ) as run:
            try:
                loop.train(run)
            except CalledOff:
                run.stop(f"while waiting for vLLM, after step {run.step}")
        return _result(folder, steps=run.step, trained=run.trained)


def _result(folder: RunFolder, *, steps: int, trained: int) -> TrainResult:
    lines = [
        {k: float("nan") if v is None else v for k, v in line.items()}
        for line in folder.read_metrics()
    ]
    return TrainResult(
        out=folder.path,
        steps=steps,
        trained=trained,
        checkpoint=folder.checkpoints()[-1],
        first=lines[0] if lines else {},
        last=lines[-1] if lines else {},
        curve=tuple(folder.read_evals()),
    )
