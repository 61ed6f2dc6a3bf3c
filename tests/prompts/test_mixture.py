"""Laws of mixtures: exact shares, epochs of their own, and a position that says what comes next."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo_cli.algo.summary import rollout_metrics
from dgpo_cli.config.checks import check_trainable
from dgpo_cli.config.dump import dump_toml
from dgpo_cli.config.load import resolve
from dgpo_cli.core.errors import ConfigError, DataError
from dgpo_cli.core.events import NOBODY
from dgpo_cli.core.formats import Position
from dgpo_cli.core.types import Completion, Message, Prompt, ScoredGroup, Verdict
from dgpo_cli.prompts.datasets import PromptStream, Turns, open_prompts
from dgpo_cli.train.data import open_training_prompts

weights = st.lists(st.sampled_from([0.1, 0.25, 1.0, 2.0, 3.0, 7.5]), min_size=1, max_size=5)


@given(weights, st.integers(0, 200))
def test_every_source_has_its_share_to_less_than_one_prompt(sizes: list[float], end: int) -> None:
    turns, whole = Turns(sizes), sum(Fraction(repr(size)) for size in sizes)
    counts = turns.before(end)
    assert sum(counts) == end
    for size, count in zip(sizes, counts, strict=True):
        assert abs(count - Fraction(repr(size)) / whole * end) < max(1, len(sizes) - 1)
    assert Counter(turns.between(0, end)) == Counter({i: n for i, n in enumerate(counts) if n})


@given(weights, st.integers(0, 60), st.integers(0, 60))
def test_turns_do_not_depend_on_what_was_asked_before(
    sizes: list[float], start: int, more: int
) -> None:
    again = Turns(sizes)
    whole = Turns(sizes).between(0, start + more)
    assert again.between(start, start + more) == whole[start:]
    assert again.before(start) == tuple(whole[:start].count(i) for i in range(len(sizes)))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, count in (("short", 3), ("long", 8)):
        rows = [{"problem": f"{name} {i}?", "answer": str(i)} for i in range(count)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    (tmp_path / "mine.toml").write_text(
        f"""
[prompts]
kind = "mixture"
template = "Solve: {{problem}}"
[[prompts.sources]]
kind = "file"
path = "{tmp_path}/short.jsonl"
[[prompts.sources]]
kind = "file"
path = "{tmp_path}/long.jsonl"
weight = 2
template = "{{problem}} Think."
[[prompts.sources]]
kind = "sums"
name = "made"
"""
    )
    return tmp_path


def opened(files: Path, *overrides: str) -> PromptStream:
    settings = resolve(config=files / "mine.toml", overrides=overrides).settings
    return open_prompts(settings.prompts, seed=0)


def test_each_source_has_its_epochs_and_its_template(files: Path) -> None:
    drawn = opened(files).take(Position(), count=48)
    by = {name: [p for p in drawn if p.part == name] for name in ("short", "long", "made")}
    assert [len(each) for each in by.values()] == [12, 24, 12]
    assert set(Counter(p.id for p in by["short"]).values()) == {4}
    assert set(Counter(p.id for p in by["long"]).values()) == {3}
    assert by["short"][0].text.startswith("Solve: short")
    assert by["long"][0].text.endswith("? Think.")
    assert all(p.id.startswith(f"{p.part}/") for p in drawn)


def test_a_draw_depends_on_the_position_alone(files: Path) -> None:
    stream, at, parts = opened(files), Position(), []
    for _ in range(5):
        parts.append([p.id for p in stream.take(at, count=7)])
        at = at.after(7)
    assert [p.id for p in opened(files).take(Position(4, 28), count=7)] == parts[4]
    assert opened(files).digest() == stream.digest()
    assert opened(files, "prompts.sources.0.weight=5").digest() == stream.digest()
    assert opened(files, "prompts.sources.0.name=other").digest() != stream.digest()


def test_what_does_not_fit_is_left_out_of_its_source(files: Path) -> None:
    kept = opened(files).keep(lambda p: " 2?" not in p.text, reason="odd")
    assert kept.notes == (
        "short: 1 of 3 problems are left out: odd",
        "long: 1 of 8 problems are left out: odd",
    )
    with pytest.raises(DataError, match=r"prompts\.sources\.short: .*all 3 problems are odd"):
        opened(files).keep(lambda p: p.part != "short", reason="odd")


def test_a_term_may_be_for_one_source(files: Path) -> None:
    own = ("reward.terms=[{kind = 'integer', sources = ['short', 'made']}]",)
    settings = resolve(config=files / "mine.toml", overrides=own).settings
    with pytest.raises(
        DataError, match=r"prompts\.sources\.long: no term of reward\.terms applies"
    ):
        open_training_prompts(settings, prompt_length=lambda _: 1, observer=NOBODY)
    both = (
        "reward.terms=[{kind = 'integer', sources = ['short', 'made']}, "
        "{kind = 'math', sources = ['long']}]",
    )
    settings = resolve(config=files / "mine.toml", overrides=both).settings
    open_training_prompts(settings, prompt_length=lambda _: 1, observer=NOBODY)


def test_a_term_for_a_source_that_is_not_there_is_refused(files: Path) -> None:
    own = ("reward.terms=[{kind = 'integer', sources = ['shorts']}]",)
    with pytest.raises(
        ConfigError, match=r"reward\.terms\.integer\.sources: shorts is not .* mean short\?"
    ):
        check_trainable(resolve(config=files / "mine.toml", overrides=own).settings)


def test_two_sources_of_one_name_are_refused(files: Path) -> None:
    with pytest.raises(ConfigError, match="two sources are named 'short'; set the name of one"):
        opened(files, "prompts.sources.2.name=short")


def test_a_mixture_is_written_and_read_again(files: Path, tmp_path: Path) -> None:
    resolved = resolve(config=files / "mine.toml")
    (tmp_path / "again.toml").write_text(dump_toml(resolved))
    assert resolve(config=tmp_path / "again.toml").settings == resolved.settings


def test_metrics_tell_the_sources_apart() -> None:
    def group(part: str, *rewards: float) -> ScoredGroup:
        prompt = Prompt(
            id=part, messages=(Message("user", "?"),), answer="1", source="x", part=part
        )
        completion = Completion((1,), (0.0,), "1", "stop", 0, 0)
        verdicts = tuple(Verdict("correct" if r == 1 else "wrong", None, r) for r in rewards)
        return ScoredGroup(
            prompt, (1,), (completion,) * len(rewards), verdicts, (0.0,) * len(rewards)
        )

    found = rollout_metrics([group("a", 1.0, 0.0), group("a", 1.0, 1.0), group("b", 0.0, 0.0)])
    assert found["source/a_groups"] == pytest.approx(2 / 3)
    assert (found["source/a_reward"], found["source/a_correct"]) == (0.75, 0.75)
    assert (found["source/b_reward"], found["source/b_correct"]) == (0.0, 0.0)
    alone = rollout_metrics([group("", 1.0)])
    assert not [name for name in alone if name.startswith("source/")]
