"""What a reader must know before believing a score, one sentence each."""

from __future__ import annotations

from dgpo_cli.core.numbers import counted, percent
from dgpo_cli.core.types import Evaluation

LIMIT = 0.05  # share of truncated or unanswered samples above which there is a warning


def warnings(evaluation: Evaluation) -> tuple[str, ...]:
    """Return sentences without any text from data; none if all is well."""
    found = []
    if evaluation.truncated > LIMIT:
        found.append(
            f"{percent(evaluation.truncated)} of the samples were truncated and count as wrong; "
            "the score is a lower bound. Raise rollout.max_completion_tokens."
        )
    if evaluation.no_answer > LIMIT:
        found.append(
            f"{percent(evaluation.no_answer)} of the samples have no readable answer and count as "
            "wrong. Compare them with the format that the protocol asks for."
        )
    if evaluation.unjudged > 0:
        count = round(evaluation.unjudged * evaluation.k * evaluation.n_problems)
        found.append(
            f"The check of {counted(count, 'sample')} timed out or crashed; "
            "they count as wrong, which is not known."
        )
    if evaluation.odd_duplicates:
        verb = "repeats" if evaluation.duplicates == 1 else "repeat"
        found.append(
            f"{counted(evaluation.duplicates, 'sample')} {verb} an earlier sample of the same "
            "problem token for token, more than independent samples would: the sampler "
            "reuses seeds, or its probabilities are wrong. The standard errors are too small."
        )
    if evaluation.k == 1 and not evaluation.greedy:
        found.append(
            "One sample of each problem does not show the standard error of a rerun; "
            "the interval is the widest possible."
        )
    return tuple(found)
