"""Laws of the file of samples: appended, mended at its end, judged again in place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.types import (
    Completion,
    FinishReason,
    Message,
    Outcome,
    Prompt,
    Reply,
    Verdict,
)
from dgpo_cli.evals.samples import SampleFile, item_of, sample_line, sample_of, verdict_fields
from dgpo_cli.rewards.answer import check_integer
from dgpo_cli.rewards.grader import grade_item

PROMPT = Prompt("p", (Message("user", "1+1?"),), "2", "test")
HARD = 'a "quote", a \\, a line\nand ,"outcome":"wrong" and \ud83d half a pair, é'


def line(index: int, *, text: str = HARD, ids: tuple[int, ...] = (5, 6, 1)) -> dict[str, Any]:
    completion = Completion(ids, (), text, "stop", 0, 100 + index)
    verdict = Verdict("wrong", '3 ,"outcome":', 0.0)
    made = sample_line(PROMPT, completion, verdict, index=index, temperature=0.7, checker="1")
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def filled(path: Path, count: int = 3) -> SampleFile:
    file = SampleFile(path / "samples.jsonl")
    file.append([line(0)])
    file.append([line(index) for index in range(1, count)])
    return file


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    file = filled(tmp_path)
    found = list(file.lines())
    assert found == [{**line(index), "token_ids": [5, 6, 1]} for index in range(3)]
    assert [sample_of(x).key for x in found] == [("p", 0), ("p", 1), ("p", 2)]
    assert file.path.read_bytes().count(b"\n") == 3
    assert list(SampleFile(tmp_path / "absent.jsonl").lines()) == []


def test_a_sample_holds_what_a_report_needs() -> None:
    sample = sample_of(json.loads(json.dumps({**line(4), "second": "correct"})))
    assert (sample.tokens, sample.answer, sample.checker, sample.second) == (3, "2", "1", "correct")
    assert sample.verdict == Verdict("wrong", '3 ,"outcome":', 0.0)


def test_fingerprints_are_equal_for_equal_tokens_only() -> None:
    def fingerprint(**named: Any) -> int:
        return sample_of({**line(0, **named)}).fingerprint

    assert fingerprint() == fingerprint(text="other")
    assert len({fingerprint(), fingerprint(ids=(5, 6)), fingerprint(ids=(6, 5, 1))}) == 3


@pytest.mark.parametrize("cut", [1, 2, 40, 10_000])
def test_only_an_unfinished_last_line_is_cut_off(tmp_path: Path, cut: int) -> None:
    file = filled(tmp_path)
    whole = file.path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    assert file.mend() == 0
    assert file.path.read_bytes() == whole
    kept = max(len(whole) - cut, last + 1)  # at least one byte of the last line
    file.path.write_bytes(whole[:kept])
    assert file.mend() == 1
    assert file.path.read_bytes() == whole[:last]
    assert file.mend() == 0


def test_a_line_longer_than_a_block_is_cut_off_whole(tmp_path: Path) -> None:
    file = filled(tmp_path)
    whole = file.path.read_bytes()
    with file.path.open("ab") as end:
        end.write(b'{"completion": "' + b"x" * 300_000)
    assert file.mend() == 1
    assert file.path.read_bytes() == whole


def test_a_torn_first_line_leaves_an_empty_file(tmp_path: Path) -> None:
    file = SampleFile(tmp_path / "samples.jsonl")
    assert file.mend() == 0
    file.path.write_bytes(b'{"a')
    assert file.mend() == 1
    assert file.path.read_bytes() == b""
    assert file.mend() == 0


def test_a_last_line_that_ends_but_is_no_json_is_cut_off(tmp_path: Path) -> None:
    file = filled(tmp_path)
    whole = file.path.read_bytes()
    file.path.write_bytes(whole + b"\0\0\0{]\n")
    assert file.mend() == 1
    assert file.path.read_bytes() == whole


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"outcome": "right"}, 'outcome="right": must be correct, wrong'),
        ({"second": "perhaps"}, 'second="perhaps": must be'),
        ({"version": 2}, "version=2: this dgpo reads version 1"),
        ({"index": "0"}, 'index="0": must be a whole number'),
        ({"token_ids": 5}, "token_ids=5: must be a list"),
        ({"index": 0}, "a second sample 0 of problem 'p'"),
        ({"finish_reason": "tired"}, "finish_reason"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, edit: dict[str, Any], said: str) -> None:
    file = filled(tmp_path, count=1)
    file.append([{**line(1), **edit}, line(2)])
    with pytest.raises(DataError, match=rf"samples\.jsonl:2: .*{said}.*--fresh"):
        list(file.lines())


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    file = filled(tmp_path, count=1)
    file.append([{key: value for key, value in line(1).items() if key != "checker"}])
    with pytest.raises(DataError, match=r"samples\.jsonl:2: the field checker is missing"):
        list(file.lines())


def test_judging_again_changes_verdicts_and_nothing_else(tmp_path: Path) -> None:
    file = filled(tmp_path)
    before = file.path.read_bytes().splitlines()
    tail = verdict_fields(
        Verdict("correct", "2", 1.0), checker="2", second="wrong", starts_in_thought=False
    )
    file.judge_again({1: tail})
    after = file.path.read_bytes().splitlines()
    assert (after[0], after[2]) == (before[0], before[2])
    now, then = json.loads(after[1]), json.loads(before[1])
    assert now.pop("digest") != then.pop("digest")
    assert now == {**then, **tail}
    assert after[1].startswith(before[1][:150])
    file.judge_again({1: tail})
    assert file.path.read_bytes().splitlines() == after


def test_a_line_in_another_order_is_judged_again_too(tmp_path: Path) -> None:
    file = filled(tmp_path, count=1)
    turned = dict(reversed(list(line(1).items())))
    file.append([turned])
    tail = verdict_fields(
        Verdict("correct", "2", 1.0), checker="2", second=None, starts_in_thought=True
    )
    file.judge_again({1: tail})
    assert list(file.lines())[1] == {**turned, **tail, "token_ids": [5, 6, 1]}


EDITS = {
    "answer": (b'"answer":"2"', b'"answer":"3"'),
    "prompt": (b"1+1?", b"1+2?"),
    "outcome": (b'"outcome":"wrong","ex', b'"outcome":"correct","ex'),
    "token": (b'"token_ids":[5,6,1]', b'"token_ids":[5,6,2]'),
    "finish reason": (b'"finish_reason":"stop"', b'"finish_reason":"length"'),
    "completion": (b"a line", b"a lime"),
    "digest": (b'"digest":"', b'"digest":"0'),
    "a blank": (b'"index":1', b'"index": 1'),
}


@pytest.mark.parametrize(("old", "new"), EDITS.values(), ids=EDITS)
def test_a_line_that_was_changed_is_noticed(tmp_path: Path, old: bytes, new: bytes) -> None:
    file = filled(tmp_path)
    lines = file.path.read_bytes().splitlines(keepends=True)
    changed = new.join(lines[1].rsplit(old, 1))
    assert changed != lines[1]
    file.path.write_bytes(b"".join([lines[0], changed, lines[2]]))
    said = r"samples\.jsonl:2: sample 1 of problem 'p' was changed since it was written; delete"
    with pytest.raises(DataError, match=said):
        list(file.lines())
    numbers: set[int] = set()
    assert len(list(file.lines(changed=numbers))) == 3
    assert numbers == {2}
    file.path.write_bytes(b"".join([lines[0], lines[2]]))
    assert [found["index"] for found in file.lines()] == [0, 2]


def test_a_line_that_is_judged_again_is_whole_again(tmp_path: Path) -> None:
    file = filled(tmp_path)
    file.path.write_bytes(file.path.read_bytes().replace(b'"answer":"2"', b'"answer":"3"', 1))
    tail = verdict_fields(
        Verdict("wrong", "2", 0.0), checker="2", second=None, starts_in_thought=None
    )
    file.judge_again({0: tail})
    assert next(iter(file.lines()))["answer"] == "3"


def test_lines_of_an_earlier_version_have_no_digest_and_are_read(tmp_path: Path) -> None:
    file = SampleFile(tmp_path / "samples.jsonl")
    file.path.write_text(json.dumps(line(0)) + "\n")
    assert [found["index"] for found in file.lines()] == [0]


def test_nothing_to_change_does_not_touch_the_file(tmp_path: Path) -> None:
    file = filled(tmp_path)
    inode = file.path.stat().st_ino
    file.judge_again({})
    assert file.path.stat().st_ino == inode


def test_only_finished_lines_are_counted(tmp_path: Path) -> None:
    file = SampleFile(tmp_path / "samples.jsonl")
    assert file.count() == 0
    file.path.write_bytes(b'{"a":1}\n{"b":2}\n{"c"')
    assert file.count() == 2


@pytest.mark.parametrize(
    ("reasoning", "content", "reason", "outcome"),
    [
        ("so \\boxed{2}", "It is \\boxed{3}.", "stop", "wrong"),
        ("so \\boxed{3}", "It is \\boxed{2}.", "stop", "correct"),
        ("so \\boxed{2}", "", "stop", "no_answer"),
        ("so \\boxed{2}", "", "length", "truncated"),
        ("so \\boxed{2}</think>", "I cannot tell.", "stop", "no_answer"),
        (None, "<think>\\boxed{3}</think>\\boxed{2}", "stop", "correct"),
    ],
)
def test_reasoning_in_a_field_of_its_own_is_kept_and_never_judged(
    reasoning: str | None, content: str, reason: FinishReason, outcome: Outcome
) -> None:
    reply = Reply((), (), content, reason, 0, 1, reasoning=reasoning)
    verdict = Verdict(outcome, None, 0.0)
    kept = sample_line(PROMPT, reply, verdict, index=0, temperature=1.0, checker="2")
    assert kept.get("reasoning") == reasoning
    for item in (grade_item(PROMPT, reply), item_of(json.loads(json.dumps(kept)))):
        said = check_integer(item.gold, item.judged, finish_reason=reason, where="boxed")
        assert said[0] == outcome
