"""Laws of lists of tables in settings: whole or entry by entry, dumped, told and refused."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.config import changes, load, reference, tree
from dgpo_cli.config.changes import change_text, differences
from dgpo_cli.config.dump import describe, dump_toml, with_stored_sources
from dgpo_cli.config.load import Resolved, layered, resolve
from dgpo_cli.config.reference import completions, find
from dgpo_cli.config.settings import Settings
from dgpo_cli.config.tree import flatten
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.types import SettingChange
from dgpo_cli.runs.history import read_changes, record_changes, resolved_until
from tests.config.listed import FormatPart, LengthPart, Listed

TWO = """
[[reward.terms]]
kind = "length"
limit = 9

[[reward.terms]]
kind = "format"
name = "boxed"
pattern = "box"
extra = {deep = {er = [1, 2]}}
"""


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Read settings as those of tests/config/listed.py."""
    for module in (load, reference, tree):
        monkeypatch.setattr(module, "Settings", Listed)
    tree.known_leaves.cache_clear()
    yield
    tree.known_leaves.cache_clear()


def two(folder: Path, *overrides: str) -> Resolved:
    file = folder / "two.toml"
    file.write_text(TWO, encoding="utf-8")
    return resolve(config=file, overrides=overrides)


def terms(resolved: Resolved) -> Any:
    return resolved.settings.reward.terms  # type: ignore[union-attr]


def refusal(folder: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        two(folder, *overrides)
    return str(caught.value).splitlines()


def test_a_list_of_tables_is_one_setting_and_names_its_variant(tmp_path: Path) -> None:
    resolved = two(tmp_path)
    assert terms(resolved) == (
        LengthPart(limit=9),
        FormatPart(name="boxed", pattern="box", extra={"deep": {"er": [1, 2]}}),
    )
    assert resolved.settings.reward.kind == "terms"
    assert resolved.sources["reward.terms"] == f"file {tmp_path / 'two.toml'}"
    assert list(resolved.sources) == list(flatten(resolved.settings))


@pytest.mark.parametrize(
    ("overrides", "weights"),
    [
        (["terms.0.weight=2"], {"length": 2.0, "format": 1.0}),
        (["terms.boxed.weight=1e-1"], {"length": 1.0, "format": 0.1}),
        (["terms.1={weight = 3}"], {"length": 1.0, "format": 3.0}),
        (["terms.0="], {"format": 1.0}),
        (["terms.0=", "terms.1.weight=5"], {"format": 5.0}),
        (["terms="], {}),
        (['terms=[{kind = "length", weight = 7}]'], {"length": 7.0}),
        (['terms=[{kind = "length", weight = 7}]', "terms.0.weight=8"], {"length": 8.0}),
        (['terms=[{kind = "length"}]', "terms.1.kind=format", "terms.1.pattern=x"],
         {"length": 1.0, "format": 1.0}),
        (['terms=[{kind = "length", name = "a"}]', "terms.a.weight=4"], {"length": 4.0}),
        (["terms.0.weight=9", 'terms=[{kind = "length"}]'], {"length": 1.0}),
        (["terms.0.kind=format", "terms.0.pattern=x", "terms.1="], {"format": 1.0}),
    ],
)  # fmt: skip
def test_a_higher_layer_replaces_the_list_or_reaches_into_it(
    overrides: list[str], weights: dict[str, float], tmp_path: Path
) -> None:
    resolved = two(tmp_path, *[f"reward.{each}" for each in overrides])
    assert {each.kind: each.weight for each in terms(resolved)} == weights
    assert resolved.sources["reward.terms"] == "--set"


def test_entries_are_added_one_after_another() -> None:
    resolved = resolve(
        overrides=[
            *("reward.terms.0.kind=length", "reward.terms.0.limit=3"),
            *("reward.terms.1.kind=format", "reward.terms.1.pattern=123"),
        ]
    )
    assert terms(resolved) == (LengthPart(limit=3), FormatPart(pattern="123"))


def test_another_kind_drops_what_it_lacks_and_says_so(tmp_path: Path) -> None:
    resolved = two(tmp_path, "reward.terms.0.kind=format", "reward.terms.0.pattern=x")
    assert resolved.notes == (
        "reward.terms.0.limit from a lower layer is dropped: kind format has no limit",
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("terms.0.weight=-1", "reward.terms.0.weight=-1: must be at least 0; set for example 1"),
        ("terms.boxed.weight=a", "reward.terms.1.weight=a: must be a number; set for example 1"),
        ("terms.0.wieght=1", "reward.terms.0.wieght (--set): unknown setting; did you mean "
                             "reward.terms.0.weight?"),
        ("terms.0.xyzzy=1", "reward.terms.0.xyzzy (--set): unknown setting; dgpo settings "
                            "reward.terms lists all"),
        ("terms.0.pattern=1", "reward.terms.0.pattern (--set): kind length has no pattern; set "
                              "reward.terms.0.kind=format, or leave it out"),
        ("terms.0.kind=lenght", "reward.terms.0.kind=lenght: must be one of length, format; did "
                                "you mean length?"),
        ("terms.2.weight=1", "reward.terms.2.kind: is required; set one of length, format"),
        ("terms.3.weight=1", "reward.terms.3.weight (--set): reward.terms has the entries 0, 1 "
                             "(boxed); reward.terms.2 adds one"),
        ("terms.boxd.weight=1", "reward.terms.boxd.weight (--set): reward.terms has the entries "
                                "0, 1 (boxed); did you mean reward.terms.boxed?"),
        ("terms.weight=1", "reward.terms.weight (--set): reward.terms is a list of tables; write "
                           "[[reward.terms]] in a file, or set reward.terms.0.weight"),
        ("terms=5", "reward.terms=5 (--set): is a list of tables; write [[reward.terms]] in a "
                    "file, or set reward.terms.0, reward.terms.1, ..."),
        ("terms=[1]", "reward.terms=[1] (--set): is a list of tables; write [[reward.terms]] in "
                      "a file, or set reward.terms.0, reward.terms.1, ..."),
        ("terms.0=5", "reward.terms.0=5 (--set): is a section, not a value; it has "
                      "reward.terms.0.kind"),
        ('terms=[{kind = "format"}]', "reward.terms.0.pattern: is required (Regular expression.)"),
    ],
)  # fmt: skip
def test_an_error_names_the_entry_and_the_field(override: str, said: str, tmp_path: Path) -> None:
    (line,) = refusal(tmp_path, f"reward.{override}")
    assert line.startswith(said)


def test_a_fault_in_a_file_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text(TWO.replace("limit = 9", "limit = 0"), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        resolve(config=file)
    assert str(caught.value).startswith(f"reward.terms.0.limit=0 (file {file}): must be at least 1")


def test_a_single_table_in_a_file_is_told_the_double_brackets(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('[reward.terms]\nkind = "length"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"write \[\[reward.terms\]\] in a file"):
        resolve(config=file)


def test_a_dumped_list_resolves_to_an_equal_one_with_its_source(tmp_path: Path) -> None:
    resolved = two(tmp_path, "reward.terms.0.weight=0.3", "seed=4")
    file = tmp_path / "settings.toml"
    file.write_text(dump_toml(resolved), encoding="utf-8")
    assert "[[reward.terms]] # from --set" in file.read_text()
    again = resolve(config=file)
    assert again.settings == resolved.settings
    assert with_stored_sources(again, file).sources == resolved.sources


def test_a_dump_without_lists_has_no_brackets() -> None:
    for preset in (None, "tiny"):
        assert "[[" not in dump_toml(resolve(preset=preset))


def test_settings_with_lists_are_their_own_layer(tmp_path: Path) -> None:
    resolved = two(tmp_path)
    assert layered(resolved).settings == resolved.settings


def test_every_field_of_an_entry_has_a_row(tmp_path: Path) -> None:
    rows = {row.key: row.value for row in describe(two(tmp_path)) if row.leaf == "reward.terms"}
    assert rows["reward.terms.0.limit"] == "9"
    assert rows["reward.terms.1.pattern"] == "box"
    assert rows["reward.terms.1.extra"] == "{deep = {er = [1, 2]}}"


def test_a_change_of_one_field_is_told_by_its_name(tmp_path: Path) -> None:
    (found,) = differences(two(tmp_path), two(tmp_path, "reward.terms.boxed.weight=2"))
    assert found.setting == "reward.terms"
    text = change_text(SettingChange(5, found.setting, found.old, found.new))
    assert text == "reward.terms.1.weight 1.0 -> 2.0 after step 5"


def test_a_recorded_change_gives_the_settings_before_it(tmp_path: Path) -> None:
    before, after = two(tmp_path), two(tmp_path, "reward.terms.0=")
    found = differences(before, after)
    record_changes(tmp_path, step=5, found=found, resolved=after)
    recorded = read_changes(tmp_path)
    assert resolved_until(5, after, changes=recorded).settings == before.settings
    assert resolved_until(6, after, changes=recorded).settings == after.settings


def test_a_run_with_other_terms_has_a_name_of_its_own(tmp_path: Path) -> None:
    names = {
        changes.run_name(
            "run", recipe=resolve(), resolved=two(tmp_path, f"reward.terms.0.limit={n}")
        )
        for n in (1, 2)
    }
    assert len(names) == 2
    assert all(len(name) < 40 and "terms" in name for name in names)


def test_the_reference_tells_the_fields_of_every_kind() -> None:
    (found,) = find("reward.terms")
    assert find("reward.terms.0.weight") == (found,)
    assert [kind.tag for kind in found.entries] == ["kind=length", "kind=format"]
    told = {field.name: field for field in found.entries[1].fields}
    assert told.keys() == {"name", "weight", "pattern", "whole", "extra"}
    assert told["pattern"].required and not told["whole"].required
    assert told["weight"].default == 1.0
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("reward.te", [f"reward.terms.0.{name}=" for name in
                       ("name", "weight", "kind", "limit", "shape", "pattern", "whole", "extra")]),
        ("reward.terms.1.wh", ["reward.terms.1.whole="]),
        ("reward.terms.1.kind=", ["reward.terms.1.kind=length", "reward.terms.1.kind=format"]),
        ("reward.terms.boxed.shape=",
         ["reward.terms.boxed.shape=linear", "reward.terms.boxed.shape=cosine"]),
    ],
)  # fmt: skip
def test_a_set_goes_on_into_an_entry(text: str, offered: list[str]) -> None:
    assert [value for value, _ in completions(text)] == offered


def test_tables_of_a_dump_are_valid_toml(tmp_path: Path) -> None:
    assert len(tomllib.loads(dump_toml(two(tmp_path)))["reward"]["terms"]) == 2


def test_an_entry_has_the_name_that_it_gives_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (load, reference, tree):
        monkeypatch.setattr(module, "Settings", Settings)
    tree.known_leaves.cache_clear()
    given = ['reward.terms=[{kind = "math"}, {kind = "python", path = "own.py:brief"}]']
    resolved = resolve(overrides=[*given, "reward.terms.brief.weight=0.5"])
    assert [each.weight for each in terms(resolved)] == [1.0, 0.5]
    with pytest.raises(ConfigError) as caught:
        resolve(overrides=[*given, "reward.terms.brief.path=own.py"])
    assert str(caught.value) == (
        "reward.terms.1.path=own.py: names no class or function; write own.py:NAME"
    )
