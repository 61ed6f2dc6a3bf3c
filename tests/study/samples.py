"""Synthetic studies: folders as `dgpo study` leaves them, with planted rewards."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from dgpo_cli.config.dump import dump_toml
from dgpo_cli.study.file import read_file
from dgpo_cli.study.folder import StudyFolder

FILE = """\
description = "Which rule learns fastest?"
preset = "tiny"
seeds = {seeds}
baseline = "uniform"

[set]
"train.steps" = {steps}

[variants]
{variants}
"""

# The reward of a variant with a seed after a step, from 1.
Reward = Callable[[str, int, int], float]


def study_file(path: Path, *, variants: Sequence[str], seeds: Sequence[int], steps: int) -> Path:
    """Write the file of a study of credit rules, each variant named after its rule."""
    tables = "\n".join(f'[variants.{name}]\n"credit.rule" = "{name}"' for name in variants)
    text = FILE.format(seeds=list(seeds), steps=steps, variants=tables)
    path.write_text(text.replace("[variants]\n", ""))
    return path


def write_study(
    folder: Path,
    *,
    reward: Reward,
    variants: Sequence[str] = ("uniform", "entropy"),
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 4,
) -> StudyFolder:
    """Write a finished study."""
    found = StudyFolder(folder)
    folder.mkdir(parents=True)
    study_file(found.file, variants=variants, seeds=seeds, steps=steps)
    study = read_file(found.file)
    for variant in study.variants:
        settings = dump_toml(study.resolve(variant))
        found.settings(variant.name).parent.mkdir(exist_ok=True)
        found.settings(variant.name).write_text(settings)
        for seed in seeds:
            lines = [
                {
                    "step": step,
                    "reward/mean": reward(variant.name, seed, step),
                    "optim/grad_norm": 1.0,
                    "time/step_s": 0.5,
                }
                for step in range(1, steps + 1)
            ]
            write_run(found.run(variant.name, seed), settings=settings, lines=lines)
    return found


def write_run(run: Path, *, settings: str, lines: Sequence[dict[str, float]]) -> None:
    """Write a run folder that has finished its last line's step."""
    (run / "checkpoints" / f"step-{int(lines[-1]['step']):06d}").mkdir(parents=True)
    (run / "settings.toml").write_text(settings)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
