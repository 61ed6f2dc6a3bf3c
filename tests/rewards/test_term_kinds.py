"""Laws of the terms that look at form, length and repetition, and of the one that asks a server."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import ValidationError

from dgpo_cli.config.load import resolve
from dgpo_cli.core.errors import ConfigError
from dgpo_cli.core.types import Message, Verdict
from dgpo_cli.rewards.grader import Grader
from dgpo_cli.rewards.item import GradeItem
from dgpo_cli.rewards.settings import TermsReward
from dgpo_cli.rewards.terms import http
from dgpo_cli.rewards.terms.shape import FormatTerm, LengthTerm, RepetitionTerm


def item(text: str = "", *, tokens: int = 0, gold: str = "", **fields: Any) -> GradeItem:
    return GradeItem(gold, text, token_ids=tuple(range(tokens)), **fields)


def grade(items: list[GradeItem], *terms: dict[str, Any], limit: int = 0) -> list[Verdict]:
    settings = TermsReward.model_validate({"terms": terms, "workers": 1, "timeout_s": 1.0})
    with Grader(settings, limit=limit) as grader:
        return grader.grade(items)


def test_a_pattern_is_looked_for_in_the_whole_turn_and_sees_line_breaks() -> None:
    pattern = r"^<think>.*</think>\s*\S"
    items = [
        item("<think>a\nb</think> 7"),
        item("a</think> 7", starts_in_thought=True),  # its prompt opened the thought
        item("b</think> 7", prefix="<think>"),
        item("so 7"),
        item("<think>a</think>"),
    ]
    found = grade(items, {"kind": "format", "pattern": pattern})
    assert [verdict.reward for verdict in found] == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert {verdict.outcome for verdict in found} == {"scored"}


def test_a_pattern_that_takes_for_ever_leaves_its_completion_unscored() -> None:
    found = grade([item("a" * 40 + "!"), item("aa")], {"kind": "format", "pattern": r"^(a+)+$"})
    assert found[0].outcome == "timeout" and math.isnan(found[0].reward)
    assert found[0].note == "format: the pattern took longer than 1 s"
    assert found[1].reward == 1.0


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="is not a regular expression: missing \\)"):
        FormatTerm(pattern="(a")


@pytest.mark.parametrize(
    ("tokens", "value"), [(1, 0.0), (80, 0.0), (90, -0.5), (100, -1.0), (120, -1.0)]
)
def test_the_overlong_penalty_is_that_of_dapo(tokens: int, value: float) -> None:
    assert LengthTerm(limit=100).value(item(tokens=tokens), limit=100) == pytest.approx(value)


def test_the_cosine_goes_from_its_short_to_its_long_value() -> None:
    # Demystifying Long CoT (arXiv 2502.03373), equation 2, with its own values.
    term = LengthTerm(
        shape="cosine", correct_short=2, correct_long=1, wrong_short=-10, wrong_long=0, cut=-10
    )

    def formula(t: float, full: float, low: float, high: float) -> float:
        return low + 0.5 * (high - low) * (1 + math.cos(t * math.pi / full))

    for tokens in (1, 30, 50, 99, 100):
        right = term.value(item(tokens=tokens, outcome="correct"), limit=100)
        wrong = term.value(item(tokens=tokens, outcome="wrong"), limit=100)
        assert right == pytest.approx(formula(tokens, 100, 1, 2))
        assert wrong == pytest.approx(formula(tokens, 100, 0, -10))
    assert term.value(item(tokens=100, finish_reason="length"), limit=100) == -10


def test_a_length_without_a_limit_or_tokens_does_not_apply() -> None:
    assert math.isnan(LengthTerm().value(item(tokens=5), limit=0))
    assert math.isnan(LengthTerm().value(item("text"), limit=100))


def test_a_cosine_knows_what_another_term_judged_wherever_it_stands() -> None:
    terms = (
        {"kind": "length", "shape": "cosine", "correct_short": 2.0, "wrong_short": -2.0},
        {"kind": "integer", "weight": 10.0},
    )
    items = [item(rf"\boxed{{{n}}}", tokens=50, gold="7") for n in (7, 8)]
    found = grade(items, *terms, limit=100)
    assert [v.outcome for v in found] == ["correct", "wrong"]
    assert [v.reward for v in found] == [pytest.approx(11.0), pytest.approx(-1.0)]
    assert [dict(v.terms) for v in found] == [
        {"length": pytest.approx(1.0), "integer": 1.0},
        {"length": pytest.approx(-1.0), "integer": 0.0},
    ]


def test_repetition_is_minus_the_share_of_sequences_that_stood_before() -> None:
    term = RepetitionTerm(ngram=2)
    assert term.value(GradeItem("", "", token_ids=(1, 2, 3, 4))) == 0.0
    assert term.value(GradeItem("", "", token_ids=(1, 2, 1, 2, 1))) == pytest.approx(-0.5)
    assert term.value(GradeItem("", "a b a b a")) == pytest.approx(-0.5)
    assert term.value(GradeItem("", "", token_ids=(1,))) == 0.0


Answer = Callable[[dict[str, Any], int], tuple[int, Any]]


class Judge:
    """A server that answers by a function of the request and its number."""

    def __init__(self, answer: Answer) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        judge, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    judge.asked.append(body)
                    judge.keys.append(self.headers.get("Authorization"))
                    number = len(judge.asked)
                status, given = answer(body, number)
                data = given if isinstance(given, bytes) else json.dumps(given).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/score"


@pytest.fixture
def judging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], Judge]]:
    monkeypatch.setattr(http, "_FIRST_PAUSE_S", 0.01)
    judges: list[Judge] = []

    def start(answer: Answer) -> Judge:
        judges.append(Judge(answer))
        return judges[-1]

    yield start
    for judge in judges:
        judge.server.shutdown()
        judge.server.server_close()


def by_length(body: dict[str, Any], _: int) -> tuple[int, Any]:
    return 200, {"scores": [float(len(each["text"])) for each in body["completions"]]}


def test_a_server_scores_in_order_and_gets_all_that_it_may_need(
    judging: Callable[[Answer], Judge],
) -> None:
    judge = judging(by_length)
    asked = (Message("user", "Why?"),)
    items = [
        GradeItem("g", "x" * n, "stop", prompt_id="p", token_ids=(1,) * n, messages=asked,
                  columns={"level": 3})
        for n in range(40)
    ]  # fmt: skip
    found = grade(items, {"kind": "http", "url": judge.url, "batch_size": 7})
    assert [verdict.reward for verdict in found] == [float(n) for n in range(40)]
    assert {v.outcome for v in found} == {"scored"}
    assert sorted(len(body["completions"]) for body in judge.asked) == [5, 7, 7, 7, 7, 7]
    sent = {each["text"]: each for body in judge.asked for each in body["completions"]}
    assert sent["xxx"] == {
        "prompt_id": "p", "messages": [{"role": "user", "content": "Why?"}], "text": "xxx",
        "tokens": 3, "finish_reason": "stop", "answer": "g", "columns": {"level": 3},
    }  # fmt: skip


def test_every_form_of_a_score_means_what_is_documented(
    judging: Callable[[Answer], Judge],
) -> None:
    forms = [
        2.5, True, False, None, {"score": 1, "outcome": "correct", "note": "fine"},
        "7", {"points": 1}, [1], {"score": 1, "outcome": "splendid"}, 1e300, {"error": "asleep"},
    ]  # fmt: skip
    judge = judging(lambda *_: (200, {"scores": forms}))
    term = {"kind": "http", "url": judge.url}
    found = grade([item(str(n)) for n in range(len(forms))], term, {"kind": "repetition"})
    assert [v.outcome for v in found] == [
        "scored", "correct", "wrong", "scored", "correct", *["error"] * 6,
    ]  # fmt: skip
    assert [v.reward for v in found[:5]] == [2.5, 1.0, 0.0, 0.0, 1.0]
    assert all(math.isnan(v.reward) and v.note for v in found[5:])
    assert (found[4].note, found[-1].note) == ("http: fine", "http: asleep")


def test_a_group_is_sent_as_a_whole(judging: Callable[[Answer], Judge]) -> None:
    judge = judging(by_length)
    items = [item("x" * n, group=n // 3) for n in range(9)]
    grade(items, {"kind": "http", "url": judge.url, "group": True, "batch_size": 2})
    texts = sorted([len(each["text"]) for each in body["completions"]] for body in judge.asked)
    assert texts == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_what_may_pass_is_tried_again(judging: Callable[[Answer], Judge]) -> None:
    judge = judging(lambda b, n: (503, {"busy": True}) if n < 3 else by_length(b, n))
    (found,) = grade([item("xx")], {"kind": "http", "url": judge.url})
    assert (found.reward, len(judge.asked)) == (2.0, 3)


@pytest.mark.parametrize(
    ("answer", "note", "tries"),
    [
        ((503, {"busy": 1}), 'answered 503: {"busy": 1} (3 tries)', 3),
        ((400, b"no such field\nand more"), "answered 400: no such field", 1),
        ((200, b"<html>"), "answered no scores: <html>", 1),
        ((200, {"scores": [1.0, 2.0]}), "answered 2 scores for 1 completions", 1),
        ((200, {"scores": "1"}), "answered no list of scores for 1 completions", 1),
    ],
)
def test_a_server_that_fails_leaves_completions_unscored_with_its_words(
    judging: Callable[[Answer], Judge], answer: tuple[int, Any], note: str, tries: int
) -> None:
    judge = judging(lambda *_: answer)
    (found,) = grade([item("x")], {"kind": "http", "url": judge.url, "retries": 2})
    assert found.outcome == "error" and math.isnan(found.reward)
    assert found.note == f"http: {judge.url} {note}"
    assert len(judge.asked) == tries


def test_a_server_that_is_not_there_and_one_that_is_late_are_told_apart(
    judging: Callable[[Answer], Judge],
) -> None:
    never = threading.Event()
    judge = judging(lambda *_: (200, {"scores": [float(never.wait(5))]}))
    term = {"kind": "http", "url": judge.url, "retries": 0}
    (late,) = grade([item("x")], {**term, "timeout_s": 0.2})
    never.set()
    assert late.outcome == "timeout"
    assert late.note == f"http: {judge.url}: no answer in timeout_s=0.2"
    (absent,) = grade([item("x")], {**term, "url": "http://127.0.0.1:9/score"})
    assert absent.outcome == "error" and "127.0.0.1:9" in str(absent.note)


def test_the_deadline_of_a_server_is_that_of_the_whole_answer() -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(60):  # a byte in time, always
                    self.wfile.write(b" ")
                    time.sleep(0.05)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/score"
        (late,) = grade([item("x")], {"kind": "http", "url": url, "retries": 0, "timeout_s": 0.2})
        server.shutdown()
    assert late.outcome == "timeout"
    assert late.note == f"http: {url}: no answer in timeout_s=0.2"


def test_a_key_is_sent_and_shown_nowhere(
    judging: Callable[[Answer], Judge], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = judging(lambda *_: (401, {"error": "no"}))
    term = {"kind": "http", "url": judge.url, "api_key_env": "JUDGE_KEY"}
    with pytest.raises(ConfigError, match="JUDGE_KEY is not set; the reward http names it"):
        grade([item("x")], term)
    monkeypatch.setenv("JUDGE_KEY", "secret-1")
    (found,) = grade([item("x")], term)
    assert judge.keys == ["Bearer secret-1"]
    assert "secret-1" not in str(found)


def test_a_list_whose_term_is_at_fault_is_not_called_empty() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(overrides=['reward.terms=[{kind = "format", pattern = "("}]'])
    (line,) = str(caught.value).splitlines()
    assert line.startswith("reward.terms.0.pattern: is not a regular expression")
    with pytest.raises(ConfigError, match="must not be empty"):
        resolve(overrides=['reward={kind = "terms", terms = []}'])


def test_an_address_has_a_host() -> None:
    with pytest.raises(ConfigError, match=r"reward.url=http:///score: has the wrong form"):
        resolve(overrides=["reward.kind=http", "reward.url=http:///score"])
