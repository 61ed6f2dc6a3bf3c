"""Writes a study as scripts for Slurm: an array with a task for each part of the study."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from dgpo_cli.config.settings import Settings
from dgpo_cli.core import io
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.text import visible
from dgpo_cli.study.agenda import Agenda
from dgpo_cli.study.folder import StudyFolder

_SCRIPT = """\
#!/usr/bin/env bash
# {about}
#
#     sbatch {name}
#
# Set partition, account, GPUs and time as your site wants them. A task that Slurm stops is requeued
# and resumes from its checkpoint; sbatch does what is left when it is called again.
#SBATCH --job-name={job}
#SBATCH --array=0-{last}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
{gpus}#SBATCH --time=24:00:00
#SBATCH --output={log}
#SBATCH --open-mode=append
#SBATCH --requeue
# SIGTERM, so many seconds before the end: more than a step and a checkpoint take (dgpo plan).
#SBATCH --signal=TERM@600
set -uo pipefail
cd {folder}

parts=(
{parts}
)
srun dgpo study {file} --out {out} --jobs 1 --only "${{parts[$SLURM_ARRAY_TASK_ID]}}"
code=$?

# 143: stopped by the warning.
if [ "$code" -eq 143 ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""


def write_scripts(
    agenda: Agenda, *, file: Path, folder: StudyFolder, settings: Settings
) -> list[Path]:
    """Write study.sbatch, and tune.sbatch if there is a search; return them in their order.

    Raises:
        ConfigError: a path has characters that no line of a script can have.
    """
    for path in (folder.path.resolve(), Path.cwd()):
        if visible(str(path)) != str(path):
            raise ConfigError(
                f"--slurm: {visible(str(path))}: a line break or another control character in a "
                "path; rename the folder"
            )
    groups = {"tune.sbatch": agenda.searches(), "study.sbatch": agenda.parts()}
    io.create_folder(folder.logs)
    written = []
    for name, parts in groups.items():
        if parts:
            path = folder.path / name
            io.write(path, _script(parts, path, file=file, folder=folder, settings=settings))
            written.append(path)
    return written


def _script(
    parts: Sequence[str], path: Path, *, file: Path, folder: StudyFolder, settings: Settings
) -> str:
    gpus = settings.parallel.gpus if settings.model.device != "cpu" else 0
    what = "searches" if path.name.startswith("tune") else "runs"
    name = folder.path.resolve().name
    return _SCRIPT.format(
        about=f"The {what} of the study {name}, one a task; written by dgpo study --slurm.",
        name=shlex.quote(str(path)),
        job=_quoted(name),
        last=len(parts) - 1,
        cpus=4 * max(1, gpus),
        gpus=f"#SBATCH --gpus-per-task={gpus}\n" if gpus else "",
        log=_quoted(str(folder.logs.resolve()).replace("%", "%%") + "/slurm-%A-%a.log"),
        folder=shlex.quote(str(Path.cwd())),
        parts="\n".join(f"    {shlex.quote(part)}" for part in parts),
        file=shlex.quote(str(file)),
        out=shlex.quote(str(folder.path)),
    )


def _quoted(text: str) -> str:
    """Return text as one word of an #SBATCH line, in which a backslash counts within quotes."""
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
