"""Laws of the card: it names what moves a score, and says where two cards differ."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from dgpo_cli.config.load import resolve
from dgpo_cli.core.errors import ModelError
from dgpo_cli.core.resources import resource_dir
from dgpo_cli.core.types import Card, Message, Prompt
from dgpo_cli.evals.card import checker_entry
from dgpo_cli.evals.engine_source import check_bos, cpu_model
from dgpo_cli.rewards.protocol import CHECKER_VERSION
from dgpo_cli.stats.cards import differences
from tests.evals.evaluations import Asked, boxed, install, problems, run

PROMPTS = [Prompt(name, (Message("user", name),), "1", "test") for name in ("a", "b")]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    install(monkeypatch, Asked(boxed))
    return problems(tmp_path)


def test_the_whole_card_of_the_embedded_model(bench: str, tmp_path: Path) -> None:
    card = run(bench, 1, tmp_path / "out", "reward.maximum=500").card
    protocol, subject, environment = card.protocol, card.subject, card.environment
    assert (protocol["name"], protocol["changed"], protocol["unknown"]) == ("settings", {}, [])
    assert (protocol["bench"], protocol["dataset"]) == ("three", "three.jsonl")
    assert (protocol["revision"], protocol["n_problems"], len(protocol["sha256"])) == (None, 3, 64)
    assert (protocol["template"], protocol["system"]) == ("{problem}", None)
    sampling = ("temperature", "top_p", "top_k", "max_completion_tokens", "seed")
    assert [protocol[name] for name in sampling] == [1.0, 1.0, 0, 64, 0]
    assert protocol["stop"] == [1]
    checker = {key: protocol["checker"][key] for key in ("kind", "extract", "minimum", "maximum")}
    assert checker == {"kind": "integer", "extract": "boxed", "minimum": 0, "maximum": 500}
    assert protocol["checker"]["version"]
    assert subject["model"] == "embedded:tiny"
    assert (subject["dtype"], subject["quantization"], subject["adapter"]) == (
        "float32",
        "none",
        None,
    )
    assert subject["tokenizer"]["size"] == 261
    # <|user|> 1 2 + 7 ? <|assistant|>: bytes of the tokenizer begin at 5
    assert subject["prompt_ids"]["first"][0] == 3 and subject["prompt_ids"]["last"][-1] == 4
    assert len(subject["prompt_ids"]["first"]) <= 8
    assert environment["backend"] == "hf"
    assert set(environment["versions"]) == {"dgpo", "torch", "transformers"}
    assert environment["threads"] == 1
    assert environment["device"] == cpu_model() != ""


def test_samples_of_another_compute_have_another_card(bench: str, tmp_path: Path) -> None:
    stored = run(bench, 1, tmp_path / "out").card
    rounded = run(bench, 1, tmp_path / "rounded", "model.compute=bfloat16").card
    assert "compute" not in stored.subject  # cards of earlier versions keep their key
    assert rounded.subject["compute"] == "bfloat16"
    assert rounded.key != stored.key


def test_the_card_on_the_disk_is_the_card(bench: str, tmp_path: Path) -> None:
    card = run(bench, 1, tmp_path / "out").card
    data = json.loads((tmp_path / "out" / "card.json").read_text())
    assert data == {"version": 1, "key": card.key, **asdict(card)}


def test_the_template_changes_the_prompt_and_not_the_data(bench: str, tmp_path: Path) -> None:
    one = run(bench, 1, tmp_path / "a").card
    two = run(bench, 1, tmp_path / "b", "prompts.template=Q {problem}").card
    assert one.protocol["sha256"] == two.protocol["sha256"]
    assert one.subject["prompt_ids"] != two.subject["prompt_ids"]


def test_the_same_weights_elsewhere_have_the_same_fingerprints(bench: str, tmp_path: Path) -> None:
    copy = shutil.copytree(resource_dir("data") / "tiny", tmp_path / "copy")
    one = run(bench, 1, tmp_path / "a").card.subject
    two = run(bench, 1, tmp_path / "b", f"model.path={copy}").card.subject
    assert {key for key in one if one[key] != two[key]} == {"model"}


def test_differences_name_every_entry_with_both_values() -> None:
    env = {"os": "x"}
    old = Card({"a": 1, "c": {"x": None, "y": [1]}}, {"kept": 1, "gone": "g"}, env)
    new = Card({"a": 1, "c": {"x": 0, "y": [1, 2]}}, {"kept": 1}, env | {"changed": {"come": 2.5}})
    assert list(differences(asdict(old), asdict(new))) == [
        ("protocol.c.x", "none -> 0"),
        ("protocol.c.y", "[1] -> [1, 2]"),
        ("subject.gone", "g -> missing"),
        ("environment.changed.come", "missing -> 2.5"),
    ]
    assert list(differences(asdict(old), asdict(old))) == []


def test_two_bos_tokens_are_found_in_any_prompt() -> None:
    check_bos(PROMPTS, [(7, 1), (7, 2, 7, 7)], bos=7)
    check_bos(PROMPTS, [(7, 7), (7, 7)], bos=None)
    with pytest.raises(ModelError, match=r"prompt 'b' opens with two BOS tokens \(ids \[7, 7, 2\]"):
        check_bos(PROMPTS, [(7, 1), (7, 7, 2)], bos=7)


def test_the_card_of_letters_has_the_number_of_options_and_no_math_verify() -> None:
    letters = checker_entry(resolve(overrides=["reward.kind=choice", "reward.choices=5"]).settings)
    assert letters == {
        "kind": "choice",
        "extract": "boxed-or-answer-line",
        "minimum": None,
        "maximum": None,
        "choices": 5,
        "version": CHECKER_VERSION,
        "math_verify": None,
    }
    general = checker_entry(resolve(overrides=["reward.kind=math"]).settings)
    assert general["math_verify"] and "choices" not in general


def test_a_card_knows_the_code_of_the_users_own_that_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text("def score(completion): return True\n", encoding="utf-8")
    given = ["reward.kind=python", "reward.path=own.py:score"]
    first = checker_entry(resolve(overrides=given).settings)
    assert first["code"] == {"own.py": hashlib.sha256(Path("own.py").read_bytes()).hexdigest()}
    Path("own.py").write_text("def score(completion): return False\n", encoding="utf-8")
    assert checker_entry(resolve(overrides=given).settings)["code"] != first["code"]
    assert "code" not in checker_entry(resolve().settings)
