"""The panel shows true numbers at any size and depth, and sends nothing that it should not."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Group

from dgpo_cli.core.types import OUTCOMES, Diagnosis, Glimpse, Interval, Shown
from dgpo_cli.live.layout import DrawnParts as Drawn
from dgpo_cli.live.layout import panel
from dgpo_cli.live.state import Memory, PanelState, Phase, Score
from dgpo_cli.live.words import split_cells_by
from dgpo_cli.ui.ramp import DEPTHS, RAMPS, Depth
from tests.samples import HOSTILE, SGR, check_snapshot, printed

METRICS = {
    "reward/mean": 0.61,
    "outcome/correct": 156 / 256,
    "outcome/wrong": 79 / 256,
    "outcome/no_answer": 13 / 256,
    "outcome/truncated": 8 / 256,
    "groups/all_correct": 3 / 16,
    "groups/none_correct": 1 / 16,
    "groups/no_signal": 4 / 16,
    "completion/length_mean": 38.2,
    "completion/length_p90": 51.0,
    "completion/length_max": 64.0,
    "completion/cut": 0.03125,
    "credit/effective_fraction": 0.99912,
    "credit/weight_max": 1.32,
    "credit/weight_p99": 1.11,
    "policy/hellinger_sq_mean": 3.1e-3,
    "policy/entropy": 0.2099,
    "optim/grad_norm": 0.344,
    "optim/lr": 2e-4,
    "loss/clip_frac": 0.001,
    "time/step_s": 1.018,
    "time/sample_s": 0.61,
    "time/score_s": 0.02,
    "time/statistics_s": 0.2,
    "time/update_s": 0.15,
    "throughput/tokens_per_s": 8123.0,
}
EARLY = PanelState(
    name="tiny",
    folder="runs/tiny",
    total=100,
    phases=(Phase("sampling", 0, 256, "completions", 4.0),),
)
STATE = PanelState(
    name="tiny",
    folder="runs/tiny",
    total=100,
    doing="training",
    step=42,
    metrics=METRICS,
    reward=tuple((float(i), 0.8 - 0.3 * math.exp(-i / 15) + 0.02 * (i % 3)) for i in range(1, 43)),
    entropy=tuple((float(i), 0.1 + 0.4 * math.exp(-i / 30)) for i in range(1, 43)),
    scores=(
        Score(0, "sums", 8, 0.525, Interval(0.501, 0.549), Interval(0.427, 0.622)),
        Score(25, "sums", 8, 0.81, Interval(0.787, 0.831), Interval(0.713, 0.88)),
    ),
    completions=256,
    groups=16,
    glimpse=Glimpse(
        step=43,
        completions=256,
        groups=16,
        shown=(
            Shown("(12+7)*4?", "(12+7)*4\n=19*4\n=76\n\\boxed{76}", "correct", 1.0),
            Shown("3*(45+41)?", "45+41=84; " * 30 + "\\boxed{252}", "wrong", 0.0),
            Shown("20*5-33?", "20*5=100, 100-", "truncated", -0.25),
        ),
    ),
    diagnoses=(
        Diagnosis("truncated", 42, "87% of the completions are cut off", "at 64", "raise it"),
        Diagnosis("flat", 42, "another", "thing", "to change"),
    ),
    phases=(Phase("update", 4000, 7500, "tokens", 1.0),),
    memory=Memory(now=512 * 2**20, peak=900 * 2**20, device=20 * 2**30, device_total=80 * 2**30),
    left_s=3661.0,
    ends_at="18:02",
)
SIZES = ((199, 58), (119, 38), (99, 28), (79, 22), (59, 18), (39, 13))


def drawn(
    state: PanelState, width: int, height: int, depth: Depth = "none", encoding: str = "utf-8"
) -> str:
    ascii_only = encoding == "ascii"
    lines = panel(state, width=width, height=height, depth=depth, ascii_only=ascii_only)
    for line in lines:
        line.end = "\n"
    return printed(Group(*lines), width=width + 1, color=depth, encoding=encoding)


@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_snapshot_at_each_size(columns: int, rows: int) -> None:
    check_snapshot(f"panel-{columns}x{rows}.txt", drawn(STATE, columns, rows))


@pytest.mark.parametrize("depth", ["truecolor", "256", "16"])
def test_snapshot_at_each_depth(depth: Depth) -> None:
    check_snapshot(f"panel-{depth}.txt", drawn(STATE, 79, 22, depth))


def test_snapshot_in_ascii() -> None:
    check_snapshot("panel-ascii.txt", drawn(STATE, 79, 22, encoding="ascii"))


def test_snapshot_before_the_first_step() -> None:
    check_snapshot("panel-early.txt", drawn(EARLY, 79, 22))


@pytest.mark.parametrize(("state", "depth"), list(product((EARLY, STATE), DEPTHS)))
def test_no_size_is_exceeded(state: PanelState, depth: Depth) -> None:
    for width, height in product((1, 5, 12, 24, 39, 55, 56, 75, 76, 120, 300), (1, 2, 7, 13, 40)):
        for ascii_only in (False, True):
            lines = panel(state, width=width, height=height, depth=depth, ascii_only=ascii_only)
            assert 1 <= len(lines) <= height
            assert max(line.cell_len for line in lines) <= width
            assert not ascii_only or all(line.plain.isascii() for line in lines)


def test_less_room_leaves_out_whole_parts_and_never_the_step() -> None:
    whole = drawn(STATE, 99, 40).splitlines()
    assert sum(line.startswith(label) for line in whole for label in LABELS) == len(LABELS)
    for height in range(1, 40):
        lines = drawn(STATE, 99, height).splitlines()
        assert "step 42/100" in lines[0]
        assert any("1 h 1 min left, until 18:02" in line for line in lines) == (height > 1)
        assert any("raise it" in line for line in lines) == (height >= 5)


LABELS = (
    *("tiny", "reward", "outcome", "groups", "lengths", "credit"),
    *("entropy", "time", "memory", "last", "now"),
)


def test_a_distance_that_is_noise_is_marked_beside_the_number() -> None:
    noisy = replace(STATE, metrics=METRICS | {"policy/hellinger_sq_is_noise": 1.0})
    assert "d 3.1e-03 (noise)" in drawn(noisy, 110, 60)
    assert "noise" not in drawn(STATE, 110, 60)


def test_the_interval_over_problems_stands_beside_that_of_a_rerun_where_there_is_room() -> None:
    assert "95%: 78.7 to 83.1 rerun, 71.3 to 88.0 problems" in drawn(STATE, 140, 60)
    assert "95%: 78.7 to 83.1\n" in drawn(STATE, 79, 22)


def tall(**changes: object) -> PanelState:
    """A run with many completions, steps, and credit that is not GRPO's."""
    glimpse = replace(STATE.glimpse, shown=STATE.glimpse.shown * 4)  # type: ignore[arg-type]
    course = tuple((float(i), 1.0 - 0.004 * i) for i in range(1, 43))
    distance = tuple((float(i), 1e-4 * i) for i in range(1, 43))
    recent = tuple((i, METRICS) for i in range(3, 43))
    return replace(
        STATE,
        glimpse=glimpse,
        effective=course,
        distance=distance,
        floor=2e-5,
        recent=recent,
        **changes,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(("columns", "rows"), [(199, 58), (119, 38), (79, 50)])
def test_a_high_terminal_is_filled(columns: int, rows: int) -> None:
    lines = drawn(tall(), columns, rows).splitlines()
    assert len(lines) == rows
    assert not any(not line.strip() for line in lines)
    text = "\n".join(lines)
    assert "effective token fraction" in text and "noise 2.0e-05" in text
    check_snapshot(f"panel-tall-{columns}x{rows}.txt", text + "\n")


def test_the_curve_of_credit_is_there_where_credit_is_not_that_of_grpo() -> None:
    grpo = replace(tall(), effective=((1.0, 1.0), (2.0, 1.0)), distance=((1.0, 0.0), (2.0, 0.0)))
    assert "effective token fraction" not in drawn(grpo, 199, 58)


def test_completions_are_coloured_by_credit_on_the_fixed_scale() -> None:
    credit = (("3", 1.0), ("+4=", 1.1), ("8", 3.0), (" so", 0.2))
    shown = (Shown("3+4?", "3+4=8 so", "wrong", 0.0, credit),)
    state = replace(STATE, glimpse=Glimpse(42, 1, 1, shown))
    text = drawn(state, 99, 28, depth="truecolor")
    (line,) = [line for line in text.splitlines() if "so" in SGR.sub("", line)]
    strongest = RAMPS["truecolor"]
    above, below = strongest.style(12), strongest.style(-12)
    assert above.render("8") in line and below.render(" so") in line
    assert "3+4=" in line  # near 1: no colour


def test_keys_are_explained_when_asked_for() -> None:
    assert "p pause" not in drawn(STATE, 79, 22)
    assert "p pause" in drawn(replace(STATE, help=True), 79, 22)


def test_all_numbers_of_the_state_are_there() -> None:
    text = drawn(STATE, 110, 60)
    for words in (
        "42%",
        "Avg@8 sums",
        "81.0%",
        "95%: 78.7 to 83.1 rerun",
        "correct 156",
        "wrong 79",
        "no answer 13",
        "truncated 8",
        "mixed 12",
        "all correct 3",
        "none correct 1",
        "without signal 4",
        "mean 38.2",
        "p90 51.0",
        "max 64.0",
        "truncated 3%",
        "effective 0.9991",
        "largest w 1.32",
        "d 3.1e-03",
        "1.02 s a step",
        "8,120 tokens/s",
        "sample 60%",
        "statistics 20%",
        "process 512 MiB",
        "device 20.0 GiB of 80.0 GiB",
        "87% of the completions are cut off (and 1 more)",
        "4,000/7,500",
        "4,000 tokens/s",
        "\\boxed{252}",
    ):
        assert words in text, words


def test_terms_of_a_reward_stand_below_the_outcomes_in_as_many_rows_as_they_need() -> None:
    terms = {
        "reward/exact_mean": 0.6,
        "reward/exact_decides": 0.75,
        "reward/steps_mean": 0.2,
        "reward/steps_decides": 0.25,
    }
    several = replace(STATE, metrics={**STATE.metrics, **terms})
    text = drawn(several, 110, 60)
    assert "terms" in text and "exact 0.600 decides 75%  steps 0.200 decides 25%" in text
    lines = [line for line in drawn(several, 50, 60).splitlines() if "decides" in line]
    assert len(lines) == 2 and lines[1].startswith(" ")
    one = {name: value for name, value in terms.items() if "steps" not in name}
    assert "decides" not in drawn(replace(STATE, metrics={**STATE.metrics, **one}), 110, 60)


def test_syncing_is_a_part_of_the_step_where_there_is_something_to_sync() -> None:
    assert "sync" not in drawn(STATE, 110, 60)
    elsewhere = replace(STATE, metrics={**STATE.metrics, "time/sync_s": 0.0305})
    assert "sync 3%" in drawn(elsewhere, 110, 60)


def test_the_bar_of_outcomes_is_in_proportion_and_shows_the_smallest() -> None:
    few = dict.fromkeys((f"outcome/{name}" for name in OUTCOMES), 0.0)
    state = replace(STATE, metrics=few | {"outcome/correct": 0.999, "outcome/timeout": 0.001})
    (bar,) = re.findall(r"outcome +(\S+)", drawn(state, 79, 22))
    assert bar == "█" * (79 - 10 - 1) + "T"


@given(
    st.lists(st.floats(0, 1e3, allow_subnormal=False) | st.just(0.0), min_size=1, max_size=9),
    st.integers(0, 80),
)
def test_shared_cells_add_up_and_lose_nothing(counts: list[float], cells: int) -> None:
    given_out = split_cells_by(counts, cells=cells)
    some = sum(count > 0 for count in counts)
    assert sum(given_out) == (cells if some else 0)
    assert all(number == 0 for number, count in zip(given_out, counts, strict=True) if count == 0)
    if some <= cells:
        assert sum(number > 0 for number in given_out) == some


def test_model_text_is_shown_and_never_obeyed() -> None:
    nasty = "".join(HOSTILE)
    state = replace(
        STATE,
        name="[bold]\x1b[2J",
        folder="\x07",
        glimpse=Glimpse(1, 3, 1, tuple(Shown(nasty, nasty, "wrong", 0.0) for _ in range(3))),
        diagnoses=(Diagnosis("a", 1, nasty, nasty, nasty),),
        phases=(Phase(nasty, 1, 2, nasty, 1.0),),
    )
    for depth, encoding in product(DEPTHS, ("utf-8", "ascii")):
        text = SGR.sub("", drawn(state, 99, 40, depth, encoding))
        assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text
        assert all(char.isprintable() for char in text.replace("\n", ""))
        assert max(cell_len(line) for line in text.splitlines()) <= 99
    assert "[red]" in drawn(state, 99, 40)


def test_the_end_of_a_long_text_is_what_is_shown() -> None:
    text = "x" * 5000 + " \\boxed{7}"
    state = replace(STATE, glimpse=Glimpse(1, 1, 1, (Shown("1+6?", text, "correct", 1.0),)))
    (line,) = [line for line in drawn(state, 79, 30).splitlines() if "1+6?" in line]
    assert line.endswith("x \\boxed{7}") and "…" in line


@given(st.dictionaries(st.sampled_from(sorted(METRICS)), st.floats(), max_size=26))
@settings(max_examples=60, deadline=None)
def test_missing_and_strange_metrics_are_no_crash(metrics: dict[str, float]) -> None:
    shares = {name: 0.5 for name in metrics if name.startswith(("outcome/", "groups/"))}
    for width, height in SIZES:
        assert panel(
            replace(STATE, metrics=metrics | shares), width=width, height=height, depth="none"
        )


def test_memory_of_earlier_frames_changes_nothing_that_is_drawn() -> None:
    memory = Drawn()
    later = replace(STATE, step=43, metrics=METRICS | {"reward/mean": 0.9})
    moved = replace(STATE, phases=(Phase("update", 7000, 7500, "tokens", 2.0),), left_s=60.0)
    ended = replace(later, doing="done", phases=(), diagnoses=())
    for state in (EARLY, STATE, moved, STATE, later, ended):
        for width, height in (*SIZES, SIZES[0]):
            for depth in ("none", "256"):
                fresh = panel(state, width=width, height=height, depth=depth)
                again = panel(state, width=width, height=height, depth=depth, memory=memory)
                assert [(line.plain, line.spans) for line in again] == [
                    (line.plain, line.spans) for line in fresh
                ]


def test_advice_is_whole_where_three_lines_hold_it_and_says_so_where_not() -> None:
    advice = "--set rollout.max_completion_tokens=24: give them room for an answer"
    ill = Diagnosis("truncated", 1, "cut off", "all", advice)
    text = drawn(replace(STATE, diagnoses=(ill,)), 39, 40)
    words = " ".join(text.split("cut off\n")[1].split("now")[0].split())
    assert words == advice
    long = replace(STATE, diagnoses=(replace(ill, advice="word " * 200),))
    lines = drawn(long, 39, 40).split("cut off\n")[1].split("now")[0].rstrip().splitlines()
    assert len(lines) == 3 and lines[-1].endswith("…")
