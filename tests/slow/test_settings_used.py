"""Whether `dgpo settings` names the commands that read a setting: each is run and watched."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.config.load import resolve
from dgpo_cli.config.reference import find
from dgpo_cli.config.tree import flatten, known_leaves
from dgpo_cli.core.schema import Frozen
from tests.cli.helpers import in_process as dgpo

pytestmark = pytest.mark.slow

TRAIN = (
    "train --preset tiny --steps 1 --view lines --out run --set rollout.prompts_per_step=2 "
    "--set rollout.group_size=2 --set eval.every=1 --set eval.k=1"
)
COMMANDS = {
    "train": TRAIN,
    "rollout": "rollout --preset tiny --prompts sums --limit 1 --out r.jsonl",
    "eval": "eval --run run --bench sums-easy --k 1",
    "plan": "plan --preset tiny",
    "merge": "merge run --out model",
}
# Read without an effect: the engine has all settings, whatever the command wants of it.
BESIDE = ("loss.", "advantage.", "reward.overlong.")
# Read only where something else is set, by isinstance, or by the settings themselves.
SELDOM = (
    *(
        "prompts.",
        "adapter.kind",
        "credit.",
        "parallel.",
        "eval.",
        "track.",
        "reward.",
        "loss.kind",
    ),
    *(
        "rollout.top",
        "rollout.max_rounds",
        "rollout.backend.kind",
        "model.revision",
        "train.rollouts_every",
    ),
)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The settings that anything but the room config has read so far."""
    keys: dict[tuple[type, str], set[str]] = {}
    for key, places in known_leaves().items():
        for place in places:
            keys.setdefault((place.model, key.rpartition(".")[2]), set()).add(key)
    found: set[str] = set()
    plain = Frozen.__getattribute__

    def watched(self: Frozen, name: str) -> Any:
        if (type(self), name) in keys:
            module = sys._getframe(1).f_globals.get("__name__", "")
            if not module.startswith(("dgpo_cli.config", "pydantic")) and module[-8:] != "settings":
                found.update(keys[type(self), name])
        return plain(self, name)

    monkeypatch.setattr(Frozen, "__getattribute__", watched)
    yield found


def test_settings_name_the_commands_that_read_them(
    read: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = flatten(resolve(preset="tiny").settings)
    told = {each.name: each.used_by for each in find(None) if each.name in here}
    wrong = []
    for command, line in COMMANDS.items():
        read.clear()
        ended = dgpo(*line.split())
        assert ended.exit_code == 0, ended.stderr
        claimed = {name for name, used_by in told.items() if command in used_by}
        wrong += [
            f"{command} reads {name}"
            for name in read & told.keys() - claimed
            if not name.startswith(BESIDE)
        ]
        wrong += [
            f"{command} does not read {name}"
            for name in claimed - read
            if not name.startswith(SELDOM)
        ]
    assert not wrong, "\n".join(wrong)
