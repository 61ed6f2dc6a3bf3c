"""Laws of the comparison with the stored files itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.decode import plain
from tests.golden.stored import differences, read, write

METRICS = '{"step": 1, "loss/value": 0.5, "note": null}\n{"step": 2, "loss/value": 0.25}\n'


@pytest.mark.parametrize(
    ("now", "exact", "by_format"),
    [
        (METRICS, False, False),
        (METRICS.replace("0.5", "0.5000001"), True, False),
        (METRICS.replace("0.25", "0.7"), True, False),  # after the first step: another machine's
        (METRICS.replace("0.5", "0.6"), True, True),
        (METRICS.replace(": 0.5", ":0.5"), True, False),
        (METRICS.replace("value", "mean"), True, True),
        (METRICS.replace("0.5", '"half"'), True, True),
    ],
)
def test_bytes_count_on_the_same_machine_and_the_format_on_every_other(
    now: str, exact: bool, by_format: bool
) -> None:
    stored, found = {"metrics.jsonl": METRICS}, {"metrics.jsonl": now}
    assert bool(differences(stored, found, exact=True)) is exact
    assert bool(differences(stored, found, exact=False)) is by_format


@pytest.mark.parametrize("exact", [True, False])
def test_a_file_too_many_or_too_few_is_told(exact: bool) -> None:
    assert differences({"a.txt": "x"}, {"b.txt": "x"}, exact=exact) == [
        "a.txt: is not written any more",
        "b.txt: is new",
    ]


def test_words_around_numbers_are_the_format_of_a_text() -> None:
    stored = {"trainer.pt": ".step int 3\n.rng sha256:" + "a" * 64 + "\n"}
    other = {"trainer.pt": ".step int 40\n.rng sha256:" + "b" * 64 + "\n"}
    renamed = {"trainer.pt": other["trainer.pt"].replace("rng", "seed")}
    assert not differences(stored, other, exact=False)
    assert differences(stored, renamed, exact=False)


def test_what_is_stored_is_read_back_and_what_is_gone_is_removed(tmp_path: Path) -> None:
    texts = {"a/short.txt": "one\n", "long.txt": "many\n" * 1000}
    write("run", {**texts, "old.txt": "gone\n", "old-long.txt": "gone\n" * 1000}, files=tmp_path)
    write("run", texts, files=tmp_path)
    assert read("run", files=tmp_path) == texts
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["long.txt.gz", "short.txt"]


def test_only_what_no_two_runs_share_is_replaced(tmp_path: Path) -> None:
    line = '{"step": 3, "time/step_s": 0.31, "device": {"name": "cpu"}, "python": "3.11.7"}'
    assert plain(f"{line} {tmp_path}/run", work=tmp_path) == (
        '{"step": 3, "time/step_s": "<time/step_s>", "device": {"name": "cpu"}, '
        '"python": "<python>"} <work>/run'
    )
