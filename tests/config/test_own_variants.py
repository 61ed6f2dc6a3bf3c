"""Laws of credit rules and losses of the user's own as variants of their sections."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dgpo_cli.config.changes import differences, run_name
from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.layers import set_layers
from dgpo_cli.config.load import layered, resolve
from dgpo_cli.config.reference import find
from dgpo_cli.config.tree import flatten
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.own_code import own_code_of, own_files

RULE = """
from typing import ClassVar, Literal
from pydantic import Field
from dgpo_cli import CreditRule

class Mine(CreditRule):
    \"""Weight by surprise.\"""
    needs_reference: ClassVar[bool] = True
    alpha: float = Field(1.0, ge=0, description="Power.")
    form: Literal["sum", "mean"] = "sum"
    layers: tuple[int, ...] = (1, 2)

    def token_scores(self, stats, mask, *, vocab_size):
        return (-stats.old_logprobs) ** self.alpha

class Needy(Mine):
    beta: float

class Silent(CreditRule):
    pass

class Named(Mine):
    rule: Literal["named"] = "named"

def function():
    pass
"""
LOSS = """
from dgpo_cli import Loss

class Mine(Loss):
    scale: float = 2.0

    def token_losses(self, logprobs, **others):
        return logprobs, logprobs, logprobs > 0
"""
MINE = "credit.rule=own_rule.py:Mine"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("own_rule.py").write_text(RULE, encoding="utf-8")
    Path("own_loss.py").write_text(LOSS, encoding="utf-8")
    return tmp_path


def test_a_class_of_a_file_is_a_variant_with_settings_of_its_own() -> None:
    resolved = resolve(
        overrides=["credit.layers=[3]", MINE, "credit.alpha=2", "loss.kind=own_loss.py:Mine"],
        flags={"credit.sign": ("--sign", "positive")},
    )
    credit, loss = flatten(resolved.settings.credit), flatten(resolved.settings.loss)
    common = {"rule": "own_rule.py:Mine", "sign": "positive", "refresh": "step"}
    assert credit == common | {"alpha": 2.0, "form": "sum", "layers": (3,)}
    assert resolved.settings.credit.needs_reference
    assert (loss["kind"], loss["scale"]) == ("own_loss.py:Mine", 2.0)
    assert resolved.sources["credit.alpha"] == "--set"
    assert resolved.sources["credit.form"] == "default"
    assert list(resolved.sources) == list(flatten(resolved.settings))


def test_a_preset_gives_what_both_have_and_what_is_dropped_is_noted() -> None:
    resolved = resolve(preset="tiny", overrides=[MINE])
    assert resolved.sources["credit.sign"] == "preset tiny"
    (note,) = resolved.notes
    assert note.endswith("are dropped: rule own_rule.py:Mine has none of them")
    back = layered(resolved, *set_layers(["credit.rule=uniform"]))
    assert flatten(back.settings.credit).keys() == {"rule", "sign", "refresh"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["credit.rule=own_rule.py:Mime"], "credit.rule=own_rule.py:Mime: own_rule.py has no Mime; "
                                           "did you mean own_rule.py:Mine?"),
        (["credit.rule=own_rule.py:function"],
         "credit.rule=own_rule.py:function: is a function; it must be a class derived from "
         "dgpo_cli.CreditRule"),
        (["credit.rule=own_loss.py:Mine"],
         "credit.rule=own_loss.py:Mine: is the class Mine; it must be a class derived from "
         "dgpo_cli.CreditRule"),
        (["credit.rule=own_rule.py:CreditRule"],
         "credit.rule=own_rule.py:CreditRule: is the class CreditRule; it must be a class derived "
         "from dgpo_cli.CreditRule"),
        (["credit.rule=own_rule.py:Silent"], "credit.rule=own_rule.py:Silent: defines neither "
                                             "token_scores nor credit; define one"),
        (["credit.rule=own_rule.py:Named"],
         "credit.rule=own_rule.py:Named: has a field rule, which is its name in the settings; "
         "leave it out"),
        (["credit.rule=own_rule.py:Needy"], "credit.beta: is required"),
        ([MINE, "credit.alpha=-1"], "credit.alpha=-1: must be at least 0; set for example 1.0 "
                                    "(Power.)"),
        ([MINE, "credit.form=x"], "credit.form=x: must be one of sum, mean"),
        ([MINE, "credit.alhpa=1"], "credit.alhpa (--set): unknown setting; did you mean "
                                   "credit.alpha?"),
        ([MINE, "credit.tau=1"], "credit.tau (--set): rule own_rule.py:Mine has no tau; set "
                                 "credit.rule=dgpo, or leave it out"),
        (["credit.rule=unifrm"], "credit.rule=unifrm: must be one of "),
        (["adapter.kind=x.py:Y"], "adapter.kind=x.py:Y: must be one of none, lora"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_variant_is_refused_in_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(overrides=overrides)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(said)


def test_a_dump_with_its_digests_resolves_to_equal_settings() -> None:
    resolved = resolve(overrides=[MINE, "credit.alpha=3", "loss.kind=own_loss.py:Mine"])
    code = own_code_of(resolved.settings)
    assert list(code) == ["own_rule.py", "own_loss.py"]
    assert [place[:2] for place in own_files(resolved.settings)] == [
        ("credit", "own_rule.py"),
        ("loss", "own_loss.py"),
    ]
    file = Path("settings.toml")
    file.write_text(dump_toml(resolved, code=code), encoding="utf-8")
    assert resolve(config=file).settings == resolved.settings


def test_stored_settings_are_read_without_the_code_and_compared_with_it() -> None:
    resolved = resolve(overrides=[MINE, "credit.alpha=3"])
    Path("settings.toml").write_text(dump_toml(resolved), encoding="utf-8")
    now = resolve(overrides=[MINE, "credit.alpha=4"])
    os.remove("own_rule.py")
    stored = resolve(config=Path("settings.toml"), run_code=False)
    assert flatten(stored.settings.credit) == flatten(resolved.settings.credit) | {"layers": [1, 2]}
    found = differences(stored, now)
    assert [(each.setting, each.old, each.new) for each in found] == [("credit.alpha", 3.0, 4.0)]
    assert not differences(stored, layered(stored))
    with pytest.raises(ConfigError, match="its code is not loaded here"):
        stored.settings.credit.token_scores(None, None, vocab_size=2)  # type: ignore[arg-type]


def test_another_class_and_other_fields_of_it_are_differences() -> None:
    before, after = resolve(), resolve(overrides=[MINE, "credit.alpha=4"])
    found = {each.setting: each.new for each in differences(before, after)}
    assert found == {"credit.rule": "own_rule.py:Mine", "credit.alpha": 4.0}
    name = run_name("tiny", recipe=before, resolved=after)
    assert re.fullmatch(r"tiny-Mine-[0-9a-f]{4}-alpha4.0", name)


def test_the_reference_tells_the_fields_of_a_given_class() -> None:
    resolved = resolve(overrides=[MINE, "credit.alpha=3"])
    (alpha,) = find("credit.alpha", resolved)
    assert (alpha.value, alpha.default, alpha.only_with) == (3.0, 1.0, (MINE,))
    assert alpha.meanings[""] == ("Power.", {"minimum": 0, "type": "number"})
    assert (
        "own_rule.py:Mine: Weight by surprise." in find("credit.rule", resolved)[0].meanings[""][0]
    )
    assert find("credit.sign", resolved)[0].only_with == ()
    with pytest.raises(ConfigError, match="unknown setting"):
        find("credit.alpha")


def test_an_own_rule_reaches_another_process_as_its_file() -> None:
    settings = resolve(overrides=[MINE, "credit.alpha=3"]).settings
    Path("settings.pkl").write_bytes(pickle.dumps(settings))
    assert pickle.loads(pickle.dumps(settings)) == settings
    read = "import pickle; print(pickle.load(open('settings.pkl', 'rb')).credit.alpha)"
    told = subprocess.run(
        [sys.executable, "-c", read], capture_output=True, text=True, timeout=60, check=False
    )
    assert told.stdout == "3.0\n", told.stderr
