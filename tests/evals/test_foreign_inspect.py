"""Logs of inspect_ai: every form of one says the same, and what is broken is named in one line."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dgpo_cli.core.errors import DataError
from dgpo_cli.core.formats import Turn
from dgpo_cli.evals.foreign import archive
from dgpo_cli.evals.foreign.log import ForeignLog, ForeignSample
from dgpo_cli.evals.foreign.read import read_log
from tests.evals import foreign_logs as logs


def read(path: Path) -> ForeignLog:
    found = read_log(path)
    assert found is not None
    return found


def log_of(tmp_path: Path, *samples: logs.Json, **changes: Any) -> ForeignLog:
    return read(logs.as_json(tmp_path / "log.json", samples, **changes))


def only(tmp_path: Path, **changes: Any) -> ForeignSample:
    return log_of(tmp_path, logs.sample(**changes)).problems[0].samples[0]


def test_one_log_says_the_same_in_every_form(tmp_path: Path) -> None:
    four = logs.four()
    found = [
        read(logs.as_json(tmp_path / "a.json", four)),
        read(logs.as_zip(tmp_path / "b.eval", logs.entries_of(four))),
        read(logs.as_zstd(tmp_path / "c.eval", logs.entries_of(four))),
        read(logs.as_zstd(tmp_path / "d.eval", logs.chunked(four))),
        read(logs.as_zip(tmp_path / "e.zip", logs.chunked(four))),
    ]
    bare = [replace(each, file="", sha256="") for each in found]
    assert all(each == bare[0] for each in bare) and len({each.sha256 for each in found}) == 5
    log = bare[0]
    assert (log.program, log.version, log.task) == ("inspect_ai", "0.3.160", "evals/aime2025")
    assert (log.model, log.dataset, log.scorer) == ("openai/some-model", "math-ai/aime25", "match")
    assert log.scores == {"match accuracy": 0.5} and log.notes == () and log.k == 2
    assert [problem.id for problem in log.problems] == ["1", "2"]  # as numbers, not as they came
    first, second = log.problems
    assert first.messages == (Turn("system", logs.SYSTEM), Turn("user", "What is 1?"))
    assert (first.gold, second.gold) == ("70", "588")
    assert [each.text for each in second.samples] == [r"\boxed{8}", r"\boxed{588}"]
    assert [each.outcome for each in first.samples] == ["wrong", "wrong"]
    assert first.samples[0] == ForeignSample(
        text=r"\boxed{70}", tokens=7, prompt_tokens=42, outcome="wrong", answer="7"
    )


def test_what_a_log_says_of_sampling_is_kept_and_nothing_is_made_up(tmp_path: Path) -> None:
    log = log_of(tmp_path, logs.sample())
    assert log.sampling == {
        "temperature": 0.5,
        "max_completion_tokens": 4096,
        "system": logs.SYSTEM,
        "template": "{prompt}\n\nBox it.",
    }


def test_reasoning_has_a_place_of_its_own(tmp_path: Path) -> None:
    parts = [
        {"type": "reasoning", "reasoning": r"is it \boxed{1}?", "signature": "s"},
        {"type": "reasoning", "reasoning": "ENCRYPTED", "redacted": True, "summary": "in short"},
        {"type": "text", "text": r"It is \boxed{70}."},
        {"type": "image", "image": "x"},
        {"type": "text", "text": "Done."},
    ]
    found = only(tmp_path, text=parts)
    assert found.text == "It is \\boxed{70}.\nDone."
    assert found.reasoning == "is it \\boxed{1}?\nin short"


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        ("C", "correct"),
        ("I", "wrong"),
        ("P", "wrong"),
        ("N", "no_answer"),
        (1, "correct"),
        (0.0, "wrong"),
        (0.5, "wrong"),
        (True, "correct"),
        ("yes", "correct"),
        ("0", "wrong"),
        (math.nan, None),
        (7, None),
        ("great", None),
        ({"a": 1}, None),
        ([1, 0], None),
        (None, None),
    ],
)
def test_a_score_is_read_as_a_verdict_where_it_is_one(
    tmp_path: Path, value: Any, outcome: str | None
) -> None:
    log = log_of(tmp_path, logs.sample(score=value))
    assert log.problems[0].samples[0].outcome == outcome
    notes = {"P": "1 samples have partial credit", 0.5: "1 samples have partial credit"}
    if isinstance(value, str | float) and value in notes:
        assert notes[value] in log.notes[0]
    elif outcome is None:
        assert log.notes == ("1 samples have no verdict of match",)


@pytest.mark.parametrize(
    ("changes", "reason", "word"),
    [
        ({"stop_reason": "stop"}, "stop", None),
        ({"stop_reason": "max_tokens"}, "length", None),
        ({"stop_reason": "model_length"}, "length", None),
        ({"stop_reason": "length"}, "length", None),
        ({"stop_reason": "content_filter"}, "stop", "content_filter"),
        ({"limit": {"type": "token", "limit": 9.0}}, "length", "token limit"),
        ({"limit": {"type": "time", "limit": 9.0}}, "stop", "time limit"),
    ],
)
def test_the_end_of_a_completion_is_told(
    tmp_path: Path, changes: dict[str, Any], reason: str, word: str | None
) -> None:
    found = only(tmp_path, **changes)
    assert (found.finish_reason, found.finish) == (reason, word)


def test_samples_that_failed_are_left_out_and_counted(tmp_path: Path) -> None:
    failed = logs.sample(
        1, epoch=2, output={"choices": [], "completion": ""}, error={"message": "x"}
    )
    lone = logs.sample(3, output={"choices": []})
    log = log_of(tmp_path, logs.sample(1), failed, logs.sample(1, epoch=3), lone, status="error")
    assert [(problem.id, len(problem.samples)) for problem in log.problems] == [("1", 2)]
    assert log.notes[0].startswith("its status is 'error'")
    assert log.notes[1] == "2 samples have no output (they failed) and are left out"


def test_a_sample_that_was_logged_twice_counts_once(tmp_path: Path) -> None:
    again = logs.sample(1, text=r"\boxed{7}")
    log = log_of(tmp_path, logs.sample(1), again)
    assert [each.text for each in log.problems[0].samples] == [r"\boxed{7}"]


def test_other_scorers_and_answers_are_mentioned(tmp_path: Path) -> None:
    scores = {"other": {"value": "C"}, "match": {"value": "I"}}
    log = log_of(tmp_path, logs.sample(target=["70", "seventy"], scores=scores))
    assert log.problems[0].gold == "70" and log.problems[0].samples[0].outcome == "wrong"
    assert log.notes == (
        "1 problems accept several answers; the first of each counts",
        "its verdicts are those of match; it also has other",
    )


def test_a_log_that_was_stopped_is_read_from_its_journal(tmp_path: Path) -> None:
    entries = logs.entries_of(logs.four())
    del entries["header.json"]
    log = read(logs.as_zip(tmp_path / "a.eval", entries))
    assert (log.scorer, len(log.problems), log.scores) == ("match", 2, {})


def test_early_logs_are_read(tmp_path: Path) -> None:
    """Version 1, a score without a name, reasoning beside the content, text by reference."""
    old = logs.sample(text="tc://h", attachments={"h": r"\boxed{70}"})
    old["score"] = old.pop("scores")["match"]
    old["output"]["choices"][0]["message"]["reasoning"] = "hm"
    data = logs.header(version=1, results=None) | {"samples": [old]}
    (tmp_path / "a.json").write_text(json.dumps(data))
    [found] = read(tmp_path / "a.json").problems[0].samples
    assert (found.text, found.reasoning, found.outcome) == (r"\boxed{70}", "hm", "correct")


def zipped(tmp_path: Path, change: Any = None) -> Path:
    entries = logs.entries_of(logs.four())
    if change is not None:
        change(entries)
    return logs.as_zip(tmp_path / "a.eval", entries)


def refused(path: Path) -> str:
    with pytest.raises(DataError) as told:
        read_log(path)
    assert str(told.value).startswith(str(path)) and "\n" not in str(told.value)
    return str(told.value)


def test_a_zip_bomb_stops_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for write in (logs.as_zip, logs.as_zstd):
        path = write(tmp_path / "bomb.eval", {"header.json": "0" * 10**7})
        assert path.stat().st_size < 20_000
        with monkeypatch.context() as limits:
            limits.setattr(archive, "MOST_ENTRY", 10**6)
            assert "unpacks to more than" in refused(path)
        with monkeypatch.context() as limits:
            limits.setattr(archive, "MOST_ALL", 10**6)
            assert "unpacks to more than" in refused(path)
    many = logs.as_zip(tmp_path / "many.eval", {str(at): 0 for at in range(30)})
    monkeypatch.setattr(archive, "MOST_ENTRIES", 20)
    assert "has more than 20 entries" in refused(many)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: e["header.json"].update(version=3), "version 3 of inspect_ai's log"),
        (lambda e: e["header.json"].update(version="2"), "version '2' of inspect_ai's log"),
        (lambda e: e["header.json"].pop("version"), "version"),
        (lambda e: e["header.json"]["eval"].pop("model"), "eval.model"),
        (lambda e: e["header.json"]["eval"].update(task=5), "eval.task"),
        (lambda e: e["header.json"].update(plan=[1]), "plan"),
        (lambda e: (e.pop("header.json"), e.pop("_journal/start.json")), "has no _journal/start"),
        (lambda e: e["samples/1_epoch_1.json"].pop("epoch"), "samples/1_epoch_1.json: "),
        (lambda e: e["samples/1_epoch_1.json"].update(output=[1]), "output"),
        (lambda e: e["samples/1_epoch_1.json"].update(scores={"match": 1}), "scores.match"),
        (lambda e: e.update({"samples/1_epoch_1.json": [1]}), "not a JSON object"),
        (lambda e: [e.pop(name) for name in list(e) if "samples/" in name], "has no samples"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, change: Any, words: str) -> None:
    assert words in refused(zipped(tmp_path, change))


def test_damage_is_told(tmp_path: Path) -> None:
    whole = zipped(tmp_path).read_bytes()
    inside = whole.index(b"samples/1_epoch_1.json") + 60
    packed = logs.as_zstd(tmp_path / "z.eval", logs.entries_of(logs.four())).read_bytes()
    at = packed.rindex(b"\x28\xb5\x2f\xfd")  # a frame of header.json, the last entry
    local = packed.rindex(b"PK\x03\x04")
    damaged = {
        "cut": whole[:-30],
        "empty": b"",
        "text": b"PK\x03\x04 and nothing more",
        "flipped": whole[:inside] + bytes([whole[inside] ^ 255]) + whole[inside + 1 :],
        "frame": packed[: at + 9] + bytes([packed[at + 9] ^ 255]) + packed[at + 10 :],
        "offset": packed[:local] + b"PK\x00\x00" + packed[local + 4 :],
    }
    for name, data in damaged.items():
        path = tmp_path / f"{name}.eval"
        path.write_bytes(data)
        assert "damaged" in refused(path), name
    method = bytearray(whole)  # 98 is PPMd, which no zipfile reads
    method[whole.rindex(b"PK\x03\x04") + 8] = method[whole.rindex(b"PK\x01\x02") + 10] = 98
    (tmp_path / "method.eval").write_bytes(bytes(method))
    assert "not readable" in refused(tmp_path / "method.eval")
    (tmp_path / "deep.json").write_text("[" * 200_000)
    assert "nested too deep" in refused(tmp_path / "deep.json")
