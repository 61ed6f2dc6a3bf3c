"""A sampler that is not the policy: what it draws is learnt from under wrong probabilities."""

from __future__ import annotations

import statistics

from dgpo_cli.core.numbers import whole_percent
from dgpo_cli.core.types import Diagnosis
from dgpo_cli.diagnosis.facts import Facts
from dgpo_cli.diagnosis.history import History

# Nats of k3 a token, in squares of the tolerated mean gap: normal errors of that size make 0.8.
K3 = 8.0
# Effective share of the tokens of a batch by importance weight: below it half of them are lost.
# Not for weights of whole completions, which are meant to differ that much.
ESS = 0.5


def sampler_disagrees(history: History, facts: Facts) -> Diagnosis | None:
    """The two log-probabilities of the sampled tokens differ by more than rounding."""
    tolerance = facts.logprob_tolerance
    gaps, k3 = history.known("sampler/logprob_gap_mean"), history.known("sampler/k3")
    ess = history.known("off_policy/ess") if facts.correction == "token" else []
    if not history.has_window or len(gaps) < history.width or len(k3) < history.width:
        return None
    gap, divergence = statistics.median(gaps), statistics.median(k3)
    effective = statistics.median(ess) if len(ess) == history.width else 1.0
    if gap <= tolerance and divergence <= K3 * tolerance**2 and effective >= ESS:
        return None
    kept = f"; {whole_percent(effective)} of the batch count by their weights" if ess else ""
    return Diagnosis(
        key="sampler_disagrees",
        step=history.step,
        headline="Sampler and trainer disagree on what was sampled",
        evidence=f"in {history.span} their log-probabilities differ by {gap:.2g} nats a token, "
        f"k3 {divergence:.2g}; rounding of {facts.dtype} explains {tolerance:g}{kept}",
        advice=_correction(facts),
    )


def _correction(facts: Facts) -> str:
    if facts.correction == "none":
        return "--set off_policy.correction=token: weigh tokens by how far the two are apart"
    return (
        "give the sampler the trainer's dtype and quantization (rollout.backend.dtype, "
        "rollout.backend.quantization); until then --set off_policy.mode=mask"
    )
