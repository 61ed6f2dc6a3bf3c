"""The settings that changed within a run: changes.jsonl in its folder, a line a setting.

settings.toml has the run's present settings. A line records that after `step` finished steps a
setting changed from `old` to `new`. Only settings that affect what is learnt are in it; a run
without such a change has no such file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dgpo_cli.config.changes import TAGS, SettingDifference, written
from dgpo_cli.config.layers import Layer
from dgpo_cli.config.load import Resolved, layered
from dgpo_cli.config.settings import Settings
from dgpo_cli.config.tree import nest
from dgpo_cli.core import io
from dgpo_cli.core.codec import encoded
from dgpo_cli.core.formats import CHANGE
from dgpo_cli.core.own_code import own_files
from dgpo_cli.core.schema import Change
from dgpo_cli.core.types import SettingChange
from dgpo_cli.runs.run_folder import step_of
from dgpo_cli.runs.step_lines import StepLines

FILE = "changes.jsonl"
CODE = ".code "  # in the name of a change that is one of the user's own code


def read_changes(run: Path) -> tuple[SettingChange, ...]:
    """Return the changes of a run, oldest first; broken lines are skipped."""
    return changes_from(change_lines(run).read().lines)


def change_lines(run: Path) -> StepLines:
    """Return the file of a run's changes."""
    return StepLines(run / FILE, what="changes", beside="setting")


def changes_from(lines: Iterable[Mapping[str, Any]]) -> tuple[SettingChange, ...]:
    """Return the changes of lines with a step, oldest first."""
    found = [CHANGE.read(line, where=FILE) for line in lines if CHANGE.fits(line)]
    return tuple(sorted(found, key=lambda each: each.step))


def changes_behind(path: Path) -> tuple[SettingChange, ...]:
    """Return the changes before a checkpoint or a file of rollouts, given by its path.

    A path outside a run folder has none.
    """
    path = path.resolve()
    try:
        step = step_of(path)
    except ValueError:
        return ()
    return tuple(each for each in read_changes(path.parent.parent) if each.step < step)


def resolved_until(step: int, resolved: Resolved, *, changes: Sequence[SettingChange]) -> Resolved:
    """Return the settings that step `step` was trained with; `resolved`: the newest ones.

    Raises:
        ConfigError: this version lacks a setting that changed.
    """
    found = resolved
    for at in sorted({each.step for each in changes if each.step >= step}, reverse=True):
        old = {each.setting: each.old for each in changes if each.step == at}
        tree = {
            key: value
            for key, value in old.items()
            if not _goes_with_its_variant(key, old) and CODE not in key
        }
        found = layered(found, Layer(FILE, nest(tree)))
    return found


def _goes_with_its_variant(key: str, old: Mapping[str, Any]) -> bool:
    """Whether a setting did not exist because its section was another variant."""
    section = key.rpartition(".")[0]
    return old[key] is None and any(f"{section}.{tag}" in old for tag in TAGS)


def code_differences(before: Mapping[str, str], settings: Settings) -> Iterator[SettingDifference]:
    """Yield the files of the user's own code that are not as they were.

    before: the sha256 of each, as RunFolder.code has it; a file that is new is no difference: what
    names it is one.
    """
    for section, name, digest in own_files(settings):
        old = before.get(name, digest)
        if old != digest:
            key = code_name(section, name)
            yield SettingDifference(key, told(old), told(digest), Change.LEARNT, True)


def code_name(section: str, file: str) -> str:
    """Return what a change of a file is called: credit.code my_rule.py."""
    return f"{section}{CODE}{file}"


def told(digest: str) -> str:
    return f"sha256 {digest[:12]}"


def record_changes(
    run: Path, *, step: int, found: Sequence[SettingDifference], resolved: Resolved
) -> None:
    """Record the settings `found` to differ after `step` finished steps.

    Steps after `step` are done again with the settings `resolved`. A change recorded at a later
    step, or at this one by a start that trained nothing, therefore moves to this step, becomes
    another change, or disappears.
    """
    known, now = read_changes(run), written(resolved)
    now |= {code_name(*place): told(digest) for *place, digest in own_files(resolved.settings)}
    old = {each.setting: each.old for each in found if each.learnt}
    old |= {each.setting: each.old for each in reversed(known) if each.step >= step}
    kept = [each for each in known if each.step < step]
    if step > 0:
        kept += [
            SettingChange(step, setting, before, now.get(setting))
            for setting, before in old.items()
            if before != now.get(setting)
        ]
    if tuple(kept) == known:
        return
    io.write(run / FILE, (encoded(CHANGE.dump(each)).encode("ascii") + b"\n" for each in kept))
