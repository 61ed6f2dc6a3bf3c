"""A preset's template is told around foreign problems, and never around its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgpo_cli.config.dump import dump_toml, with_stored_sources
from dgpo_cli.config.foreign import bare_note, template_note, template_owner
from dgpo_cli.config.load import resolve
from dgpo_cli.config.presets import preset_names
from dgpo_cli.config.shorthand import Asked


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "my.jsonl"
    path.write_text('{"problem": "1+1?", "answer": "2"}\n')
    return str(path)


@pytest.mark.parametrize("name", preset_names())
def test_a_presets_own_data_raises_no_note(name: str) -> None:
    for changed in ((), ("seed=3",), ("optim.lr=1e-6",), ("model.path=other",)):
        resolved = resolve(preset=name, overrides=changed)
        assert template_owner(resolved) == ""
        assert template_note(resolved) is None and bare_note(resolved) is None


def test_the_same_data_named_again_is_the_presets_own() -> None:
    assert template_owner(Asked(preset="smollm2-lora", data="sums").resolve()) == ""
    again = Asked(preset="qwen7b-lora", data="BytedTsinghua-SIA/DAPO-Math-17k").resolve()
    assert template_owner(again) == ""


def test_a_template_for_sums_around_a_file_is_named_with_a_neutral_one(data: str) -> None:
    for asked in (
        Asked(preset="smollm2-lora", data=data),
        Asked(preset="smollm2-lora", overrides=("prompts.kind=file", f"prompts.path={data}")),
    ):
        note = template_note(asked.resolve())
        assert note is not None and "smollm2-lora" in note
        assert "Write only the answer, as a number." in note
        assert "--set 'prompts.template={problem}'" in note


def test_a_template_that_is_set_is_nobodys(data: str) -> None:
    asked = Asked(preset="smollm2-lora", data=data, overrides=("prompts.template=Q: {problem}",))
    assert template_owner(asked.resolve()) == "" and template_note(asked.resolve()) is None


def test_a_bare_template_is_told_apart_from_one_that_asks(data: str) -> None:
    bare = Asked(preset="qwen7b-lora", data=data).resolve()
    assert template_note(bare) is None and "boxed" in (bare_note(bare) or "")
    asking = Asked(preset="gsm8k-0.5b", data=data).resolve()
    assert template_note(asking) is None and bare_note(asking) is None


def test_the_owner_is_known_from_the_settings_of_a_run(data: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(dump_toml(Asked(preset="smollm2-lora", data=data).resolve()))
    stored = with_stored_sources(resolve(config=file), file)
    assert template_owner(stored) == "smollm2-lora"
