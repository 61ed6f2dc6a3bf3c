"""The page says what the records hold, whatever is missing, and obeys no text in them."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from dgpo_cli.core.numbers import short
from dgpo_cli.core.text import visible
from dgpo_cli.core.types import RunRecord, SettingChange, StoredSamples, StoredSetting
from dgpo_cli.report.as_json import to_json
from dgpo_cli.report.charts.drawing import stacked
from dgpo_cli.report.curves import draw, draw_evals, series_of
from dgpo_cli.report.facts import half_95, reward_ends
from dgpo_cli.report.panels import GROUPS, LENGTHS, OUTCOMES, REWARD
from dgpo_cli.report.picture import report_svg
from dgpo_cli.report.run_page import MAX_RUNS, all_series, report_page
from tests.report.records import evaluation, line, record, trouble
from tests.samples import hostile, inspection, solution

NASTY = '</script><script>alert(1)</script><img src=x onerror="alert(2)">\x1b[31m\u202e'


class Page(HTMLParser):
    """The text of a page without its style and scripts, its elements and its data."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.texts: list[str] = []  # of each element, up to the next tag
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._stack: list[str] = []
        self.blocks: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts.append("")
        self._stack.append(tag)
        if tag in ("style", "script"):
            self.blocks.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._stack and self._stack.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._stack and self._stack[-1] in ("style", "script"):
            self.blocks[-1] += data
        else:
            self.text += data
            if self.texts:
                self.texts[-1] += data

    @property
    def data(self) -> dict[str, Any]:
        found = next(block for block in self.blocks if block.startswith("{"))
        return dict(json.loads(found))

    @property
    def metrics(self) -> set[str]:
        return {
            text
            for (_, attrs), text in zip(self.tags, self.texts, strict=True)
            if attrs.get("class") == "metric"
        }

    @property
    def charts(self) -> list[str]:
        return [str(a["data-chart"]) for tag, a in self.tags if tag == "figure"]


def page(*records: RunRecord) -> Page:
    return Page(report_page(records))


def test_the_overview_tells_steps_time_reward_and_both_errors() -> None:
    text = page(record()).text
    for part in (
        "30 of 30",
        "finished",
        "1 min 45 s",  # 30 steps of 3.5 s
        "40.0 → 60.0%",
        "95%: 56.0 to 64.0 rerun, 54.0 to 66.0 problems",
        "step 15",  # the best evaluation
        "61.0%, not kept; 1 other within its rerun interval",
    ):
        assert part in text


def test_the_ends_of_the_reward_are_plain_means() -> None:
    found = record([line(at, reward_mean=float(at)) for at in range(1, 101)])
    first, last, width = reward_ends(found)
    assert (width, first and first[0], last and last[0]) == (10, 5.5, 95.5)
    assert first is not None and first[1] == pytest.approx((82.5 / 9) ** 0.5 / 10**0.5)


def test_a_diagnosis_comes_first_with_its_evidence_and_advice() -> None:
    shown = page(record(diagnoses=(trouble(),)))
    assert shown.text.index("What to change first") < shown.text.index("Reward and evaluation")
    for part in ("No group has signal", "evidence of No group", "--set a.b=1"):
        assert part in shown.text
    assert "Nothing is wrong" not in shown.text
    assert "Nothing is wrong" in page(record()).text


def test_nothing_is_said_of_a_run_that_could_not_be_diagnosed() -> None:
    for found in (record([], evals=()), record(notes=("not diagnosed: settings broken",))):
        assert "Nothing is wrong" not in page(found).text


def test_a_run_of_few_steps_is_not_called_healthy() -> None:
    text = page(record(4)).text
    assert "Nothing is wrong" not in text
    assert "it takes 5 steps with a reward, and there are 4." in text
    assert "there is 1." in page(record(1)).text
    assert "Nothing is wrong" in page(record(5)).text
    early = page(record(2, diagnoses=(trouble(),))).text  # what is wrong already is told
    assert "No group has signal" in early and "Too early" not in early


def test_every_metric_of_the_file_is_on_the_page() -> None:
    found = record()
    shown = page(found)
    names = {name for each in found.metrics for name in each} - {"step"}
    assert shown.metrics == names
    for at, name in enumerate(sorted(names)):
        texts = [short(each[name] or 0.0) for each in found.metrics]
        assert shown.data["texts"].get(f"A{at}", "").split("|") in (texts, [""])
        assert f"A{at}" in shown.data["texts"] or name not in {"reward/mean", "my/own_metric"}


def test_a_run_of_an_older_version_shows_what_it_has() -> None:
    old = [{"step": float(at), "reward/mean": 0.1 * at} for at in range(1, 4)]
    shown = page(record(old, evals=(), settings=(), checkpoints=(), samples=None, total=None))
    assert shown.charts == ["reward"]
    assert "Checkpoints" not in shown.text and "Settings" not in shown.text


@pytest.mark.parametrize("steps", [0, 1, 2, 19, 20, 501])
def test_a_run_of_any_length_has_a_page(steps: int) -> None:
    shown = page(record(steps, state="running"))
    assert "running" in shown.text
    assert ("reward" in shown.charts) == (steps > 0)


def test_unknown_values_are_gaps_and_metrics_without_any_have_no_chart() -> None:
    lines = [line(1), line(2, reward_mean=None, policy_entropy=None), line(3)]
    lines = [each | {"policy/entropy": None} for each in lines]
    shown = page(record(lines))
    reward = sorted(name for name in line(1) if name not in ("step", "policy/entropy"))
    assert shown.data["texts"][f"A{reward.index('reward/mean')}"].split("|")[1] == ""
    assert "entropy" not in shown.charts
    assert "policy/entropy" not in shown.text


def test_long_runs_say_how_they_are_put_together_and_keep_their_extremes() -> None:
    lines = [line(at) for at in range(1, 2001)]
    lines[1234]["reward/mean"] = 77.0
    shown = page(record(lines, total=2000))
    assert "each point is the mean of 4 steps" in shown.text
    (ends, *_) = [attrs["data-ends"] for tag, attrs in shown.tags if "data-ends" in attrs]
    assert len(shown.data["points"]["A"]["at"][0]) == 500
    assert float(str(ends).split()[1]) >= 77.0


def test_steps_that_are_missing_in_the_file_are_told() -> None:
    shown = page(record([line(1), line(2), line(6)]))
    assert "metrics.jsonl lacks 3 steps between 1 and 6" in shown.text


def test_turns_have_charts_where_there_are_several() -> None:
    def charts(*lines: dict[str, float | None]) -> set[str]:
        text = report_page([record(lines)])
        return {key for key in ("turns", "foreign", "lengths") if f'data-chart="{key}"' in text}

    talk = {"env/turns_mean": 2.5, "env/turns_max": 3.0, "env/tokens_share": 0.25}
    assert charts(line(1), line(2)) == {"lengths"}
    assert charts({**line(1), **talk}, {**line(2), **talk}) == {"turns", "foreign", "lengths"}


def test_parts_that_never_occur_take_no_room_and_the_rest_adds_up() -> None:
    (run,) = all_series([record(10)])
    drawn = draw(OUTCOMES, [run])
    assert drawn is not None
    assert [source.label for source in drawn.sources] == ["correct", "wrong"]
    for parts in zip(*(each.ys for each in drawn.chart.lines), strict=True):
        assert sum(parts) == pytest.approx(1.0)


def test_smoothed_parts_still_add_up() -> None:
    (run,) = all_series([record(100)])
    drawn = draw(OUTCOMES, [run])
    assert drawn is not None
    assert drawn.chart.lines[0].shown != run.columns["outcome/correct"].mean
    assert stacked(drawn.chart.lines)[-1][1] == pytest.approx([1.0] * 100)


def test_the_limit_is_a_level_only_where_it_is_near_the_curve() -> None:
    def levels(limit: str) -> list[float]:
        setting = StoredSetting("rollout.max_completion_tokens", limit, "", None)
        drawn = draw(LENGTHS, all_series([record(settings=(setting,))]))
        assert drawn is not None
        return [level.value for level in drawn.chart.levels]

    assert levels("128") == [128.0]
    assert levels("32768") == []


def test_evaluations_of_another_kind_are_not_in_the_curve() -> None:
    evals = (evaluation(0, 0.1), evaluation(5, 0.9, k=2), evaluation(10, 0.3))
    found = record(evals=evals)
    drawn = draw_evals(all_series([found]))
    assert drawn is not None
    assert list(drawn.chart.lines[0].ys) == [0.1, 0.3]
    assert "1 evaluation of another benchmark or k" in page(found).text


def test_an_evaluation_with_broken_fields_costs_only_itself() -> None:
    broken = {"step": 5, "bench": None, "k": "x", "avg_at_k": "high", "rerun_95": 3}
    shown = page(record(evals=(broken,)))
    assert "reward" in shown.charts


def test_costs_between_points_lie_between_them() -> None:
    run = series_of(record(10), letter="A", runs=1)
    assert run.cost_at(0, run.tokens) == 0.0
    assert run.cost_at(3, run.seconds) == pytest.approx(10.5)
    assert run.cost_at(3.5, run.tokens) == pytest.approx(3500.0)
    assert run.cost_at(99, run.tokens) == 10_000.0


def test_settings_by_hand_come_first_then_those_that_differ() -> None:
    text = page(record()).text
    places = [text.index(key) for key in ("credit.rule", "optim.lr", "seed")]
    assert places == sorted(places)
    assert "Set by hand (1)" in text and "Other than the defaults (1)" in text
    for shown in (page(record()), page(record(settings=record().settings[:2]))):
        opened = ["open" in attrs for tag, attrs in shown.tags if tag == "details"]
        titles = [
            text for (tag, _), text in zip(shown.tags, shown.texts, strict=True) if tag == "summary"
        ]
        assert opened == [title.startswith(("Set", "Other")) for title in titles]


def test_several_runs_are_laid_over_each_other_and_their_differences_told() -> None:
    first = record(name="one")
    changed = (*first.settings[:2], replace(first.settings[2], value="0.1"), first.settings[3])
    second = record(20, name="two", settings=changed, evals=(evaluation(20, 0.7),))
    shown = page(first, second)
    drawn = draw(REWARD, all_series([first, second]))
    assert drawn is not None
    assert [(each.label, each.look) for each in drawn.chart.lines] == [("A", 1), ("B", 2)]
    settings = shown.text[shown.text.index("Settings that differ") :]
    assert settings.index("optim.lr") < settings.index("0.0002") < settings.index("0.1")
    assert "credit.rule" not in settings
    assert "70.0% (+10.0)" in shown.text
    assert "not comparable" not in shown.text


def test_the_last_step_of_a_long_run_is_one_step_and_no_mean() -> None:
    steps = [line(at, policy_entropy=float(at)) for at in range(1, 1201)]
    text = page(record(steps, name="one"), record(steps, name="two")).text
    assert "entropy, last step1200.0001200.000 (0)" in text


def test_runs_of_other_benchmarks_or_k_are_not_compared() -> None:
    other = record(name="two", evals=(evaluation(30, 0.9, bench="aime", k=32),))
    text = page(record(), other).text
    assert "Benchmarks differ (aime, sums)" in text
    assert "k differs (32, 8)" in text
    assert "90.0% (" not in text


def test_untrusted_text_stays_text() -> None:
    nasty = record(
        [line(1) | {NASTY: 1.0}, line(2) | {NASTY: 2.0}],
        name=NASTY,
        evals=(evaluation(0, 0.5, bench=NASTY, k=NASTY),),
        settings=(StoredSetting(NASTY, NASTY, NASTY, NASTY),),
        diagnoses=(trouble(NASTY),),
        notes=(NASTY,),
        samples=replace(record().samples, inspection=inspection(hostile())),  # type: ignore[type-var]
    )
    for shown in (page(nasty), page(nasty, replace(nasty, path="b"))):
        assert [tag for tag, _ in shown.tags].count("script") == 2
        assert "img" not in {tag for tag, _ in shown.tags}
        assert not any(name.startswith("on") for _, attrs in shown.tags for name in attrs)
        assert "style" not in {name for _, attrs in shown.tags for name in attrs}
        assert "\x1b" not in shown.text and "\u202e" not in shown.text
        assert visible(NASTY) in shown.text
    assert "<script" not in report_svg([nasty])


def test_the_same_records_give_the_same_bytes() -> None:
    records = [record(600), record(name="b")]
    assert report_page(records) == report_page(records)
    assert report_svg(records) == report_svg(records)


def test_a_page_has_a_run_and_no_more_than_can_be_told_apart() -> None:
    for count in (0, MAX_RUNS + 1):
        with pytest.raises(ValueError, match="runs"):
            report_page([record(name=str(at)) for at in range(count)])


def test_a_page_with_as_many_points_as_there_can_be_is_below_3_megabytes() -> None:
    lines = [line(at) | {f"m/{n}": at / (n + 7.1) for n in range(60)} for at in range(1, 1_001)]
    assert len(report_page([record(lines)]).encode()) < 3_000_000


def test_the_picture_shows_the_main_curves_with_plain_colours() -> None:
    drawing = report_svg([record()])
    for title in ("Reward", "Avg@8 on sums", "Outcomes of completions", "Completion length"):
        assert f">{title}" in drawing
    assert "var(" not in drawing and "light-dark" not in drawing
    assert re.search(r'viewBox="0 0 [\d.]+ [\d.]+"', drawing)


def test_no_two_panels_share_a_key() -> None:
    keys = ["reward", "avg", *(panel.key for group in GROUPS for panel in group.panels)]
    assert len(keys) == len(set(keys))


def test_the_json_holds_the_numbers_and_no_nan() -> None:
    found = to_json([record(1), record([], evals=())])
    json.dumps(found, allow_nan=False)
    one, empty = found["runs"]
    assert one["metrics"]["completion/length_mean"] == dict.fromkeys(
        ("first", "last", "min", "max"), 21.0
    )
    assert one["reward"]["last"]["stderr"] is None
    assert (empty["steps"], empty["reward"]["first"]) == (0, None)


def test_the_error_of_a_reward_is_students_interval_of_95_percent() -> None:
    assert half_95(0.1, 10) == pytest.approx(0.2262, abs=1e-4)  # t of 9 degrees of freedom
    found = record([line(at, reward_mean=float(at % 3)) for at in range(1, 101)])
    _, last, _ = reward_ends(found)
    assert last is not None and f"each ± {2.2622 * last[1]:.2g} (95%)" in page(found).text


CHANGES = (
    SettingChange(10, "credit.rule", "dgpo", "uniform"),
    SettingChange(20, "prompts.system", None, "<b>new</b>"),
)


def test_a_run_that_changed_on_its_way_says_so_above_its_curves() -> None:
    assert "Changed within the run" not in report_page([record()])
    page = report_page([record(changes=CHANGES)])
    assert "settings changed after step 10, 20" in page
    section = page[page.index('id="changes"') : page.index("x axis")]
    cells = ("credit.rule", "dgpo", "uniform", "prompts.system", "unset")
    assert all(f"<code>{cell}</code>" in section for cell in cells)
    assert "<b>new</b>" not in page and "&lt;b&gt;new&lt;/b&gt;" in page
    assert "settings changed after step 10, 20" in report_svg([record(changes=CHANGES)])


def test_a_comparison_with_a_run_of_two_methods_says_so() -> None:
    page = report_page([record(), record(name="run-2", changes=CHANGES)])
    assert "run-2: settings changed after step 10, 20, so its curves are not of one method." in page
    assert "Changed within the run · run-2" in page and "Changed within the run · run-1" not in page


def test_the_json_has_every_change() -> None:
    (run,) = to_json([record(changes=CHANGES)])["runs"]
    assert run["changes"][0] == {
        "step": 10,
        "setting": "credit.rule",
        "old": "dgpo",
        "new": "uniform",
    }


def test_distances_that_are_noise_are_marked_and_their_steps_counted() -> None:
    lines = [line(at) | {"policy/hellinger_sq_is_noise": float(at < 4)} for at in range(1, 7)]
    assert "d was noise in 3 steps, the last of them step 3" in page(record(lines)).text
    early = record(lines[:3])
    assert re.search(r"mean d, last step\S+ \(noise\)", page(early, record(lines)).text)
    assert "noise" not in page(record()).text.replace("noise mean", "").replace("noise floor", "")


def test_terms_of_the_reward_and_sources_have_charts_under_their_own_names() -> None:
    own = {
        "reward/exact_mean": 0.6,
        "reward/exact_std": 0.5,
        "reward/exact_decides": 0.75,
        "reward/steps_mean": 0.2,
        "reward/steps_decides": 0.25,
        "source/school_reward": 0.4,
    }
    found = page(record([line(at) | own for at in range(1, 4)])).text
    for title in ("Terms of the reward", "Groups that a term decides", "Reward by source"):
        assert title in found
        assert title not in page(record()).text


def test_a_sample_has_the_terms_of_its_reward_and_the_note() -> None:
    shown = replace(
        solution(),
        outcome="error",
        reward=math.nan,
        terms=(("exact", 1.0), ("steps", math.nan)),
        note="steps: <b>ValueError</b>",
    )
    samples = StoredSamples(30, inspection(shown), (len(shown.tokens),))
    html = report_page([record(samples=samples)])
    assert "reward unknown (exact 1, steps none), advantage" in html
    assert "steps: &lt;b&gt;ValueError&lt;/b&gt;" in html
