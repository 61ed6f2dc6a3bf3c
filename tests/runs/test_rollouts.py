"""Laws of the rollouts file: what is written is what is read, and a broken line is named."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.types import (
    Batch,
    Completion,
    Credit,
    Message,
    Prompt,
    ScoredGroup,
    TokenStats,
    Verdict,
)
from dgpo_cli.inspect.rollout_file import read_rollouts
from dgpo_cli.runs.rollouts import rollout_lines, training_lines, write_lines

INTERFACE = {
    "prompt_id",
    "prompt",
    "answer",
    "index",
    "completion",
    "prompt_token_ids",
    "token_ids",
    "sampling_logprobs",
    "finish_reason",
    "starts_in_thought",
    "outcome",
    "extracted",
    "reward",
}


def _group() -> ScoredGroup:
    prompt = Prompt("p0", (Message("system", "be brief"), Message("user", "1+1?")), "2", "here")
    return ScoredGroup(
        prompt=prompt,
        prompt_ids=(5, 6),
        completions=(
            Completion((7, 8, 1), (-0.5, -0.25, -0.125), "é\ud800\x1b[31m", "stop", 3, 11),
            Completion((9,), (-2.0,), "", "length", 3, 12, starts_in_thought=True),
        ),
        verdicts=(Verdict("correct", "2", 1.0), Verdict("truncated", None, 0.0)),
        advantages=(0.5, -0.5),
    )


def _batch() -> Batch:
    mask = torch.tensor([[True, True, True], [True, False, False]])
    numbers = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.0, 0.0]])
    return Batch(
        prompt_ids=torch.zeros(2, 2, dtype=torch.long),
        prompt_mask=torch.ones(2, 2, dtype=torch.bool),
        completion_ids=torch.zeros(2, 3, dtype=torch.long),
        mask=mask,
        advantages=torch.tensor([0.5, -0.5]),
        stats=TokenStats(old_logprobs=-numbers, entropy=numbers, hellinger_sq=numbers / 10),
        credit=Credit(scores=numbers / 100, weights=torch.where(mask, 1.0, 0.0)),
    )


def test_a_line_has_every_field_of_the_interface_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rollouts.jsonl"
    assert write_lines(path, rollout_lines([_group()], temperature=0.7)) == 2
    raw = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(line.keys() >= INTERFACE for line in raw)
    back = list(read_rollouts(path))
    assert [line.completion for line in back] == list(_group().completions)
    assert [line.verdict for line in back] == list(_group().verdicts)
    assert back[0].prompt.messages == _group().prompt.messages
    assert (back[0].prompt_ids, back[0].index, back[1].index) == ((5, 6), 0, 1)
    assert back[0].temperature == 0.7
    assert back[0].stats is None and back[0].advantage is None


def test_training_lines_keep_every_number_of_every_token_and_no_padding(tmp_path: Path) -> None:
    path = tmp_path / "step.jsonl"
    lines = training_lines(
        [_group()],
        _batch(),
        temperature=1.0,
        credit={"rule": "dgpo", "tau": 0.5},
        vocab_size=10,
        advantages=(0.5, -0.5),
    )
    write_lines(path, lines)
    first, second = read_rollouts(path)
    assert first.stats is not None and second.stats is not None
    assert first.stats.hellinger_sq == pytest.approx((0.01, 0.02, 0.03), rel=1e-6)
    assert first.stats.logprobs == pytest.approx((-0.1, -0.2, -0.3), rel=1e-6)
    assert second.stats.entropy == pytest.approx((0.4,), rel=1e-6)
    assert (first.advantage, second.advantage) == (0.5, -0.5)
    assert first.stats.credit == {"rule": "dgpo", "tau": 0.5}
    assert first.stats.vocab_size == 10


def test_training_lines_keep_the_tau_of_each_completion_and_the_noise_floor(tmp_path: Path) -> None:
    path = tmp_path / "step.jsonl"
    batch = _batch()
    tau = torch.tensor([0.0123456789, math.nan], dtype=torch.float64)
    batch = replace(
        batch,
        credit=replace(batch.credit, tau=tau),
        stats=replace(batch.stats, noise_floor=3e-13),
    )
    write_lines(
        path,
        training_lines(
            [_group()], batch, temperature=1.0, credit={}, vocab_size=10, advantages=(0.5, -0.5)
        ),
    )
    first, second = (line.stats for line in read_rollouts(path))
    assert first is not None and second is not None
    assert (first.tau, second.tau) == (pytest.approx(0.0123456789, rel=1e-8), None)
    assert first.noise_floor == second.noise_floor == 3e-13


def test_lines_of_earlier_versions_have_no_tau_and_no_noise_floor(tmp_path: Path) -> None:
    lines = list(
        training_lines(
            [_group()], _batch(), temperature=1.0, credit={}, vocab_size=10, advantages=(0.5, -0.5)
        )
    )
    for line in lines:
        del line["tau"], line["noise_floor"]
    path = tmp_path / "old.jsonl"
    write_lines(path, iter(lines))
    stats = next(read_rollouts(path)).stats
    assert stats is not None and (stats.tau, stats.noise_floor) == (None, None)
    assert stats.weights == (1.0, 1.0, 1.0)


def test_tokens_of_an_environment_are_named_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    first, second = _group().completions
    turns = replace(first, environment=((1, 2),))
    write_lines(
        path, rollout_lines([replace(_group(), completions=(turns, second))], temperature=0.7)
    )
    back = [line.completion for line in read_rollouts(path)]
    assert back == [turns, second]
    assert (back[0].length, back[0].written) == (2, [True, False, True])
    assert "environment" not in path.read_text().splitlines()[1]


@pytest.mark.parametrize("spans", [[[0, 1]], [[2, 3]], [[1, 1]], [[1, 2], [1, 2]]])
def test_a_turn_that_is_nobodys_is_refused(tmp_path: Path, spans: list[list[int]]) -> None:
    """A completion begins and ends with the policy's own tokens."""
    path = tmp_path / "rollouts.jsonl"
    line = {**next(rollout_lines([_group()], temperature=0.7)), "environment": spans}
    write_lines(path, iter([line]))
    with pytest.raises(DataError, match=r"rollouts.jsonl:1: .*environment has \["):
        list(read_rollouts(path))


def test_what_is_not_finite_is_null_and_comes_back_as_nan(tmp_path: Path) -> None:
    batch = _batch()
    batch.stats.entropy[0, 1] = math.nan
    path = tmp_path / "bad.jsonl"
    write_lines(
        path,
        training_lines(
            [_group()], batch, temperature=1.0, credit={}, vocab_size=10, advantages=(0.5, -0.5)
        ),
    )
    assert "NaN" not in path.read_text()
    stats = next(read_rollouts(path)).stats
    assert stats is not None
    assert math.isnan(stats.entropy[1]) and stats.entropy[0] == pytest.approx(0.1)


def test_a_sampled_token_of_probability_nothing_is_null_and_comes_back_as_nan(
    tmp_path: Path,
) -> None:
    group = _group()
    odd = replace(group.completions[0], sampling_logprobs=(-0.5, -math.inf, -0.125))
    path = tmp_path / "odd.jsonl"
    lines = rollout_lines([replace(group, completions=(odd, group.completions[1]))], temperature=1)
    write_lines(path, lines)
    assert "Infinity" not in path.read_text()
    first, _ = read_rollouts(path)
    assert math.isnan(first.completion.sampling_logprobs[1])
    assert first.completion.sampling_logprobs[::2] == (-0.5, -0.125)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line.pop("completion"), "the field completion is missing"),
        (
            lambda line: line.update(finish_reason="tired"),
            '="tired": must be stop or length',
        ),
        (
            lambda line: line.update(outcome="maybe"),
            'outcome="maybe": must be correct, wrong,',
        ),
        (lambda line: line.update(version=99), "version=99: this dgpo reads version 1"),
        (lambda line: line.update(weights=[1.0]), "the field logprobs is missing"),
        (lambda line: line.update(token_ids="x"), 'token_ids="x": must be a list'),
    ],
)
def test_broken_line_names_file_line_and_field(tmp_path, change, message) -> None:  # type: ignore[no-untyped-def]
    good, bad = rollout_lines([_group()], temperature=1.0)
    change(bad)
    path = tmp_path / "rollouts.jsonl"
    write_lines(path, iter([good, bad]))
    with pytest.raises(DataError, match=r"rollouts\.jsonl:2: ") as caught:
        list(read_rollouts(path))
    assert message in str(caught.value)


def test_statistics_of_another_length_are_refused(tmp_path: Path) -> None:
    lines = list(
        training_lines(
            [_group()], _batch(), temperature=1.0, credit={}, vocab_size=10, advantages=(0.5, -0.5)
        )
    )
    lines[0]["entropy"] += (1.0,)
    path = tmp_path / "rollouts.jsonl"
    write_lines(path, iter(lines))
    with pytest.raises(DataError, match="entropy has 4 numbers for 3 tokens"):
        list(read_rollouts(path))


@pytest.mark.parametrize("text", ["", "\n\n", "[1]\n", "{\n"])
def test_files_without_rollouts_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=r"x\.jsonl"):
        list(read_rollouts(path))
    with pytest.raises(DataError, match="cannot be read"):
        list(read_rollouts(tmp_path / "missing.jsonl"))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    path.write_text("old")

    def broken():  # type: ignore[no-untyped-def]
        yield {"a": 1}
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_lines(path, broken())
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["rollouts.jsonl"]
