"""Begins the folder of a study, or resumes it: what changed in the file since then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dgpo_cli.config.changes import SettingDifference, differences, value_text
from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.core import io
from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.own_code import own_code_of
from dgpo_cli.runs.history import code_differences
from dgpo_cli.study.file import StudyFile, read_file
from dgpo_cli.study.folder import StudyFolder, is_study, read_tuned, steps_kept
from dgpo_cli.study.search import described

STUDIES = Path("studies")
_FIX = "give it another name, or give another --out"


def prepare(study: StudyFile, folder: StudyFolder) -> None:
    """Write the study's file and the settings of its variants.

    Raises:
        ConfigError: as `check_folder` does.
    """
    settings = check_folder(study, folder)
    io.create_folder(folder.path / "settings")
    for name, resolved in settings.items():
        code = own_code_of(resolved.settings)
        _write(folder.settings(name), dump_toml(resolved, code=code))
    _write(folder.file, study.path.read_text(encoding="utf-8-sig"))


def check_folder(study: StudyFile, folder: StudyFolder) -> dict[str, Resolved]:
    """Return the settings of the variants, with which the folder can go on.

    Variants and seeds may be added, and runs may get longer.

    Raises:
        ConfigError: the folder is another's, or something that has been run was changed; a line
            for each.
    """
    path = folder.path
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path}: is a file; give another --out")
    if path.is_dir() and not is_study(path) and any(path.iterdir()):
        raise ConfigError(
            f"{path}: is not the folder of a study, and not empty; give another --out"
        )
    settings = {each.name: study.resolve(each) for each in study.variants}
    if is_study(path):
        lines = [
            *_changed_judge(study, folder),
            *(
                line
                for name, resolved in settings.items()
                for line in (
                    *_changed(name, resolved, folder),
                    *_changed_search(study, name, folder),
                )
            ),
        ]
        if lines:
            raise ConfigError("\n".join(lines))
    return settings


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        io.write(path, text)


def _changed(name: str, resolved: Resolved, folder: StudyFolder) -> Iterator[str]:
    """Yield a line for each setting of a variant that its runs were not trained with."""
    runs = [*folder.path.glob(f"runs/{name}/seed-*"), *folder.path.glob(f"tune/{name}/*/seed-*")]
    if not runs or not folder.settings(name).is_file():
        return
    code = folder.planned(name).get("code", {})
    found = [
        *differences(resolve(config=folder.settings(name), run_code=False), resolved),
        *code_differences(code if isinstance(code, dict) else {}, resolved.settings),
    ]
    for each in found:
        if each.setting == "train.steps" and not each.learnt:
            yield from _shortened(name, each, folder)
        elif each.learnt:
            yield (
                f"{name}: {each.setting} {value_text(each.old)} -> {value_text(each.new)}: its "
                f"runs in {folder.path} have the old value; {_FIX}"
            )


def _shortened(name: str, change: SettingDifference, folder: StudyFolder) -> Iterator[str]:
    most = max(map(steps_kept, folder.path.glob(f"runs/{name}/seed-*")), default=0)
    if most > change.new:
        yield (
            f"{name}: train.steps {change.old} -> {change.new}: a run of it has {most} steps; "
            "give as many, or another --out"
        )


def _changed_search(study: StudyFile, name: str, folder: StudyFolder) -> Iterator[str]:
    """Yield a line if a search ended, its choice was compared, and [tune] is another now."""
    try:
        tuned = read_tuned(folder.tuned(name))
    except DataError:
        return  # it is done again
    now = None if study.search is None else described(study.search, study.space)
    before = None if tuned is None else tuned.search
    compared = any(folder.path.glob(f"runs/{name}/seed-*"))
    if compared and now != before:
        yield (
            f"{name}: [tune] is not the search that its runs in {folder.path} followed; put that "
            "back, or give another --out"
        )


def _changed_judge(study: StudyFile, folder: StudyFolder) -> Iterator[str]:
    if not any(folder.path.glob("evals/*/*")):
        return
    try:
        before = read_file(folder.file, check=False).judge
    except ConfigError:
        return
    now = study.judge
    if before is None or now is None:
        return
    for key in type(now).model_fields:
        old, new = getattr(before, key), getattr(now, key)
        if old != new and not (key == "k" and new > old):
            yield (
                f"[eval] {key} {value_text(old)} -> {value_text(new)}: {folder.path} has "
                "evaluations with the old value; put it back, or give another --out"
            )
