"""Laws of a chat template that opens a thought: every file says so, and no box in it earns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from dgpo_cli.core.resources import resource_dir
from dgpo_cli.diagnosis.facts import UnreadExample
from dgpo_cli.diagnosis.stored_run import unread_example
from dgpo_cli.evals import regrade
from dgpo_cli.runs.run_folder import RunFolder
from tests.evals.evaluations import Asked, install, problems, run, stored
from tests.recorder import Notes

OPENING = "{{ '<|assistant|>' }}"


@pytest.fixture
def model(tmp_path: Path) -> str:
    """The embedded model with a chat template that opens a thought."""
    folder = tmp_path / "thinker"
    shutil.copytree(resource_dir("data") / "tiny", folder)
    template = folder / "chat_template.jinja"
    text = template.read_text()
    assert OPENING in text
    template.write_text(text.replace(OPENING, "{{ '<|assistant|><think>\n' }}"))
    return str(folder)


def text_of(seed: int) -> str:
    """A thought that never ends, and one that does; either has the same box in it."""
    return f"{seed}: " + (r"\boxed{19}", r"\boxed{3}</think> \boxed{19}")[seed % 2]


@pytest.fixture
def folder(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(monkeypatch, Asked(text_of))
    bench = problems(tmp_path, {"12+7": "19"})
    result = run(bench, 8, tmp_path / "out", f"model.path={model}", second_opinion=True)
    assert 0 < result.evaluation.avg_at_k < 1
    return tmp_path / "out"


def judged(folder: Path) -> list[tuple[Any, ...]]:
    names = ("completion", "outcome", "second", "starts_in_thought")
    return [tuple(line.get(name) for name in names) for line in stored(folder)]


def again(folder: Path) -> list[str]:
    notes = Notes()
    regrade.run(folder, observer=notes)
    return notes.texts


def as_before(folder: Path) -> None:
    """Make the samples those of a version that knew of no thoughts in prompts and no digests."""
    lines = []
    for line in stored(folder):
        del line["starts_in_thought"], line["digest"]
        lines.append(line | {"outcome": "correct", "extracted": "19", "second": "correct"})
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (folder / "samples.jsonl").write_text(text)


def test_an_evaluation_takes_no_open_thought_for_an_answer(folder: Path) -> None:
    for text, *rest in judged(folder):
        outcome = "correct" if "</think>" in text else "no_answer"
        assert rest == [outcome, outcome, True]


def test_old_samples_are_judged_by_how_their_prompts_end(folder: Path) -> None:
    truth = judged(folder)
    as_before(folder)
    assert judged(folder) != truth
    assert again(folder) == []
    assert judged(folder) == truth
    bytes_then = (folder / "samples.jsonl").read_bytes()
    assert again(folder) == [] and (folder / "samples.jsonl").read_bytes() == bytes_then


def test_old_samples_whose_model_is_gone_are_judged_as_before_and_it_is_said(
    folder: Path, model: str
) -> None:
    as_before(folder)
    shutil.rmtree(model)
    (told,) = again(folder)
    assert model in told and "as if none did" in told
    assert all(row[1:] == ("correct", "correct", False) for row in judged(folder))


@pytest.mark.parametrize("told", [{"starts_in_thought": True}, {}])
def test_unread_completions_are_not_read_inside_their_thoughts(
    tmp_path: Path, told: dict[str, bool]
) -> None:
    """Lines of earlier versions tell it by the ids of their prompts."""
    run_folder = RunFolder(tmp_path)
    (tmp_path / "rollouts").mkdir()
    shutil.copytree(resource_dir("data") / "tiny", run_folder.tokenizer_dir)
    tokenizer = Tokenizer.from_file(str(run_folder.tokenizer_dir / "tokenizer.json"))
    ids = tokenizer.encode("<|user|>1+1?<|assistant|><think>\n").ids
    line = {"outcome": "no_answer", "completion": r"so \boxed{3}", "prompt_token_ids": ids, **told}
    run_folder.rollout_file(1).write_text(json.dumps(line) + "\n")
    example = unread_example(run_folder)
    assert example == UnreadExample(ending=r"so \boxed{3}", readable_as=None, in_thought=True)
    run_folder.rollout_file(1).write_text(json.dumps(line | {"prompt_token_ids": ids[:-3]}) + "\n")
    other = unread_example(run_folder)
    assert other is not None and other.in_thought is bool(told)
