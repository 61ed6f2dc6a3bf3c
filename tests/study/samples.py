"""Synthetic studies: folders as `dgpo study` leaves them, with planted rewards."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from dgpo_cli.config.dump import dump_toml
from dgpo_cli.core.codec import encoded
from dgpo_cli.evals.eval_folder import EvalFolder
from dgpo_cli.evals.views.evaluation_json import to_json
from dgpo_cli.study.file import read_file
from dgpo_cli.study.folder import StudyFolder
from tests.samples import evaluation

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
# The correct samples, of K, of each problem after training; None: of the base model.
Correct = Callable[[str, int | None], Sequence[int]]
K = 8


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
    correct: Correct | None = None,
) -> StudyFolder:
    """Write a finished study, evaluated if `correct` is given."""
    found = StudyFolder(folder)
    folder.mkdir(parents=True)
    study_file(found.file, variants=variants, seeds=seeds, steps=steps)
    if correct is not None:
        found.file.write_text(found.file.read_text() + f'\n[eval]\nbench = "sums"\nk = {K}\n')
    study = read_file(found.file)
    for variant in study.variants:
        settings = dump_toml(study.resolve(variant))
        found.settings(variant.name).parent.mkdir(exist_ok=True)
        found.settings(variant.name).write_text(settings)
        if correct is not None:
            write_evaluation(found.before(variant.name), correct(variant.name, None))
            for seed in seeds:
                path = found.after(variant.name, seed)
                write_evaluation(path, correct(variant.name, seed))
        for seed in seeds:
            lines = [
                {
                    "step": step,
                    "reward/mean": reward(variant.name, seed, step),
                    "optim/grad_norm": 1.0,
                    "time/step_s": 0.5,
                    "time/cpu_s": 0.25,
                }
                for step in range(1, steps + 1)
            ]
            write_run(found.run(variant.name, seed), settings=settings, lines=lines)
    return found


def sample_study(folder: Path) -> StudyFolder:
    """Write a study in which one rule learns better, one worse, and two as the baseline does."""
    effects = {"surprisal": 0.02, "entropy": -0.02}

    def reward(variant: str, seed: int, step: int) -> float:
        shared, own = random.Random(f"{seed} {step}"), random.Random(f"{variant} {seed} {step}")
        noise = shared.gauss(0, 0.05) + own.gauss(0, 0.01)
        return round(0.3 + 0.01 * step + effects.get(variant, 0.0) + noise, 6)

    def correct(variant: str, seed: int | None) -> Sequence[int]:
        draw = random.Random(f"{variant} {seed}" if seed is not None else "base")
        gain = 0.0 if seed is None else 0.3 + 4 * effects.get(variant, 0.0)
        chances = [0.1 + 0.2 * (at % 3) + gain for at in range(20)]
        return [sum(draw.random() < chance for _ in range(K)) for chance in chances]

    variants = ("uniform", "entropy", "surprisal", "dgpo")
    found = write_study(
        folder, reward=reward, variants=variants, seeds=range(5), steps=20, correct=correct
    )
    shutil.rmtree(found.run("dgpo", 3) / "checkpoints")
    return found


def write_run(run: Path, *, settings: str, lines: Sequence[dict[str, float]]) -> None:
    """Write a run folder that has finished its last line's step."""
    (run / "checkpoints" / f"step-{int(lines[-1]['step']):06d}").mkdir(parents=True)
    (run / "settings.toml").write_text(settings)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_evaluation(folder: Path, correct: Sequence[int]) -> None:
    """Write the report of an evaluation of problems with so many correct samples of K."""
    folder.mkdir(parents=True)
    report = encoded(to_json(evaluation(correct, k=K)))
    EvalFolder(folder).report_file.write_text(report)
