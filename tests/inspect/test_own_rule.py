"""Laws of inspecting with a credit rule of the user's own: its weights, in every form of output."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dgpo_cli.core.errors import ConfigError, DgpoError
from dgpo_cli.core.text import UNICODE
from dgpo_cli.inspect.views.header import rule_name
from dgpo_cli.inspect.views.what_if import named
from dgpo_cli.runs.run_folder import RunFolder
from tests.cli.helpers import in_process as dgpo
from tests.inspect.looks import look, stored_lines

RULE = """
from dgpo_cli import CreditRule

class Surprise(CreditRule):
    power: float = 2.0

    def token_scores(self, stats, mask, *, vocab_size):
        return (-stats.old_logprobs) ** self.power

class Broken(CreditRule):
    def token_scores(self, stats, mask, *, vocab_size):
        return stats.entropy - 100
"""
MINE = "own.py:Surprise"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(RULE, encoding="utf-8")


def _trained_with_it(trained: Path) -> Path:
    """The run's last rollouts, as if this rule had trained with weights of its own time."""
    run = Path("run")
    (run / "rollouts").mkdir(parents=True)
    shutil.copytree(trained / "tokenizer", run / "tokenizer")
    with RunFolder(run).rollout_file(3).open("w") as file:
        for line in stored_lines(trained):
            length = len(line["weights"])
            weights = [0.5, 1.5] * (length // 2) + [1.0] * (length % 2)
            credit = {"rule": MINE, "sign": "both", "refresh": "step", "power": 3.0}
            own = {"scores": weights, "weights": weights, "credit": credit}
            file.write(json.dumps(line | own) + "\n")
    return run


def test_an_own_rule_is_shown_by_arithmetic_on_the_stored_numbers(trained: Path) -> None:
    found = look(source=trained, rule=MINE)
    assert found.rule == MINE and found.parameters["power"] == 2.0
    for shown, line in zip(found.completions, stored_lines(trained), strict=True):
        squares = [x * x for x in line["logprobs"]]
        wanted = [len(squares) * x / sum(squares) for x in squares]
        assert [t.weight for t in shown.tokens] == pytest.approx(wanted, rel=1e-4, abs=1e-9)
        assert shown.stored is not None and shown.stored.rule == "dgpo"
    assert rule_name(found, tau=None, glyphs=UNICODE) == f"{MINE}, power 2.0"
    other = look(source=trained, rule=MINE, overrides=("credit.power=1",), group=0, sample=0)
    surprise = [-x for x in stored_lines(trained)[0]["logprobs"]]
    wanted = [len(surprise) * x / sum(surprise) for x in surprise]
    (shown,) = other.completions
    assert [t.weight for t in shown.tokens] == pytest.approx(wanted, rel=1e-4, abs=1e-9)


def test_the_weights_that_trained_are_shown_without_the_code(trained: Path) -> None:
    run = _trained_with_it(trained)
    Path("own.py").unlink()
    found = look(source=run)
    for shown in found.completions:
        assert [t.weight for t in shown.tokens][:2] == [0.5, 1.5]
    assert rule_name(found, tau=None, glyphs=UNICODE) == f"{MINE}, power 3.0"
    assert look(source=run, rule="top-entropy").rule == "top-entropy"
    (other, *_) = look(source=run, rule="uniform").completions
    assert other.stored is not None and list(other.stored.weights)[:2] == [0.5, 1.5]
    assert named(other.stored.rule, other.stored.parameters, None) == f"{MINE}, power 3.0"
    with pytest.raises(ConfigError, match=r"own\.py:Surprise: own\.py in .*: no such file"):
        look(source=run, rule=MINE)


def test_a_rule_that_gives_no_weights_is_refused_by_name(trained: Path) -> None:
    with pytest.raises(DgpoError) as caught:
        look(source=trained, rule="own.py:Broken")
    (line,) = str(caught.value).splitlines()
    assert line.startswith("credit.rule=own.py:Broken: scores have -")
    assert caught.value.exit_code == 1  # the rule failed; no setting is wrong


def test_every_output_has_the_weights_of_an_own_rule(trained: Path) -> None:
    ended = dgpo("inspect", str(trained), "--rule", MINE, "--svg", "a.svg", "--html", "a.html")
    assert ended.exit_code == 0, ended.stderr
    assert all(f"{MINE}" in Path(name).read_text() for name in ("a.svg", "a.html"))
    told = json.loads(dgpo("inspect", str(trained), "--rule", MINE, "--json").stdout)
    assert (told["rule"], told["parameters"]["power"]) == (MINE, 2.0)
    shown = dgpo("inspect", str(trained), "--rule", MINE).stdout
    assert f"credit rule {MINE}, power 2.0" in shown and "Against the weights" in shown
    for given, said in (
        ("credit.pwoer=1", "did you mean credit.power?"),
        ("seed=1", "only credit.KEY=VALUE changes the weights shown"),
        ("credit.tau=1", "give --tau instead"),
    ):
        ended = dgpo("inspect", str(trained), "--rule", MINE, "--set", given)
        assert ended.exit_code == 2 and said in ended.stderr
    ended = dgpo("inspect", str(trained), "--rule", "own.py:Surprised")
    assert ended.exit_code == 2 and "did you mean own.py:Surprise?" in ended.stderr
