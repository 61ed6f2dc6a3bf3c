"""Laws of the step line and the bars."""

from __future__ import annotations

import re
import sys

import pytest

from dgpo_cli.core.events import StepDone, phase, tell
from dgpo_cli.live.bars import Bars
from dgpo_cli.live.stepline import step_line
from tests.cli.helpers import ESCAPE, on_terminal, without_escapes

METRICS = {
    "reward/mean": 0.614,
    "outcome/correct": 0.61,
    "completion/length_mean": 38.21,
    "policy/entropy": 0.2099,
    "policy/hellinger_sq_mean": 0.0031,
    "credit/effective_fraction": 0.999,
    "loss/clip_frac": 0.001,
    "optim/grad_norm": 0.344,
    "time/step_s": 1.018,
    "throughput/tokens_per_s": 8123.0,
}
FULL = (
    "step  12/100  reward 0.61  correct 61%  len 38.2  entropy 0.21  d 3.1e-03  eff 0.999  "
    "clip 0.1%  |g| 0.34  1.02 s  8,120 tok/s"
)
DRAW = """
import sys, time
from dgpo_cli.live.bars import Bars
from dgpo_cli.core.events import StepDone, phase, tell
with Bars(steps=3) as bars:
    with phase(bars, "sample [red]", total=10, unit="completion") as advance:
        advance(4)
        tell(bars, "resumed [bold]")
        bars.on(StepDone(2, {"reward/mean": 0.5}))
        time.sleep(0.3)
print("result")
"""


def test_the_step_line_has_every_number() -> None:
    assert step_line(12, METRICS, total=100, width=1000) == FULL


def test_a_step_whose_completions_nobody_judged_has_no_share_of_correct_ones() -> None:
    scored = {**METRICS, "outcome/correct": 0.0, "outcome/scored": 0.75, "outcome/error": 0.25}
    assert "correct" not in step_line(12, scored, total=100, width=1000)
    some = {**scored, "outcome/error": 0.0, "outcome/wrong": 0.25}
    assert "correct 0%" in step_line(12, some, total=100, width=1000)


def test_a_distance_that_is_noise_is_marked_in_the_step_line() -> None:
    marked = METRICS | {"policy/hellinger_sq_is_noise": 1.0}
    shown = step_line(12, marked, total=100, width=1000)
    assert shown.replace(" (noise)", "") == FULL and re.search(r"  d \S+ \(noise\)  ", shown)
    clear = METRICS | {"policy/hellinger_sq_is_noise": 0.0}
    assert step_line(12, clear, total=100, width=1000) == FULL


def test_the_step_line_loses_whole_fields_until_it_fits() -> None:
    fields = FULL.split("  ")
    for width in range(20, 130):
        line = step_line(12, METRICS, total=100, width=width)
        assert len(line) <= width
        assert set(line.split("  ")) <= set(fields)
    assert step_line(12, METRICS, total=100, width=40) == "step  12/100  reward 0.61  1.02 s"


def test_a_missing_or_strange_metric_is_no_crash() -> None:
    assert step_line(3, {}, total=None, width=80) == "step 3"
    odd = {"reward/mean": float("nan"), "optim/grad_norm": float("inf"), "other": 1.0}
    assert step_line(3, odd, total=None, width=80) == "step 3  reward unknown  |g| inf"


def test_off_a_terminal_only_the_step_lines_appear(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars(steps=100) as bars:
        with phase(bars, "sample", total=10, unit="completion") as advance:
            advance(10)
        tell(bars, "resumed from x")
        bars.on(StepDone(12, METRICS))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"note: resumed from x\n{FULL}\n"


def test_a_terminal_sees_bars_that_are_gone_afterwards() -> None:
    ended = on_terminal(sys.executable, "-c", DRAW, columns=100)
    assert ESCAPE in ended.out
    plain = without_escapes(ended.out)
    assert "sample [red]" in plain and "4/10" in plain
    assert "train" in plain and "2/3" in plain
    assert "note: resumed [bold]" in plain
    assert plain.rstrip().endswith("result")


def test_bars_fit_a_narrow_terminal() -> None:
    ended = on_terminal(sys.executable, "-c", DRAW, columns=40)
    lines = without_escapes(ended.out).replace("\r", "\n").splitlines()
    assert any("4/10" in line for line in lines)
    assert max(map(len, lines)) <= 40


def test_a_terminal_that_cannot_move_its_cursor_gets_no_bars() -> None:
    ended = on_terminal(sys.executable, "-c", DRAW, env={"TERM": "dumb"})
    assert ended.out == "note: resumed [bold]\nstep 2/3  reward 0.50\nresult\n"


def test_the_terms_of_a_reward_follow_it_and_are_the_first_to_go() -> None:
    more = {"reward/steps_mean": 0.25, "reward/steps_std": 0.1, "reward/steps_decides": 0.5,
            "reward/judge_mean": -1.0, "reward/judge_decides": 0.5}  # fmt: skip
    shown = step_line(12, METRICS | more, total=100, width=1000)
    assert shown.replace("  steps 0.25  judge -1.00", "") == FULL
    narrow = step_line(12, METRICS | more, total=100, width=len(FULL) + 14)
    assert narrow.replace("  steps 0.25", "") == FULL and "judge" not in narrow
    assert step_line(12, METRICS | more, total=100, width=len(FULL)) == FULL


def test_the_step_line_says_that_completions_are_unscored_if_some_are() -> None:
    assert step_line(12, METRICS | {"reward/unscored": 0.0}, total=100, width=1000) == FULL
    shown = step_line(12, METRICS | {"reward/unscored": 0.08}, total=100, width=60)
    assert "  unscored 8%" in shown
