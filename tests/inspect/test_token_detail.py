"""Laws of --at: the alternatives are a softmax of the logits of the weights that sampled."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from dgpo_cli.config.load import resolve
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.types import Inspection, TokenDetail
from dgpo_cli.policy.load import model_location
from dgpo_cli.runs.run_folder import RunFolder
from dgpo_cli.train import train
from tests.inspect.looks import look, stored_lines
from tests.recorder import Notes

AT = 7


def detail_of(inspection: Inspection) -> TokenDetail:
    assert inspection.detail is not None
    return inspection.detail


def softmax(folder: str | Path, line: dict[str, Any], *, at: int) -> torch.Tensor:
    """The distribution of token `at` by transformers alone, float64 [V]."""
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    ids = line["prompt_token_ids"] + line["token_ids"][:at]
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(dim=-1)


def test_alternatives_are_those_of_the_checkpoint_that_sampled(trained: Path) -> None:
    checkpoint = RunFolder(trained).checkpoint_dir(2)
    events: list[str] = []
    found = detail_of(look(source=trained, group=1, sample=2, at=AT, observer=Notes(events)))
    line = stored_lines(trained)[1 * 4 + 2]
    own = softmax(checkpoint, line, at=AT)
    other = softmax(model_location("embedded:tiny"), line, at=AT)
    wanted = {*own.topk(8).indices.tolist(), *other.topk(8).indices.tolist()}
    sampled = line["token_ids"][AT]
    assert {each.id for each in found.alternatives} == wanted | {sampled}
    for each in found.alternatives:
        assert each.policy == pytest.approx(float(own[each.id]), rel=1e-4, abs=1e-7)
        assert each.reference == pytest.approx(float(other[each.id]), rel=1e-4, abs=1e-7)
    assert found.policy_rank == int((own > own[sampled]).sum()) + 1
    assert found.reference_rank == int((other > other[sampled]).sum()) + 1
    assert (found.weights, found.hint) == (str(checkpoint), "")
    assert not any("not the weights that sampled" in event for event in events)


def test_the_parts_of_d_add_up_to_the_tokens_own(trained: Path) -> None:
    shown = look(source=trained, group=0, sample=0, at=4)
    parts = [(a.policy**0.5 - a.reference**0.5) ** 2 / 2 for a in detail_of(shown).alternatives]
    # 8 of each model, of 261: what is left out is less than a thousandth here.
    assert sum(parts) == pytest.approx(shown.completions[0].tokens[4].hellinger_sq, abs=1e-3)


def test_the_first_rollouts_were_sampled_by_the_initial_model(trained: Path) -> None:
    first = RunFolder(trained).rollout_file(1)
    found = detail_of(look(source=first, group=0, sample=0, at=0))
    assert found.weights == "the initial model"
    assert all(each.policy == each.reference for each in found.alternatives)


def test_where_the_weights_are_not_kept_a_command_is_named(trained: Path) -> None:
    second = RunFolder(trained).rollout_file(2)
    found = detail_of(look(source=second, group=3, sample=1, at=5))
    newest = RunFolder(trained).checkpoint_dir(3)
    assert found.alternatives == () and found.weights == ""
    assert found.hint == (
        f"dgpo inspect --model {newest} --reference embedded:tiny --rollouts {second} "
        "--group 3 --sample 1 --at 5  # weights after step 3"
    )


def test_rollouts_without_their_run_name_a_command_for_any_models(
    trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "rollouts").mkdir()
    shutil.copytree(trained / "tokenizer", tmp_path / "tokenizer")
    path = tmp_path / "rollouts" / "my file.jsonl"
    path.write_bytes(RunFolder(trained).rollout_file(3).read_bytes())
    found = detail_of(look(source=path, group=0, sample=0, at=5))
    assert found.hint.startswith("dgpo inspect --model M --reference R --rollouts '")


def test_weights_that_did_not_sample_are_noticed(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    third = RunFolder(run).rollout_file(3)
    lines = third.read_text().replace('"policy_version": 2', '"policy_version": 0')
    third.write_text(lines)
    events: list[str] = []
    position = max(
        range(len(stored_lines(run)[0]["token_ids"])),
        key=lambda at: -stored_lines(run)[0]["logprobs"][at],
    )
    look(source=run, group=0, sample=0, at=position, observer=Notes(events))
    assert any("these are not the weights that sampled it" in event for event in events)


def test_the_weights_of_a_truncated_sampler_are_known_by_what_it_kept(tmp_path: Path) -> None:
    """Stored are log-probabilities over that; alternatives are of the whole vocabulary."""
    overrides = ["rollout.top_p=0.7", "rollout.group_size=4", "rollout.prompts_per_step=8"]
    train.run(
        resolve(preset="tiny", overrides=[*overrides, "train.steps=1", "eval.every=0"]),
        out=tmp_path / "run",
        resume="never",
        allow_change=False,
        observer=Notes([]),
    )
    entropies = [line["entropy"] for line in stored_lines(tmp_path / "run")]
    row = max(range(len(entropies)), key=lambda row: max(entropies[row]))
    at = entropies[row].index(max(entropies[row]))
    events: list[str] = []
    shown = look(
        source=tmp_path / "run", group=row // 4, sample=row % 4, at=at, observer=Notes(events)
    )
    line = stored_lines(tmp_path / "run")[row]
    (own,) = (a.policy for a in detail_of(shown).alternatives if a.id == line["token_ids"][at])
    assert line["logprobs"][at] - math.log(own) > 0.05
    assert not any("not the weights that sampled" in event for event in events)


def test_with_a_model_the_alternatives_are_its_own(trained: Path) -> None:
    models = {"model": str(RunFolder(trained).checkpoint_dir(3)), "reference": "embedded:tiny"}
    rollouts = RunFolder(trained).rollout_file(3)
    shown = look(rollouts=rollouts, group=0, sample=3, at=AT, **models)
    line = stored_lines(trained)[3]
    own = softmax(models["model"], line, at=AT)
    for each in detail_of(shown).alternatives:
        assert each.policy == pytest.approx(float(own[each.id]), rel=1e-4, abs=1e-7)
    token = shown.completions[0].tokens[AT]
    assert token.logprob == pytest.approx(float(own[token.id].log()), abs=1e-5)


def test_texts_of_alternatives_are_those_that_would_follow(trained: Path) -> None:
    shown = look(source=trained, group=0, sample=0, at=2)
    own = {each.id: (each.text, each.hex) for each in detail_of(shown).alternatives}
    token = shown.completions[0].tokens[2]
    assert own[token.id] == (token.text, token.hex)
    assert all(bytes.fromhex(digits).decode() == text for text, digits in own.values())


def test_a_token_that_is_not_there_is_refused(trained: Path) -> None:
    with pytest.raises(ConfigError, match=r"--at 999: completion 0 of .* has tokens 0 to \d+$"):
        look(source=trained, group=0, sample=0, at=999)
