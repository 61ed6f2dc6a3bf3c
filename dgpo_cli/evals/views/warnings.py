"""What a reader of a score must know before he believes it, one sentence each."""

from __future__ import annotations

from dgpo_cli.core.numbers import counted, percent
from dgpo_cli.core.types import Evaluation

LIMIT = 0.05  # share of truncated or unanswered samples from which a score says less


def warnings(evaluation: Evaluation) -> tuple[str, ...]:
    """Plain sentences of our own, without any text from data; none where all is well."""
    found = []
    if evaluation.truncated > LIMIT:
        found.append(
            f"{percent(evaluation.truncated)} of the samples were cut off and count as wrong; "
            "the score is a lower bound. Raise rollout.max_completion_tokens."
        )
    if evaluation.no_answer > LIMIT:
        found.append(
            f"{percent(evaluation.no_answer)} of the samples hold no answer that can be read and "
            "count as wrong. Compare them with the format that the protocol asks for."
        )
    if evaluation.unjudged > 0:
        count = round(evaluation.unjudged * evaluation.k * evaluation.n_problems)
        found.append(
            f"The check of {counted(count, 'sample')} timed out or crashed; "
            "counted as wrong, though not known to be."
        )
    if evaluation.odd_duplicates:
        verb = "repeats" if evaluation.duplicates == 1 else "repeat"
        found.append(
            f"{counted(evaluation.duplicates, 'sample')} {verb} an earlier sample of the same "
            "problem token for token, more than independent samples would by their probabilities: "
            "the sampler reuses seeds, or its probabilities are wrong. The errors are too small."
        )
    if evaluation.k == 1:
        found.append(
            "One sample of each problem does not show its rerun error; "
            "the interval is the widest that it can be."
        )
    return tuple(found)
