"""The head of the credit view says what is not known, and names the tau that was found."""

from __future__ import annotations

import math
from dataclasses import replace

from dgpo_cli.report.heatmap import render
from dgpo_cli.types import InspectedCompletion
from tests.report.samples import inspection, printed, solution


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
    assert "dgpo, tau 0.0123 for effective fraction 0.9, kappa 1" in found
    assert "dgpo, tau 0.1, kappa 1" in head(solution())
