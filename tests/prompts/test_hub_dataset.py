"""A split of a dataset of the hub: which files, at which commit, and what becomes of its rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgpo_cli.core.errors import BackendError, ConfigError, DataError
from dgpo_cli.core.formats import Position
from dgpo_cli.core.types import Message
from dgpo_cli.prompts.datasets import open_prompts
from dgpo_cli.prompts.hub_dataset import choose_files, is_commit, resolve_revision
from dgpo_cli.prompts.settings import FilePrompts, HubPrompts
from tests.hub.hub_server import Hub, serving
from tests.hub.test_hub import REVISION, cache

__all__ = ["cache"]  # a fixture of the tests here

DATASET = "someone/some-data"


def dapo_parquet(folder: Path, rows: list[tuple[str, str]]) -> bytes:
    """A file with the columns of DAPO-Math-17k."""
    records = [
        {
            "data_source": "math_dapo",
            "prompt": [{"content": problem, "role": "user"}],
            "ability": "MATH",
            "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": f"{number:036d}"},
        }
        for number, (problem, answer) in enumerate(rows)
    ]
    path = folder / "written.parquet"
    pq.write_table(pa.Table.from_pylist(records), path, row_group_size=3)
    return path.read_bytes()


def lines(*problems: int) -> bytes:
    return "".join(f'{{"problem": "{n}+1?", "answer": {n + 1}}}\n' for n in problems).encode()


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    files = {
        "README.md": b"hello",
        "data/train-00000-of-00002.jsonl": lines(1, 2, 3),
        "data/train-00001-of-00002.jsonl": lines(3, 4),
        "data/test-00000-of-00001.jsonl": lines(9),
    }
    with serving(Hub(DATASET, REVISION, files)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def settings(**fields: Any) -> HubPrompts:
    return HubPrompts(dataset=DATASET, **fields)


# ---------------------------------------------------------------- reading


def test_all_shards_of_a_split_are_read_in_their_order_and_no_other_file(hub: Hub) -> None:
    stream = open_prompts(settings(revision=REVISION), seed=0)
    assert stream.prompts is not None
    assert [(p.id, p.text, p.answer) for p in stream.prompts] == [
        ("train-00000-of-00002:1", "1+1?", "2"),
        ("train-00000-of-00002:2", "2+1?", "3"),
        ("train-00000-of-00002:3", "3+1?", "4"),
        ("train-00001-of-00002:2", "4+1?", "5"),
    ]
    source = f"{DATASET} at {REVISION[:8]}"
    assert stream.notes == (f"{source}: 5 rows, 4 problems: duplicates left out",)
    assert {p.source for p in stream.prompts} == {source}
    assert not any("test-0" in path or "README" in path for _, path, _ in hub.requests)


def test_the_same_rows_are_the_same_run_from_the_hub_and_from_a_file(
    hub: Hub, tmp_path: Path
) -> None:
    hub.files = {"data.jsonl": lines(*range(9))}
    (tmp_path / "data.jsonl").write_bytes(lines(*range(9)))
    own = open_prompts(FilePrompts(path=str(tmp_path / "data.jsonl")), seed=4)
    theirs = open_prompts(settings(revision=REVISION), seed=4)
    assert own.digest() == theirs.digest()
    at = Position(draws=3, prompts=6)
    taken = [[p.id for p in stream.take(at, count=7)] for stream in (own, theirs)]
    assert taken[0] == taken[1]


def test_the_layout_of_dapo_math_is_read_with_the_columns_of_the_presets(
    hub: Hub, tmp_path: Path
) -> None:
    instruction = "Solve the problem.\n\n{}\n\nRemember the line Answer: $Answer"
    problems = [(instruction.format(f"What is {n} + 1?"), str(n + 1)) for n in range(5)]
    hub.files = {"data/dapo-math-17k.parquet": dapo_parquet(tmp_path, problems * 3)}
    columns = {"problem_column": "prompt", "answer_column": "reward_model.ground_truth"}
    stream = open_prompts(settings(**columns), seed=0)
    assert stream.prompts is not None
    assert [(p.id, p.messages, p.answer) for p in stream.prompts] == [
        (f"dapo-math-17k:{n + 1}", (Message("user", text),), answer)
        for n, (text, answer) in enumerate(problems)
    ]
    assert "15 rows, 5 problems: duplicates left out" in stream.notes[-1]


def test_an_item_of_a_list_can_be_named(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"data.parquet": dapo_parquet(tmp_path, [("1+1?", "2")])}
    columns = {"problem_column": "prompt.0.content", "answer_column": "reward_model.ground_truth"}
    stream = open_prompts(settings(revision=REVISION, **columns), seed=0)
    assert stream.prompts is not None
    assert stream.prompts[0].messages == (Message("user", "1+1?"),)
    beyond = {**columns, "problem_column": "prompt.1.content"}
    with pytest.raises(DataError, match=r"no field 'prompt\.1\.content'"):
        open_prompts(settings(revision=REVISION, **beyond), seed=0)


# ---------------------------------------------------------------- the commit


def test_no_revision_and_a_branch_become_the_commit_and_a_commit_stays(hub: Hub) -> None:
    hub.branches = ("v2",)
    for name in (None, "main", "v2"):
        commit, (note,) = resolve_revision(DATASET, name)
        assert commit == REVISION
        assert note.startswith(f"{DATASET}: {name or 'main'} is commit {REVISION}")
    asked = len(hub.requests)
    assert resolve_revision(DATASET, "f" * 40) == ("f" * 40, ())
    assert len(hub.requests) == asked
    assert [is_commit(x) for x in ("f" * 40, "f" * 39, "F" * 40, "main", None)] == [
        True, *[False] * 4
    ]  # fmt: skip


def test_an_unknown_branch_is_explained(hub: Hub) -> None:
    with pytest.raises(BackendError, match=r"someone/some-data at v9 does not exist.*prompts\.rev"):
        resolve_revision(DATASET, "v9")


def test_the_cache_serves_without_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with_hub = open_prompts(settings(), seed=0)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens on discard
    for revision in (None, REVISION):
        without = open_prompts(settings(revision=revision), seed=0)
        assert without.prompts == with_hub.prompts
        assert any("the hub does not answer" in note for note in without.notes)
    with pytest.raises(BackendError, match=r"set prompts\.kind=file prompts\.path=FILE"):
        open_prompts(settings(revision="0" * 40), seed=0)


def test_a_damaged_shard_is_fetched_again_and_never_read(hub: Hub) -> None:
    hub.wrong = 1
    stream = open_prompts(settings(revision=REVISION), seed=0)
    assert len(stream.prompts or ()) == 4
    assert any("was damaged" in note for note in stream.notes)
    hub.wrong, hub.files = 9, {"data.jsonl": lines(1)}
    with pytest.raises(DataError, match=r"is damaged.*set prompts\.kind=file"):
        open_prompts(settings(revision=REVISION), seed=0)


# ---------------------------------------------------------------- which files

SHARDS = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        ([*reversed(SHARDS), "data/test-00000-of-00001.parquet"], "train", SHARDS),
        (["dapo-math-17k.parquet", "README.md"], "train", ["dapo-math-17k.parquet"]),
        (["b.csv", "a.csv", "dataset_infos.json"], "train", ["a.csv", "b.csv"]),
        (["my_train_file.csv", "strain.csv"], "train", ["my_train_file.csv"]),
        (["train1.jsonl", "eval.jsonl"], "train", ["train1.jsonl"]),
        (["training/x.json", "dev/x.json"], "train", ["training/x.json"]),
        (["training/x.json", "dev/x.json"], "validation", ["dev/x.json"]),
        (["x-hard.jsonl", "x-easy.jsonl"], "hard", ["x-hard.jsonl"]),
        (["Train.PARQUET"], "train", ["Train.PARQUET"]),
    ],
)
def test_the_files_of_a_split(names: list[str], split: str, expected: list[str]) -> None:
    assert choose_files(names, split=split, pattern=None) == (tuple(expected), ())


def test_a_pattern_decides_alone() -> None:
    names = ["en/train-0.parquet", "all/train-0.parquet", "en/test-0.parquet"]
    chosen, _ = choose_files(names, split="train", pattern="en/*")
    assert chosen == ("en/test-0.parquet", "en/train-0.parquet")


def test_the_same_data_in_two_formats_is_read_once() -> None:
    chosen, (note,) = choose_files(["train.csv", "train.parquet"], split="train", pattern=None)
    assert chosen == ("train.parquet",)
    assert note == "of 2 data files the 1 in parquet are read"


@pytest.mark.parametrize(
    ("names", "split", "pattern", "message"),
    [
        (["all/train-0.parquet", "en/train-0.parquet"], "train", None, r"files='all/\*'"),
        (["test.jsonl"], "train", None, r"no data file is named after it; .* has test\.jsonl"),
        (["a.jsonl"], "test", None, r"prompts\.split='test'"),
        (["a.jsonl"], "train", "b*", r"prompts\.files='b\*': fits no data file"),
        (["README.md"], "train", None, r"has none that dgpo reads"),
    ],
)
def test_what_is_not_clear_is_refused(
    names: list[str], split: str, pattern: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_files(names, split=split, pattern=pattern)


def test_a_dataset_of_json_has_the_problems_of_its_list(hub: Hub) -> None:
    hub.files = {"train.json": json.dumps([{"problem": "1+1?", "answer": 2}]).encode()}
    stream = open_prompts(settings(revision=REVISION), seed=0)
    assert len(stream.prompts or ()) == 1
