"""Rewards that were drawn once are kept, whatever ends the process."""

from __future__ import annotations

import dataclasses
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.config.load import load_settings
from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.formats import ValuesHeader
from dgpo_cli.core.types import FinishReason, ScoredGroup
from dgpo_cli.engine.values import continuations
from dgpo_cli.engine.values.estimate import estimate
from dgpo_cli.engine.values.store import ValueStore, header_of
from tests.engine.chain import chain_engine, groups_of

HEADER = ValuesHeader(weights={"model": "00"}, settings={"rollout.top_k": 0}, code={})
SLICE = 16


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuations, "_SLICE_ROWS", SLICE)


def drawn_from(engine: Any, groups: list[ScoredGroup], path: Path, **asked: Any) -> Any:
    with ValueStore(path, HEADER) as store:
        return estimate(engine, groups, **{"continuations": 6, "seed": 0, **asked}, store=store)


def test_nothing_is_drawn_twice(tmp_path: Path) -> None:
    engine = chain_engine()
    groups = groups_of(engine, count=4, size=3)
    path = tmp_path / "values.jsonl"
    first = drawn_from(engine, groups, path)
    assert first == estimate(chain_engine(), groups, continuations=6, seed=0)
    engine.sampler.rounds.clear()
    assert drawn_from(engine, groups, path) == first
    assert engine.sampler.rounds == []
    more = drawn_from(engine, groups, path, continuations=8)
    assert more == estimate(chain_engine(), groups, continuations=8, seed=0)
    assert all(len(seeds) == 2 for _, seeds in engine.sampler.asked[-4:])
    engine.sampler.rounds.clear()
    assert drawn_from(engine, groups, path, continuations=3) != first
    assert engine.sampler.rounds == []
    drawn_from(engine, groups, path, seed=1)
    assert sum(engine.sampler.rounds) > 0


def test_an_interrupt_keeps_every_finished_slice(tmp_path: Path) -> None:
    groups = groups_of(chain_engine(), count=4, size=3)
    path = tmp_path / "values.jsonl"
    whole = chain_engine()
    expected = estimate(whole, groups, continuations=6, seed=0)
    for stop in (1, 3, 7):
        engine = chain_engine()
        path.unlink(missing_ok=True)
        with pytest.raises(KeyboardInterrupt):
            drawn_from(interrupted(engine, after=stop), groups, path)
        resumed = chain_engine()
        assert drawn_from(resumed, groups, path) == expected
        assert sum(resumed.sampler.rounds) == sum(whole.sampler.rounds) - stop * SLICE


def interrupted(engine: Any, *, after: int) -> Any:
    sample = engine.sampler.sample

    def interrupt(*args: Any, **named: Any) -> Any:
        if len(engine.sampler.rounds) == after:
            raise KeyboardInterrupt
        return sample(*args, **named)

    engine.sampler.sample = interrupt
    return engine


KILLED = """
import os, sys
from pathlib import Path
from dgpo_cli.engine.values import continuations
from tests.engine import test_value_store as tests
from tests.engine.chain import chain_engine, groups_of

continuations._SLICE_ROWS = tests.SLICE
groups = groups_of(chain_engine(), count=4, size=3)
engine = chain_engine()
grade = engine.grader.grade
engine.grader.grade = lambda items: (
    os.kill(os.getpid(), 9) if len(engine.sampler.rounds) == 4 else grade(items)
)
tests.drawn_from(engine, groups, Path(sys.argv[1]))
"""


def test_a_kill_loses_nothing_but_its_slice(tmp_path: Path) -> None:
    path = tmp_path / "values.jsonl"
    ended = subprocess.run([sys.executable, "-c", KILLED, path], timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL
    groups = groups_of(chain_engine(), count=4, size=3)
    whole, resumed = chain_engine(), chain_engine()
    expected = estimate(whole, groups, continuations=6, seed=0)
    assert drawn_from(resumed, groups, path) == expected
    assert sum(resumed.sampler.rounds) == sum(whole.sampler.rounds) - 3 * SLICE


def test_a_file_cut_anywhere_gives_the_same_values(tmp_path: Path) -> None:
    groups = groups_of(chain_engine(), count=1, size=2)
    path = tmp_path / "values.jsonl"
    expected = drawn_from(chain_engine(), groups, path)
    content = path.read_bytes()
    for size in range(0, len(content), 41):
        path.write_bytes(content[:size])
        assert drawn_from(chain_engine(), groups, path) == expected
        again = chain_engine()
        assert drawn_from(again, groups, path) == expected
        assert again.sampler.rounds == []


def test_a_reward_that_failed_is_drawn_again(tmp_path: Path) -> None:
    failing = True

    def reward(text: str, finish: FinishReason) -> float:
        return math.nan if failing and text.count("b") > 1 else float(len(text) % 2)

    engine = chain_engine(reward=lambda text, finish: float(len(text) % 2))
    groups = groups_of(engine, count=2, size=2)
    expected = estimate(engine, groups, continuations=6, seed=0)
    flaky = chain_engine(reward=reward)
    path = tmp_path / "values.jsonl"
    assert drawn_from(flaky, groups, path) != expected
    failing = False
    assert drawn_from(flaky, groups, path) == expected


def test_values_of_other_weights_or_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "values.jsonl"
    settings = load_settings("tiny")
    with ValueStore(path, header_of(settings)):
        pass
    workers = load_settings("tiny", overrides={"reward.workers": 1, "rollout.group_size": 4})
    with ValueStore(path, header_of(workers)):
        pass
    colder = load_settings("tiny", overrides={"rollout.temperature": 0.5})
    with pytest.raises(DataError, match=r"with rollout\.temperature=1\.0, not 0\.5; give"):
        ValueStore(path, header_of(colder))
    strict = load_settings("tiny", overrides={"reward.wrong": -1.0})
    with pytest.raises(DataError, match=r"with reward\.wrong=0\.0, not -1\.0; give"):
        ValueStore(path, header_of(strict))
    other = dataclasses.replace(header_of(settings), weights={"model": "00"})
    with pytest.raises(DataError, match="of other weights; give"):
        ValueStore(path, other)


def test_own_code_that_changed_is_refused(tmp_path: Path) -> None:
    path, code = tmp_path / "values.jsonl", tmp_path / "mine.py"
    code.write_text("def reward(completion, answer):\n    return 1.0\n")
    settings = load_settings(overrides={"reward": {"kind": "python", "path": f"{code}:reward"}})
    with ValueStore(path, header_of(settings)):
        pass
    code.write_text("def reward(completion, answer):\n    return 0.0\n")
    with pytest.raises(DataError, match=r"with .*mine\.py=.*, not "):
        ValueStore(path, header_of(settings))


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "values.jsonl"
    groups = groups_of(chain_engine(), count=1, size=1)
    drawn_from(chain_engine(), groups, path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[1].replace('"at":', '"at":-'), *lines[2:]]))
    with pytest.raises(DataError, match=r"line 2: at=-.*; delete the line to draw its"):
        ValueStore(path, HEADER)


def test_two_processes_do_not_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "values.jsonl"
    with (
        ValueStore(path, HEADER),
        pytest.raises(ConfigError, match="in use by another process"),
    ):
        ValueStore(path, HEADER)
    with ValueStore(path, HEADER):
        pass
