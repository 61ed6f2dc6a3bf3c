"""The folder of a study. What a run has done is read from its own files; nothing else is kept.

study.toml        the file of the study, as it was given
settings/         VARIANT.toml, the settings of each variant, before its search
runs/             VARIANT/seed-N/, run folders
tune/             VARIANT/TRIAL/seed-N/, the run folders of the search; VARIANT/tuned.json
evals/            before/VARIANT/ and after/VARIANT/seed-N/, folders of evaluations
logs/             what each of these printed, under the same path; ends in how it ended
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dgpo_cli.config.layers import parse_toml
from dgpo_cli.core import io
from dgpo_cli.core.codec import encoded, parsed
from dgpo_cli.core.formats import TUNED
from dgpo_cli.core.types import Tuned
from dgpo_cli.core.types.study import StudyState
from dgpo_cli.runs.run_folder import RunFolder, step_of

FILE = "study.toml"
_ENDED = re.compile(
    r"^dgpo study: ended with exit code (\d+) after (\d+\.\d+) s(?: at (\S+))?$", re.M
)
STOPPED = (130, 143)  # exit codes after Ctrl-C and SIGTERM
_TAIL = 64  # lines of a log in which its end and its error are looked for
# What the evaluation of a base model depends on.
_BASE = ("model", "prompts", "rollout", "reward")


class StudyFolder:
    """The paths of a study."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / FILE
        self.logs = path / "logs"

    def settings(self, variant: str) -> Path:
        return self.path / "settings" / f"{variant}.toml"

    def run(self, variant: str, seed: int) -> Path:
        return self.path / "runs" / variant / f"seed-{seed}"

    def trial(self, variant: str, trial: str, seed: int) -> Path:
        return self.trials(variant) / trial / f"seed-{seed}"

    def tuned(self, variant: str) -> Path:
        return self.trials(variant) / "tuned.json"

    def before(self, variant: str) -> Path:
        return self.path / "evals" / "before" / variant

    def after(self, variant: str, seed: int) -> Path:
        return self.path / "evals" / "after" / variant / f"seed-{seed}"

    def log(self, folder: Path) -> Path:
        """Return the log of what fills `folder`, which is in the study."""
        return self.logs / folder.relative_to(self.path).with_name(f"{folder.name}.log")

    def trials(self, variant: str) -> Path:
        return self.path / "tune" / variant

    def planned(self, variant: str) -> dict[str, Any]:
        """Return the settings of a variant as TOML has them; empty if they cannot be read."""
        try:
            return parse_toml(self.settings(variant).read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, ValueError, RecursionError):
            return {}

    def base_of(self, variant: str) -> str:
        """Return what the evaluation of the variant's base model depends on, as text."""
        tree = self.planned(variant)
        return json.dumps([tree.get(name) for name in _BASE], sort_keys=True, default=str)


def is_study(path: Path) -> bool:
    """Whether a folder is that of a study."""
    return (path / FILE).is_file()


def steps_kept(run: Path) -> int:
    """Return the step of the newest checkpoint of a run: what it need not do again."""
    found = RunFolder(run).checkpoints()
    return step_of(found[-1]) if found else 0


def state_of(run: Path, *, total: int | None, log: Path) -> StudyState:
    """Return the state of a run that is to have `total` steps, from its folder and its log.

    A run is finished when the checkpoint after its last step is there.
    """
    if RunFolder(run).is_held():
        return "running"
    if total is not None and steps_kept(run) >= total:
        return "finished"
    code = exit_code_in(log)
    if code is not None and code not in (0, *STOPPED):
        return "failed"
    return "stopped" if run.exists() or code is not None else "missing"


def exit_code_in(log: Path) -> int | None:
    """Return the exit code with which the last command of a log ended; None while it runs."""
    found = _ENDED.search(next(reversed(list(_tail(log))), ""))
    return int(found[1]) if found else None


def seconds_in(log: Path) -> float:
    """Return how long the commands of a log took, all together."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    return sum(float(seconds) for _, seconds, _ in _ENDED.findall(text))


def periods_in(log: Path) -> Iterator[tuple[float, float]]:
    """Yield when each command of a log began and ended, in seconds of the clock."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for _, seconds, at in _ENDED.findall(text):
        with suppress(ValueError):
            end = datetime.fromisoformat(at).timestamp()
            yield end - float(seconds), end


def error_in(log: Path) -> str:
    """Return the last error in a log; empty if there is none."""
    errors = [line.removeprefix("error: ") for line in _tail(log) if line.startswith("error: ")]
    return errors[-1] if errors else ""


def ended_line(code: int, *, seconds: float) -> str:
    """Return the last line of a log."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return f"dgpo study: ended with exit code {code} after {seconds:.3f} s at {at}\n"


def read_tuned(path: Path) -> Tuned | None:
    """Read the result of a search; None before its end.

    Raises:
        DataError: the file is broken.
    """
    if not path.exists():
        return None
    return TUNED.read(parsed(io.read_bytes(path), where=str(path)), where=str(path))


def write_tuned(path: Path, tuned: Tuned) -> None:
    """Write the result of a search in one piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    io.write(path, encoded(TUNED.dump(tuned), indent=2) + "\n")


def _tail(log: Path) -> Iterator[str]:
    try:
        for raw in io.line_ends(log, first=0, last=_TAIL):
            yield raw.decode("utf-8", errors="replace").strip()
    except OSError:
        return
