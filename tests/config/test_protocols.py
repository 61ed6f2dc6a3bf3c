"""Laws of the protocols: each fixes all that moves a score, between a preset and --set."""

from __future__ import annotations

import pytest

from dgpo_cli.config.load import Resolved, resolve
from dgpo_cli.config.protocols import FIXED, load_protocol, parse_protocol, protocol_names
from dgpo_cli.config.tree import flatten
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.resources import resource_dir
from dgpo_cli.rewards.settings import ChoiceReward

WHOLE = """
title = "t"
source = "s"
unknown = ["rollout.top_p"]
prompts = {template = "{problem}"}
rollout = {temperature = 0.5, top_p = 0.9, top_k = 3, max_completion_tokens = 7}
reward = {kind = "integer", extract = "boxed", minimum = 1}
"""


def under(name: str, *overrides: str, preset: str = "qwen32b-full") -> Resolved:
    protocol = load_protocol(name)
    assert protocol is not None
    return resolve(preset=preset, protocol=protocol.layer(), overrides=overrides)


def test_the_published_numbers() -> None:
    wanted = {
        "dapo": (1.0, 0.7, 20480, "answer-line"),
        "boxed": (0.6, 0.95, 32768, "boxed"),
        "paper": (1.0, 0.7, 20480, "boxed-or-answer-line"),
    }
    assert set(protocol_names()) >= set(wanted)
    for name, expected in wanted.items():
        settings = under(name).settings
        rollout, reward = settings.rollout, settings.reward
        found = (rollout.temperature, rollout.top_p, rollout.max_completion_tokens, reward.extract)
        assert found == expected
        assert (reward.kind, rollout.top_k) == ("integer", 0)
        assert (flatten(settings)["reward.minimum"], flatten(settings)["reward.maximum"]) == (
            0,
            999,
        )


@pytest.mark.parametrize("name", protocol_names())
def test_a_protocol_fixes_every_value_that_moves_a_score(name: str) -> None:
    resolved, protocol = under(name), load_protocol(name)
    assert protocol is not None
    assert protocol.changed(resolved) == {}
    left_out = set(FIXED) - set(protocol.values)
    assert left_out and all(key.startswith("reward.") for key in left_out)  # of other checkers
    assert left_out.isdisjoint(flatten(resolved.settings))
    for key in protocol.values:
        assert resolved.sources[key] == f"protocol {name}"
    assert resolved.sources["rollout.group_size"] == "preset qwen32b-full"


def test_a_protocol_unsets_the_system_turn_unless_set_asks_for_one() -> None:
    assert resolve(overrides=["prompts.system=Be brief"]).settings.prompts.system == "Be brief"
    assert under("boxed").settings.prompts.system is None
    assert under("boxed", "prompts.system=Be brief").settings.prompts.system == "Be brief"


def test_set_goes_above_the_protocol_and_is_named_as_a_change() -> None:
    protocol = load_protocol("boxed")
    assert protocol is not None
    same = under("boxed", "rollout.temperature=0.6")
    other = under("boxed", "rollout.temperature=0.9", "reward.maximum=99")
    assert protocol.changed(under("boxed")) == protocol.changed(same) == {}
    assert protocol.changed(other) == {"rollout.temperature": 0.9, "reward.maximum": 99}
    assert other.sources["rollout.temperature"] == "--set"


def test_another_checker_drops_the_bounds_and_that_is_a_change() -> None:
    protocol = load_protocol("boxed")
    assert protocol is not None
    resolved = under("boxed", "reward.kind=math")
    assert resolved.settings.reward.kind == "math"
    changes = {"reward.kind": "math", "reward.minimum": None, "reward.maximum": None}
    assert protocol.changed(resolved) == changes


def test_a_protocol_for_letters_says_how_many_options_there_are() -> None:
    for name, letters in (("choice", "ABCD"), ("choice10", "ABCDEFGHIJ")):
        settings = under(name, "reward.extract=answer-line").settings
        assert isinstance(settings.reward, ChoiceReward)
        assert settings.reward.choices == len(letters)
        assert f"one of {letters}." in settings.prompts.template
    text = (resource_dir("data") / "protocols" / "choice.toml").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"lacks reward\.choices"):
        parse_protocol("own", text.replace("choices = 4\n", ""))
    with pytest.raises(ValueError, match=r"does not fix reward\.minimum"):
        parse_protocol("own", text + "minimum = 0\n")


def test_what_the_paper_does_not_say_is_marked() -> None:
    unknown = {name: load_protocol(name).unknown for name in protocol_names()}  # type: ignore[union-attr]
    assert unknown["dapo"] == unknown["boxed"] == ()
    assert {"rollout.temperature", "rollout.top_p", "prompts.template"} <= set(unknown["paper"])


def test_no_protocol_is_called_settings() -> None:
    assert load_protocol("settings") is None


def test_an_unknown_protocol_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"--protocol boxd: unknown; did you mean boxed\?"):
        load_protocol("boxd")


def test_a_whole_protocol_is_read() -> None:
    protocol = parse_protocol("mine", WHOLE)
    assert protocol.values == {
        "prompts.template": "{problem}",
        "prompts.system": None,
        "rollout.temperature": 0.5,
        "rollout.top_p": 0.9,
        "rollout.top_k": 3,
        "rollout.max_completion_tokens": 7,
        "reward.kind": "integer",
        "reward.extract": "boxed",
        "reward.minimum": 1,
        "reward.maximum": None,
    }
    assert protocol.unknown == ("rollout.top_p",)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("top_k = 3, ", "", "lacks rollout.top_k"),
        ("top_k = 3", "top_k = 3, group_size = 2", "a protocol does not fix rollout.group_size"),
        ('"rollout.top_p"]', '"rollout.top_q"]', "a protocol does not fix rollout.top_q"),
        ('source = "s"', "", "needs title, source"),
    ],
)
def test_a_protocol_that_leaves_something_open_is_refused(old: str, new: str, said: str) -> None:
    assert old in WHOLE
    with pytest.raises(ValueError, match=said):
        parse_protocol("mine", WHOLE.replace(old, new))
