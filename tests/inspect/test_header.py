"""The head of the credit view says what is not known, and names the tau that was found."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html import escape

import pytest

from dgpo_cli.core.text import visible
from dgpo_cli.core.types import InspectedCompletion, SettingChange
from dgpo_cli.inspect.page import inspect_page
from dgpo_cli.inspect.views.header import SHARPER, distance_is_noise, share_of_top
from dgpo_cli.inspect.views.heatmap import render
from tests.samples import completion, inspection, printed, solution


def head(shown: InspectedCompletion, **changes: object) -> str:
    own = inspection(shown, **changes)
    return printed(render(shown, inspection=own, width=80, top=0, color="none"))


def test_what_rollouts_do_not_tell_is_unknown_and_no_failure() -> None:
    told = head(replace(solution(), outcome=None, reward=math.nan, advantage=math.nan, answer=""))
    assert told.count("unknown") == 4
    assert "nan" not in told and "✗" not in told and "T×A" not in told
    assert "unknown" not in head(solution())


def test_a_tau_that_was_found_is_shown_with_what_it_was_found_for() -> None:
    found = head(
        replace(solution(), tau=0.0123), tau=None, parameters={"kappa": 1.0, "target_ess": 0.9}
    )
    assert "dgpo, tau 0.0123 for target_ess 0.9, kappa 1" in found
    assert "dgpo, tau 0.1, kappa 1" in head(solution())


@pytest.mark.parametrize("count", [1, 7, 10, 32, 101, 1000])
def test_equal_weights_hold_their_share_whatever_their_number(count: int) -> None:
    for share in (0.01, 0.05, 0.1):
        assert share_of_top([2.5] * count, share) == pytest.approx(share, rel=1e-12)


def test_the_token_at_the_border_of_a_share_counts_in_part() -> None:
    # 10% of 25 tokens are 2.5 of them
    weights = [1.0] * 22 + [2.0, 8.0, 4.0]
    assert share_of_top(weights, 0.1) == pytest.approx((8 + 4 + 0.5 * 2) / 36)
    assert share_of_top([0.0, 0.0], 0.1) != share_of_top([0.0, 0.0], 0.1)  # NaN


def test_the_share_of_the_top_is_of_all_weight_whatever_its_sign() -> None:
    weights = [0.0] * 17 + [30.0, -12.0, 2.0]
    assert share_of_top(weights, 0.05) == pytest.approx(30 / 44)
    assert share_of_top(weights, 0.1) == pytest.approx(42 / 44)


def test_nearly_even_credit_is_said_to_be_and_how_to_look_for_more() -> None:
    # One of 32 tokens a little above the others: 10% of them hold 10.1%.
    shown = completion(["x"] * 32, [0.01] + [0.0] * 31, tau=0.4)
    assert max(token.weight for token in shown.tokens) > 1.02
    told = " ".join(head(shown).split())
    assert "Weights are nearly uniform: effective token fraction 0.99998" in told
    assert SHARPER in told
    # No tau can tell equal scores apart; the last three have asked for it, or cannot.
    even = completion(["x"] * 32, [0.01] * 32, tau=0.4)
    for other in (
        head(even),
        head(solution()),
        head(shown, parameters={"target_ess": 0.9}),
        head(shown, rule="entropy"),
    ):
        assert SHARPER not in " ".join(other.split())


def test_what_a_run_had_changed_before_stands_in_every_view() -> None:
    changes = (
        SettingChange(2, "credit.tau", 0.5, 0.02),
        SettingChange(4, "prompts.system", None, "\x1b[31m<b>"),
    )
    told = head(solution(), changes=changes)
    assert "changed     credit.tau 0.5 -> 0.02 after step 2\n" in told
    safe = visible("\x1b[31m<b>")
    assert f"changed     prompts.system unset -> {safe} after step 4\n" in told
    assert "changed " not in head(solution())
    page = inspect_page(inspection(solution(), changes=changes))
    assert '<dt>changed</dt><dd class="warn">credit.tau 0.5 -&gt; 0.02 after step 2</dd>' in page
    assert "<b>" not in page.partition("changed</dt>")[2].partition("</dl>")[0]
    assert f"{escape(safe)} after step 4" in page
    assert "<dt>changed</dt>" not in inspect_page(inspection(solution()))


def test_distances_near_the_measured_noise_are_told_to_be_noise() -> None:
    shown = completion(["a", "b"], [0.1, 0.2], tau=0.1)
    most = max(token.hellinger_sq for token in shown.tokens)
    assert most > 0 and distance_is_noise(shown) is None  # not measured
    assert distance_is_noise(replace(shown, noise_floor=most / 6)) is None
    said = distance_is_noise(replace(shown, noise_floor=most / 2))
    assert said == f"up to {most:.1e} (noise: rounding alone makes {most / 2:.1e})"
    assert ", d is noise</option>" in inspect_page(inspection(replace(shown, noise_floor=most)))
    assert "d is noise" not in inspect_page(inspection(shown))
    view = head(replace(shown, noise_floor=most))
    assert re.search(r"distance d +up to \S+ \(noise", view)


def test_terms_of_the_reward_and_its_note_stand_in_every_view() -> None:
    failed = replace(
        solution(),
        outcome="error",
        reward=math.nan,
        terms=(("exact", 1.0), ("steps", math.nan)),
        note="steps: my.py, line 3: ValueError: <b>",
    )
    told = head(failed)
    assert "terms       exact 1, steps none\n" in told
    assert "note        steps: my.py, line 3: ValueError: <b>\n" in told
    page = inspect_page(inspection(failed))
    assert '<dd id="terms">exact 1, steps none</dd>' in page
    assert '<dd id="note">steps: my.py, line 3: ValueError: &lt;b&gt;</dd>' in page
    plain = inspect_page(inspection(solution()))
    assert 'id="terms"' not in plain and 'id="note"' not in plain
    assert "terms " not in head(solution()) and "note " not in head(solution())


def test_a_score_that_judges_nothing_is_no_failure() -> None:
    told = head(replace(solution(), outcome="scored", reward=0.4))
    assert "scored" in told and "✗" not in told
