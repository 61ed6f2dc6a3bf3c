"""Laws of what is told of settings: all of them, truly, and found by a part of the name."""

from __future__ import annotations

import json

import pytest

from dgpo_cli.config import reference
from dgpo_cli.config.load import resolve
from dgpo_cli.config.presets import preset_names
from dgpo_cli.config.reference import completions, find, in_words, values_of
from dgpo_cli.config.tree import flatten, known_leaves
from dgpo_cli.core.errors import ConfigError


def names(text: str | None) -> list[str]:
    return [each.name for each in find(text)]


def test_every_setting_has_a_meaning_a_type_and_a_user() -> None:
    for each in find(None):
        for about, schema in each.meanings.values():
            assert about or "const" in schema, each.name
            assert in_words(schema)
        assert each.used_by and set(each.used_by) <= set(COMMANDS), each.name
    assert names(None) == list(known_leaves())


COMMANDS = ("train", "rollout", "eval", "plan", "doctor", "inspect", "merge", "push", "regrade")


def test_every_line_of_the_list_of_users_is_needed() -> None:
    needed = set()
    for key in known_leaves():
        while key not in reference._USED_BY:
            key = key.rpartition(".")[0]
        needed.add(key)
    assert needed == set(reference._USED_BY)


def test_the_kl_term_is_planned_with_and_bounds_of_the_ratio_are_not() -> None:
    used = {each.name: each.used_by for each in find("loss")}
    assert "plan" in used["loss.kl"] and "plan" not in used["loss.clip_high"]


def test_a_setting_tells_its_value_in_every_preset_that_has_it() -> None:
    told = {each.name: each.presets for each in find(None)}
    for preset in preset_names():
        for key, value in flatten(resolve(preset=preset).settings).items():
            plain = list(value) if isinstance(value, tuple) else value
            assert told[key][preset] == plain
    assert "tiny" not in told["adapter.rank"]


def test_ranges_are_told_as_they_are_checked() -> None:
    (tau,) = find("credit.tau")
    ((_, schema),) = tau.meanings.values()
    assert in_words(schema) == "number, above 0"
    for value, good in (("0", False), ("0.001", True)):
        if good:
            resolve(preset="tiny", overrides=[f"credit.tau={value}"])
        else:
            with pytest.raises(ConfigError):
                resolve(preset="tiny", overrides=[f"credit.tau={value}"])


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 32}, "whole number, 1 to 32"),
        (
            {"type": "number", "exclusiveMinimum": 0, "maximum": 10},
            "number, above 0 and at most 10",
        ),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 1}, "number, at least 0 and below 1"),
        (
            {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
            "whole number, at least 1, or unset",
        ),
        ({"type": "array", "items": {"enum": ["a", "b"]}}, "list; each one of a, b"),
        ({"const": "clip", "type": "string"}, "one of clip"),
        ({"type": "boolean"}, "true or false"),
    ],
)
def test_a_type_in_words(schema: dict[str, object], said: str) -> None:
    assert in_words(schema) == said


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("credit.tau", ["credit.tau"]),
        ("tau", ["credit.tau"]),
        ("lr", ["optim.lr"]),
        ("reward.overlong", ["reward.overlong.buffer_tokens", "reward.overlong.penalty"]),
        ("reward.overlong.", ["reward.overlong.buffer_tokens", "reward.overlong.penalty"]),
        ("micro", ["optim.micro_batch_size", "optim.micro_batch_tokens"]),
        ("optim.micro", ["optim.micro_batch_size", "optim.micro_batch_tokens"]),
        ("overlap", ["rollout.overlap"]),
        ("_norm", ["optim.max_grad_norm"]),
    ],
)
def test_a_name_a_section_or_a_part_finds_settings(text: str, found: list[str]) -> None:
    assert names(text) == found


@pytest.mark.parametrize(
    ("text", "hint"),
    [("optim.lrr", "did you mean optim.lr?"), ("xyzzy", "dgpo settings lists all"), (".", "lists")],
)
def test_a_typo_gets_a_suggestion(text: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint.replace("?", r"\?")):
        find(text)


def test_a_setting_of_one_variant_says_which() -> None:
    assert find("credit.tau")[0].only_with == ("credit.rule=dgpo",)
    assert find("reward.overlong.penalty")[0].only_with == ()  # every reward has it
    transfer = find("rollout.backend.weight_transfer")[0]
    assert set(transfer.meanings) == {
        "rollout.backend.kind=vllm",
        "rollout.backend.kind=vllm-server",
    }


def test_value_and_source_are_those_of_the_given_settings() -> None:
    resolved = resolve(preset="tiny", overrides=["credit.tau=0.7"])
    (tau,) = find("credit.tau", resolved)
    (rank,) = find("adapter.rank", resolved)
    assert (tau.value, tau.source, tau.default) == (0.7, "--set", 0.5)
    assert (rank.value, rank.source, rank.default) == (None, None, 16)


def test_the_json_of_all_settings_is_strict() -> None:
    told = json.dumps([each.to_json() for each in find(None)], allow_nan=False)
    assert len(json.loads(told)) == len(known_leaves())


RULES = ("dgpo", "uniform", "entropy", "top-entropy", "proportional", "surprisal", "value")


def test_values_that_can_be_counted_are_all_there_is() -> None:
    assert values_of("credit.rule") == RULES
    assert values_of("rollout.dynamic_sampling") == ("true", "false")
    assert values_of("track.to") == values_of("optim.lr") == ()


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("credit.t", ["credit.tau=", "credit.target_ess=", "credit.target_ess_over="]),
        ("credit.ru", [f"credit.rule={rule}" for rule in RULES]),
        ("credit.rule=", [f"credit.rule={rule}" for rule in RULES]),
        ("see", ["seed=", "seed=0"]),  # two, or a shell would end the word after =
        ("optim.lr=", [f"optim.lr={x}" for x in ("1e-06", "1e-05", "2e-05", "0.0001", "0.0002")]),
        ("nothing.like=", []),
    ],
)
def test_a_set_goes_on_from_names_to_values(text: str, offered: list[str]) -> None:
    assert [value for value, _ in completions(text)] == offered


def test_every_offer_of_a_value_is_one_that_set_takes() -> None:
    for key in ("credit.rule", "rollout.dynamic_sampling", "optim.lr", "model.path", "loss.kind"):
        for offer, _ in completions(f"{key}="):
            resolve(overrides=[offer])
