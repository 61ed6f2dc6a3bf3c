"""Laws of what dgpo rollout says of its completions."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dgpo_cli.core.types import Completion, Message, Prompt, ScoredGroup, Verdict
from dgpo_cli.evals.rollout import _result


def test_terms_are_means_where_they_apply_and_the_commonest_failure_is_named() -> None:
    verdicts = [
        Verdict("correct", "7", 1.2, None, (("integer", 1.0), ("steps", 1.0))),
        Verdict("wrong", "8", 0.0, None, (("integer", 0.0), ("steps", math.nan))),
        *[Verdict("error", None, math.nan, "steps: bad", (("integer", 1.0), ("steps", math.nan)))]
        * 2,
    ]
    prompt = Prompt("p", (Message("user", "?"),), "7", "test")
    completion = Completion((1,), (0.0,), "7", "stop", 0, 0)
    group = ScoredGroup(prompt, (1,), (completion,) * 4, tuple(verdicts), (0.0,) * 4)
    found = _result([group], out=Path("x"))
    assert found.terms == {"integer": 0.75, "steps": 1.0}
    assert found.mean_reward == pytest.approx(0.6)
    assert found.failure == "steps: bad"
