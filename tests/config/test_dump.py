"""Dumped settings resolve to equal settings; --dry-run shows every one."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.config.dump import describe, dump_toml
from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.config.presets import preset_names
from dgpo_cli.config.settings import Settings
from dgpo_cli.config.tree import flatten, known_leaves

text = st.text(st.characters(codec="utf-8"), min_size=1)
plain = st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | text
names = st.from_regex(r"[a-z_]{1,8}_x", fullmatch=True)
tables = st.dictionaries(names, plain | st.lists(plain).map(tuple), min_size=1, max_size=3)


def reloaded(resolved: Resolved, folder: Path) -> Settings:
    path = folder / "settings.toml"
    path.write_text(dump_toml(resolved), encoding="utf-8", newline="")
    return resolve(config=path).settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dump")


@pytest.mark.parametrize("name", preset_names())
def test_a_dumped_preset_resolves_to_equal_settings(name: str, tmp_path: Path) -> None:
    resolved = resolve(preset=name)
    assert reloaded(resolved, tmp_path) == resolved.settings


@given(
    lr=st.floats(min_value=1e-30, max_value=0.5, exclude_min=True),
    seed=st.integers(0, 2**31 - 1),
    path=text,
    system=st.none() | text,
    operations=st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    arguments=st.none() | tables,
    rule=st.sampled_from(["dgpo", "uniform", "entropy"]),
    checkpointing=st.sampled_from(["auto", "none", "selective", "full", "offload"]),
)
def test_dumped_settings_resolve_to_equal_settings(folder: Path, **drawn: object) -> None:
    names = {
        "lr": "optim.lr",
        "path": "model.path",
        "system": "prompts.system",
        "operations": "prompts.operations",
        "arguments": "prompts.chat_template",
        "rule": "credit.rule",
        "checkpointing": "model.gradient_checkpointing",
    }
    flags = {names.get(name, name): (f"--{name}", value) for name, value in drawn.items()}
    resolved = resolve(preset="tiny", flags=flags)
    assert flatten(resolved.settings) | {k: v for k, (_, v) in flags.items()} == flatten(
        resolved.settings
    )
    assert reloaded(resolved, folder) == resolved.settings


def test_a_dump_names_the_source_of_what_is_no_default() -> None:
    dumped = dump_toml(resolve(overrides=["optim.lr=1e-5"]))
    (line,) = [line for line in dumped.splitlines() if line.startswith("lr")]
    assert tomllib.loads(line) == {"lr": 1e-5}
    assert line.endswith("# from --set")
    assert dumped.count("#") == 1


def test_every_setting_that_can_be_unset_is_unset_by_default() -> None:
    # A dump leaves unset values out, so anything else would come back as its default.
    for key, leaves in known_leaves().items():
        for field in (leaf.field for leaf in leaves):
            if type(None) in getattr(field.annotation, "__args__", ()):
                assert field.default is None, key


def test_describe_has_a_row_for_every_setting() -> None:
    resolved = resolve(preset="tiny", overrides=["prompts.operations=[1,2]"])
    rows = {row.key: (row.value, row.source) for row in describe(resolved)}
    assert list(rows) == list(flatten(resolved.settings))
    assert rows["prompts.operations"] == ("[1, 2]", "--set")
    assert rows["prompts.system"] == ("(unset)", "default")
    assert rows["model.gradient_checkpointing"] == ("none", "preset tiny")
