"""A sampler whose probabilities are not the policy's."""

from __future__ import annotations

import statistics

from dgpo_cli.core.numbers import whole_percent
from dgpo_cli.core.types import Diagnosis
from dgpo_cli.diagnosis.facts import Facts
from dgpo_cli.diagnosis.history import History

# k3 in nats per token, in squares of the tolerated mean gap: normal errors of that size give 0.8.
K3 = 8.0
# Effective share of a batch's tokens by importance weight; below it half of them are lost.
# Not for weights of whole completions, which normally differ that much.
ESS = 0.5


def sampler_disagrees(history: History, facts: Facts) -> Diagnosis | None:
    """Log-probabilities of sampler and trainer differ by more than rounding."""
    tolerance = facts.logprob_tolerance
    gaps, k3 = history.known("sampler/logprob_gap_mean"), history.known("sampler/k3")
    ess = history.known("off_policy/ess") if facts.correction == "token" else []
    if not history.has_window or len(gaps) < history.width or len(k3) < history.width:
        return None
    gap, divergence = statistics.median(gaps), statistics.median(k3)
    effective = statistics.median(ess) if len(ess) == history.width else 1.0
    if gap <= tolerance and divergence <= K3 * tolerance**2 and effective >= ESS:
        return None
    kept = f"; importance weights leave {whole_percent(effective)} of the batch" if ess else ""
    return Diagnosis(
        key="sampler_disagrees",
        step=history.step,
        headline="Sampler and trainer disagree on log-probabilities",
        evidence=f"in {history.span} they differ by {gap:.2g} nats per token, k3 {divergence:.2g}; "
        f"{facts.dtype} rounding explains {tolerance:g}{kept}",
        advice=_correction(facts),
    )


def _correction(facts: Facts) -> str:
    if facts.correction == "none":
        return "--set off_policy.correction=token: weights tokens by the ratio of the two"
    return (
        "give the sampler the trainer's dtype and quantization (rollout.backend.dtype, "
        "rollout.backend.quantization); until then --set off_policy.mode=mask"
    )
