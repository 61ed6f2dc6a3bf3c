"""Reads the folder of a study, whatever state its runs are in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from dgpo_cli.core import io
from dgpo_cli.core.codec import parsed
from dgpo_cli.core.errors import ConfigError, DataError, DgpoError
from dgpo_cli.core.types import Evaluation, StudyRecord, StudyRun, Variant
from dgpo_cli.evals.eval_folder import EvalFolder
from dgpo_cli.evals.views.evaluation_json import from_json
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.runs.step_lines import lines_named, number_of
from dgpo_cli.study.file import StudyFile, read_file
from dgpo_cli.study.folder import StudyFolder, error_in, is_study, read_tuned, state_of


def read_study(path: Path) -> StudyRecord:
    """Read a study.

    Raises:
        ConfigError: it is not the folder of a study, or its study.toml is broken.
    """
    if not is_study(path):
        fault = "no study.toml in it" if path.is_dir() else "no such folder"
        raise ConfigError(f"{path}: {fault}; name the folder of a study")
    folder = StudyFolder(path)
    study = read_file(folder.file, check=False)
    reader = _Reader(folder, study)
    variants = tuple(reader.variant(each) for each in study.variants)
    runs = tuple(reader.run(each.name, seed) for each in study.variants for seed in study.seeds)
    return StudyRecord(
        name=path.resolve().name,
        path=str(path),
        description=study.description,
        baseline=study.baseline,
        seeds=study.seeds,
        variants=variants,
        runs=runs,
        notes=(*reader.notes, *_left_over(folder, study)),
    )


class _Reader:
    """Reads the parts of a study; what cannot be read becomes a note."""

    def __init__(self, folder: StudyFolder, study: StudyFile) -> None:
        self._folder, self._study = folder, study
        self.notes: list[str] = []
        self._before = self._bases() if study.judge is not None else {}

    def variant(self, variant: Variant) -> Variant:
        """Return a variant with what its search chose."""
        if self._study.search is None:
            return variant
        try:
            found = read_tuned(self._folder.tuned(variant.name))
        except DataError as error:
            self.notes.append(str(error))
            return variant
        return variant if found is None else Variant(variant.name, variant.settings, found.chosen)

    def run(self, variant: str, seed: int) -> StudyRun:
        """Return a run, which may be missing."""
        path, name = self._folder.run(variant, seed), f"{variant}, seed {seed}"
        log = self._folder.log(path)
        total = self._folder.planned(variant).get("train", {}).get("steps")
        total = total if type(total) is int else None
        try:
            state = state_of(path, total=total, log=log)
            steps = self._steps(RunFolder(path), name)
        except OSError as error:
            self.notes.append(f"{name}: cannot be read: {error.strerror or error}")
            state, steps = "failed", ()
        if state == "failed":
            self.notes.append(f"{name}: failed: {error_in(log) or f'see {log}'}")
        after = self._evaluation(self._folder.after(variant, seed))
        return StudyRun(
            variant=variant,
            seed=seed,
            folder=str(path),
            state=state,
            total=total,
            steps=steps,
            before=self._before.get(self._folder.base_of(variant)),
            after=after if state == "finished" else None,
        )

    def _steps(self, run: RunFolder, name: str) -> tuple[Mapping[str, float | None], ...]:
        found = run.metrics.read()
        if found.broken:
            which = lines_named(found.broken)
            verb = "is" if len(found.broken) == 1 else "are"
            self.notes.append(f"{name}: {which} of {run.metrics_file.name} {verb} left out")
        return tuple({key: number_of(value) for key, value in line.items()} for line in found.lines)

    def _bases(self) -> dict[str, Evaluation]:
        """Return the evaluations of base models, by what they depend on."""
        found: dict[str, Evaluation] = {}
        for variant in self._study.variants:
            evaluation = self._evaluation(self._folder.before(variant.name))
            if evaluation is not None:
                found.setdefault(self._folder.base_of(variant.name), evaluation)
        return found

    def _evaluation(self, path: Path) -> Evaluation | None:
        file = EvalFolder(path).report_file
        if self._study.judge is None or not file.exists():
            return None
        try:
            found, _ = from_json(parsed(io.read_bytes(file), where=str(file)), where=str(file))
        except DgpoError as error:
            self.notes.append(str(error))
            return None
        return found


def _left_over(folder: StudyFolder, study: StudyFile) -> Iterator[str]:
    """Yield a note on variants that are no longer in the file."""
    known = {each.name for each in study.variants}
    runs = folder.path / "runs"
    others = sorted(path.name for path in runs.iterdir()) if runs.is_dir() else []
    others = [name for name in others if name not in known]
    if others:
        yield f"runs of {', '.join(others)} are left out: study.toml no longer has them"
