"""Updates that go wrong: not finite, too large, or always clipped."""

from __future__ import annotations

import math
import statistics

from dgpo_cli.core.types import Diagnosis
from dgpo_cli.diagnosis.facts import Facts
from dgpo_cli.diagnosis.history import WINDOW, History, Line, number

# Skipped steps of the window; a single one has its own note, and three in a row end the run.
SKIPPED = 2
# Factor by which the probability of a token may change within a step. A run that learns stays
# near 2.3 (the embedded model, four updates per step); one that breaks reaches 20 at once.
RATIO = 10.0
# Least share of clipped tokens: among millions, single tokens reach any ratio.
CLIPPED = 0.01
# Consecutive steps with a clipped gradient. Adam divides a constant factor out again, so the size
# of a limit that always clips does no harm: it makes large and small gradients count alike.
CLIPPED_STEPS = 10
CLIPPED_BY = 2.0  # the median gradient, in limits


def nonfinite(history: History, facts: Facts) -> Diagnosis | None:
    """Steps are skipped because their loss or gradient is not finite."""
    skipped = history.known("optim/skipped_nonfinite", width=WINDOW)
    count = sum(value > 0 for value in skipped)
    if count < SKIPPED:
        return None
    return Diagnosis(
        key="nonfinite",
        step=history.step,
        headline="Loss or gradient is not finite: the weights do not move",
        evidence=f"{count} of {history.last_steps(len(skipped))} were skipped; their batches are "
        "in bad_batches/",
        advice=f"--set optim.lr={facts.lr / 10:.2g}: a tenth of the learning rate"
        + ("" if facts.dtype != "float16" else "; or --set model.dtype=bfloat16"),
    )


def ratio_exploding(history: History, facts: Facts) -> Diagnosis | None:
    """Within most steps, or in one that broke it, the policy moves far from the sampled one."""
    steps = [_spread(line) for line in history.last[-history.width :]]
    wild = sum(spread > RATIO for spread in steps)
    worst = max(steps, default=1.0)
    broken = history.fallen("outcome/correct") is not None if history.has_window else False
    if broken:
        seen = [_spread(line) for line in (*history.start, *history.last)]
        wild, worst = sum(spread > RATIO for spread in seen), max(seen)
    if not wild or not (broken or (history.has_window and wild > history.width / 2)):
        return None
    fewer = (
        f"; or --set optim.updates_per_step={facts.updates_per_step // 2}"
        if facts.updates_per_step > 1 and facts.updates_per_step % 2 == 0
        else ""
    )
    return Diagnosis(
        key="ratio_exploding",
        step=history.step,
        headline="Updates are too large: probabilities explode within a step",
        evidence=f"the probability of a token changed by a factor of {worst:.2g} within one step"
        + (", and the correct answers are gone" if broken else f", in {wild} of {history.span}"),
        advice=f"--set optim.lr={facts.lr / 10:.2g}: a tenth of the learning rate{fewer}",
    )


def _spread(line: Line) -> float:
    """Return the largest change of a token's probability in a step, as a factor of 1 or more."""
    high, low = number(line, "loss/ratio_max"), number(line, "loss/ratio_min")
    if not number(line, "loss/clip_frac") >= CLIPPED or math.isnan(high) or math.isnan(low):
        return 1.0
    return max(high, 1 / low if low > 0 else math.inf)


def grad_clipped(history: History, facts: Facts) -> Diagnosis | None:
    """Every gradient is clipped, far below its usual norm."""
    limit = facts.max_grad_norm
    norms = [
        norm for norm in history.newest("optim/grad_norm", count=2 * CLIPPED_STEPS) if norm > 0
    ]
    norms = norms[-CLIPPED_STEPS:]
    if limit <= 0 or len(norms) < CLIPPED_STEPS or min(norms) <= limit:
        return None
    middle = statistics.median(norms)
    if middle <= CLIPPED_BY * limit:
        return None
    roomy = float(f"{2 * middle:.1g}")
    return Diagnosis(
        key="grad_clipped",
        step=history.step,
        headline="The gradient is clipped at every step",
        evidence=f"its norm in the last {len(norms)} updates is {min(norms):.2g} to "
        f"{max(norms):.2g}, optim.max_grad_norm={limit:g}: large and small gradients count alike",
        advice=f"--set optim.max_grad_norm={roomy:g}: twice the usual norm",
    )
