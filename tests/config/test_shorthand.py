"""--model, --data and --reward stand for settings, above a preset or file."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgpo_cli.config.shorthand import Asked, data_values, reward_values
from dgpo_cli.core.errors import ConfigError


def test_data_is_a_file_a_dataset_of_the_hub_or_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for name in ("a.jsonl", "plain", "mine/b"):
        Path(name).write_text("{}\n")
        assert data_values(name) == {"prompts.kind": "file", "prompts.path": name}
    hub = {"prompts.kind": "hub", "prompts.dataset": "openai/gsm8k"}
    assert data_values("openai/gsm8k") == hub
    assert data_values("sums") == {"prompts.kind": "sums"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("absent.jsonl", "absent.jsonl: no such file"),
        ("data/absent.jsonl", "data/absent.jsonl: no such file"),
        ("absent", "absent: no such file"),
        (".", ".: is a folder"),
        ("gsm8k", "gsm8k: is a benchmark"),
        ("", "no such file|is a folder"),
    ],
)
def test_data_that_is_none_of_them_names_the_forms(given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        data_values(given)
    assert ".parquet" in str(refused.value) and "OWNER/NAME" in str(refused.value)


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ("math", {"reward.kind": "math"}),
        ("my.py:score", {"reward.kind": "python", "reward.path": "my.py:score"}),
        ("a/my.py:score", {"reward.kind": "python", "reward.path": "a/my.py:score"}),
        ("pkg.mod:score", {"reward.kind": "python", "reward.path": "pkg.mod:score"}),
        ("http://h:8000/j", {"reward.kind": "http", "reward.url": "http://h:8000/j"}),
    ],
)
def test_a_reward_is_a_checker_a_function_or_an_address(given: str, values: object) -> None:
    assert reward_values(given) == values


@pytest.mark.parametrize(("given", "fix"), [("my.py", "my.py:score"), ("maths", "integer, math")])
def test_a_reward_that_is_none_of_them_says_what_to_give(given: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=fix):
        reward_values(given)


def test_flags_are_above_a_preset_and_its_data_has_no_say_in_theirs(tmp_path: Path) -> None:
    data = tmp_path / "my.jsonl"
    data.write_text("{}\n")
    asked = Asked(
        preset="qwen7b-lora", model="./m", data=str(data), reward="math", overrides=("seed=3",)
    )
    found = asked.resolve()
    settings = found.settings
    assert (settings.model.path, settings.seed) == ("./m", 3)
    assert settings.reward.kind == "math" and settings.adapter.kind == "lora"
    assert settings.prompts.kind == "file" and settings.prompts.path == str(data)
    # The preset's are those of its own dataset.
    assert (settings.prompts.problem_column, settings.prompts.answer_column) == (
        "problem",
        "answer",
    )
    assert found.sources["prompts.path"] == "--data" and found.sources["model.path"] == "--model"


def test_a_dataset_of_the_hub_takes_no_commit_of_the_presets(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        '[prompts]\nkind = "hub"\ndataset = "a/b"\nrevision = "v1"\nsplit = "test"\nfiles = "x*"\n'
    )
    prompts = Asked(config=recipe, data="c/d").resolve().settings.prompts
    assert prompts.kind == "hub" and prompts.dataset == "c/d"
    assert (prompts.revision, prompts.split, prompts.files) == (None, "train", None)


def test_set_changes_a_column_of_the_data(tmp_path: Path) -> None:
    data = tmp_path / "my.jsonl"
    data.write_text("{}\n")
    asked = Asked(preset="tiny", data=str(data), overrides=("prompts.answer_column=gold",))
    prompts = asked.resolve().settings.prompts
    assert prompts.kind == "file" and prompts.answer_column == "gold"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked(), "--preset NAME .* --config FILE.toml, .* --model M --data FILE"),
        (Asked(model="m"), "--model m: give --data too"),
        (Asked(data="sums"), "--data sums: give --model too"),
        (Asked(reward="math"), "--preset NAME"),
    ],
)
def test_what_does_not_say_what_to_train_is_told_what_is_missing(asked: Asked, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        asked.check_trainable()


def test_a_run_is_named_after_its_recipe(tmp_path: Path) -> None:
    assert Asked(preset="tiny", data="sums").name == "tiny"
    assert Asked(config=tmp_path / "mine.toml").name == "mine"
    assert Asked(model="Qwen/Qwen3-4B", data="data/my.train.jsonl").name == "Qwen3-4B-my.train"
    assert Asked(model="embedded:tiny", data="sums").name == "tiny-sums"
    assert Asked(model="./m/", data="openai/gsm8k").name == "m-gsm8k"


def test_what_belongs_to_the_kind_of_reward_may_be_set_beside_it() -> None:
    for reward, key in (("my.py:score", "group"), ("http://h/judge", "retries")):
        asked = Asked(preset="tiny", reward=reward, overrides=(f"reward.{key}=1",))
        settings = asked.resolve()
        assert getattr(settings.settings.reward, key) == 1
        assert settings.sources[f"reward.{key}"] == "--set"
