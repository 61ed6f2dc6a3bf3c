"""The panel and the lines of an evaluation: true numbers, at any size, and nothing left behind."""

from __future__ import annotations

import math
import os
import pty
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Group

from dgpo_cli.core.events import Judged, Requests, phase, tell
from dgpo_cli.core.types import Interval
from dgpo_cli.live.bars import Bars
from dgpo_cli.live.evaluating.layout import Moment, panel
from dgpo_cli.live.evaluating.lines import EVERY_S, Pace, StatusLines, status_line
from dgpo_cli.live.state import Phase
from dgpo_cli.ui.ramp import DEPTHS
from tests.cli.helpers import environment, on_terminal
from tests.cli.terminal import Terminal
from tests.samples import HOSTILE, check_snapshot, printed

UNKNOWN = Interval(math.nan, math.nan)
NAMES = [f"2025-{part}-{at}" for part in ("I", "II") for at in range(1, 16)]
JUDGED = Judged(
    bench="aime2025",
    model="Qwen3-8B",
    k=32,
    done=375,
    total=960,
    problems={name: (at * 13 // 30, 13 if at < 15 else 12) for at, name in enumerate(NAMES)},
    outcomes={"correct": 150, "wrong": 120, "no_answer": 15, "truncated": 90},
    rounds=12,
    avg=0.401,
    rerun_95=Interval(0.352, 0.449),
    drawn=360,
    tokens=2_916_000,
    seconds=720.0,
)
PAID = replace(JUDGED, cost=2.5, max_cost=5.0)
SAMPLING = Phase("sampling", 12, 64, "completions", 6.0)
PACE = Pace(began=0.0, at=720.0)  # two seconds a sample
NOW = 740.0


def drawn(judged: Judged | None = JUDGED, *, width: int = 79, height: int = 22) -> list[str]:
    moment = Moment(judged, (SAMPLING,), PACE, NOW)
    lines = panel(moment, width=width, height=height, depth="none", ascii_only=False)
    return [line.plain for line in lines]


def line_of(lines: list[str], start: str) -> str:
    return next(line for line in lines if line.startswith(start))


def test_the_panel_has_score_interval_outcomes_speed_and_time_left() -> None:
    lines = drawn()
    assert "aime2025  Qwen3-8B" in lines[0] and "375/960 samples" in lines[0]
    assert "39%" in lines[1] and "19 min 10 s left" in lines[1]  # 585 at 2 s, 20 s ago
    assert "40.1%  95% interval over reruns 35.2 to 44.9  round 12 of 32" in line_of(
        lines, "Avg@12"
    )
    text = "\n".join(lines)
    for share in ("correct 40%", "wrong 32%", "no answer 4%", "truncated 24%"):
        assert share in text
    assert "4,050 tokens/s  2.00 s each  8,100 tokens a sample" in line_of(lines, "speed")
    assert "cost" not in text


def test_every_problem_has_its_count_where_there_is_room() -> None:
    text = "\n".join(drawn())
    for name, (correct, done) in JUDGED.problems.items():
        assert re.search(rf"{name} +[█▒]+ +{correct}/{done}\b", text), name


def test_the_bar_of_a_problem_is_correct_others_and_still_to_come() -> None:
    some = replace(JUDGED, problems={"p": (8, 16)}, k=32)
    (bar,) = re.findall(r"p ([█▒]{9,} +)  8/16", "\n".join(drawn(some)[6:]))
    assert bar.count("█") * 4 == pytest.approx(len(bar), abs=2)
    assert bar.count(" ") * 2 == pytest.approx(len(bar), abs=2)


def test_five_hundred_problems_are_a_cell_each() -> None:
    counts = {f"p{at}": ((0, 0), (0, 4), (2, 4), (4, 4))[at % 4] for at in range(500)}
    lines = drawn(replace(JUDGED, problems=counts, k=4))
    assert "a cell is a problem" in lines[-1]
    cells = "".join(lines[-9:-1])
    assert (cells.count("█"), cells.count("·"), cells.count("▄")) == (125, 125, 125)


def test_more_problems_than_cells_share_them() -> None:
    counts = {f"p{at}": (at % 2, 1) for at in range(12_000)}
    lines = drawn(replace(JUDGED, problems=counts, k=1))
    assert len(lines) <= 22
    (each,) = re.findall(r"a cell is (\d+) problems", lines[-1])
    assert int(each) * sum(line.count("▄") for line in lines) >= 12_000


def test_cost_is_shown_with_what_it_will_be_and_the_budget() -> None:
    cost = line_of(drawn(PAID), "cost")
    assert cost.split("  ")[-3:] == ["2.50 so far", "about 6.40 in all", "at most 5.00"]
    unknown = line_of(drawn(replace(PAID, cost=None)), "cost")
    assert "unknown" in unknown and "about" not in unknown


def test_requests_to_an_endpoint_are_shown_with_those_sent_again() -> None:
    def requests(found: Requests | None) -> list[str]:
        moment = Moment(JUDGED, (), PACE, NOW, found)
        lines = panel(moment, width=79, height=22, depth="none", ascii_only=False)
        return [line.plain for line in lines if line.plain.startswith("requests")]

    assert requests(None) == []
    assert requests(Requests(61, 64, 0)) == ["requests  61 in flight, at most 64"]
    (line,) = requests(Requests(8, 8, 1234))
    assert line.endswith("8 in flight, at most 8  1,234 sent again")


def test_before_the_first_round_no_score_is_claimed() -> None:
    early = replace(JUDGED, rounds=0, avg=math.nan, rerun_95=UNKNOWN, done=7, drawn=7)
    assert line_of(drawn(early), "Avg@k").endswith("after a sample of each of 30 problems")
    nothing = replace(early, done=0, drawn=0, tokens=0, seconds=0.0, outcomes={})
    assert "time left unknown" in drawn(nothing)[1]
    assert "unknown" in line_of(drawn(nothing), "speed")
    assert len(drawn(None)) == 1 and "sampling" in drawn(None)[0]
    (line,) = panel(Moment(None, (), PACE, NOW), width=9, height=3, depth="none", ascii_only=True)
    assert line.plain == "starting"


def test_the_time_left_is_known_from_the_first_sample_until_it_has_passed() -> None:
    assert PACE.left(JUDGED, now=720.0) == 585 * 2.0
    assert PACE.left(JUDGED, now=1000.0) == 585 * 2.0 - 280.0
    assert PACE.left(JUDGED, now=2000.0) is None
    assert PACE.left(replace(JUDGED, drawn=0), now=720.0) is None
    assert PACE.left(replace(JUDGED, done=960), now=720.0) == 0.0


counts = st.tuples(st.integers(0, 5), st.integers(0, 5)).map(lambda two: (min(two), max(two)))
ids = st.text(max_size=30) | st.sampled_from(HOSTILE)
judged = st.builds(
    lambda problems, text, rounds: replace(
        PAID, problems=problems, bench=text, model=text, k=5, rounds=rounds
    ),
    st.dictionaries(ids, counts, min_size=1, max_size=90),
    ids,
    st.integers(0, 5),
)


@settings(max_examples=60, deadline=None)
@given(judged, st.integers(1, 140), st.integers(1, 45), st.sampled_from(DEPTHS), st.booleans())
def test_no_line_is_wider_and_no_panel_higher_than_the_terminal(
    shown: Judged, width: int, height: int, depth: str, ascii_only: bool
) -> None:
    moment = Moment(shown, (SAMPLING, SAMPLING), PACE, NOW)
    lines = panel(moment, width=width, height=height, depth=depth, ascii_only=ascii_only)  # type: ignore[arg-type]
    assert 1 <= len(lines) <= height
    for line in lines:
        assert line.cell_len <= width
        assert not set(line.plain) & set("\x1b\n\r\x07\u202e")
        assert not ascii_only or line.plain.isascii()
        assert depth != "none" or not any(span.style for span in line.spans)


@pytest.mark.parametrize("size", [(79, 22), (119, 38), (69, 18)], ids=str)
def test_the_panel_looks_as_it_did(size: tuple[int, int]) -> None:
    moment = Moment(PAID, (SAMPLING,), PACE, NOW)
    lines = panel(moment, width=size[0], height=size[1], depth="none", ascii_only=False)
    for line in lines:
        line.end = "\n"
    check_snapshot(f"evaluating-{size[0]}x{size[1]}.txt", printed(Group(*lines), width=size[0] + 1))


FULL = (
    "aime2025 Qwen3-8B  375/960  Avg@12 40.1%, 35.2 to 44.9  19 min 10 s left  cost 2.50 of 5.00  "
    "truncated 24%  4,050 tokens/s"
)


def test_the_line_loses_whole_fields_until_it_fits() -> None:
    assert status_line(PAID, left=1150.0, width=1000) == FULL
    for width in range(30, 130):
        line = status_line(PAID, left=1150.0, width=width)
        assert len(line) <= width
        assert set(line.split("  ")) <= set(FULL.split("  "))
    evil = replace(PAID, bench="\x1b[2J", model="走る" * 40)
    assert cell_len(status_line(evil, left=None, width=40)) <= 40
    assert "\x1b" not in status_line(evil, left=None, width=400)


def test_a_line_comes_at_most_every_ten_seconds_and_never_twice() -> None:
    now = [100.0]
    lines = StatusLines(clock=lambda: now[0])
    said = []
    events = [replace(JUDGED, drawn=0, done=0)]
    events += [replace(JUDGED, drawn=n, done=n) for n in range(1, 200)]
    for event in events:
        said.append((now[0], lines.take(event, width=100)))
        now[0] += 1.5
    times = [at for at, line in said if line is not None]
    texts = [line for _, line in said if line is not None]
    assert times[0] >= 100.0 + EVERY_S
    assert min(b - a for a, b in pairwise(times)) >= EVERY_S
    assert 25 <= len(times) <= 30 and len(set(texts)) == len(texts)
    still = StatusLines(clock=lambda: now[0])
    stuck = replace(JUDGED, seconds=0.0)
    shown = []
    for _ in range(20):
        shown.append(still.take(stuck, width=60))
        now[0] += 0.0 if _ else 11.0
    assert sum(line is not None for line in shown) <= 1


def test_a_pipe_gets_lines_and_a_quiet_one_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgpo_cli.live.evaluating.lines.EVERY_S", 0.0)
    for quiet in (False, True):
        with Bars(with_status=not quiet) as bars:
            tell(bars, "a note")
            with phase(bars, "evaluation", total=960, unit="samples"):
                bars.on(replace(JUDGED, drawn=0))
                bars.on(JUDGED)
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("note: a note\n")
        assert ("375/960" in said.err) is not quiet


SCRIPT = """
import sys, time
from dataclasses import replace
from tests.live.test_evaluating import JUDGED
from dgpo_cli.core.events import phase, tell
from dgpo_cli.live.evaluating.panel import evaluating
with evaluating() as view:
    with phase(view, "evaluation", total=960, unit="samples") as advance:
        view.on(replace(JUDGED, done=0, drawn=0))
        tell(view, "a note [red]")
        time.sleep(0.4)
        view.on(JUDGED)
        print("from a library")
        time.sleep(0.4)
        view.on(replace(JUDGED, bench="other", done=0, drawn=0))
        time.sleep(0.4)
        if "wait" in sys.argv:
            sys.stdout.flush()
            time.sleep(60)
print("the report")
"""


def seen(output: str, *, columns: int, rows: int = 30) -> list[str]:
    terminal = Terminal(columns, rows)
    terminal.feed(output.replace("\n", "\r\n"))
    return terminal.shown()


def test_the_panel_is_gone_when_the_report_comes_and_what_was_said_stays() -> None:
    size = {"LINES": "30"}
    ended = on_terminal(sys.executable, "-c", SCRIPT, columns=90, env=size)
    assert "95% interval over reruns" in ended.out
    assert seen(ended.out, columns=90) == [
        "note: a note [red]",
        "from a library",
        "the report",
    ]


def test_a_narrow_terminal_gets_no_panel() -> None:
    ended = on_terminal(sys.executable, "-c", SCRIPT, columns=60, env={"LINES": "30"})
    assert "95% interval" not in ended.out and "evaluation" in ended.out
    assert ended.out.rstrip().endswith("the report")


def test_ctrl_c_leaves_a_clean_terminal() -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-c", SCRIPT, "wait"]
    env = environment(COLUMNS="90", LINES="30")
    process = subprocess.Popen(command, env=env, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    output, sent = b"", False
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            chunk = os.read(leader, 65536)
        except OSError:
            break
        if not chunk:
            break
        output += chunk
        if not sent and b"other" in output:
            process.send_signal(signal.SIGINT)
            sent = True
    assert process.wait(timeout=30) != 0
    os.close(leader)
    terminal = Terminal(90, 30)
    terminal.feed(output.decode())
    shown = terminal.shown()
    assert terminal.modes == {"7": True, "25": True, "2026": False}
    assert "KeyboardInterrupt" in "\n".join(shown)
    assert not any(line.startswith("outcome") for line in shown)
