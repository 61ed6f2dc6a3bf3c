"""Updates that go wrong: not finite, too large, always cut, or too small to be seen."""

from __future__ import annotations

import math
import statistics

from dgpo_cli.algo.diagnosis.facts import Facts
from dgpo_cli.algo.diagnosis.history import WINDOW, History, Line, number, percent
from dgpo_cli.types import Diagnosis

# Skipped steps of the window; one alone is told when it happens, and three in a row end the run.
SKIPPED = 2
# Factor by which the probability of a token may change within a step. A run that learns stays
# around 2.3 (the embedded model, four updates a step); one that breaks reaches 20 at once.
RATIO = 10.0
# Share of tokens clipped: single tokens reach any ratio where a step has millions.
CLIPPED = 0.01
# Steps in a row whose gradient is cut. Adam divides a constant factor out again, so a limit that
# always cuts does no harm by its size: it makes large and small gradients count alike.
CUT_STEPS = 10
CUT_BY = 2.0  # the median gradient, in limits
# Updates after which a policy that learns has left the noise: d goes with their square.
UPDATES = 20
# Mean d of a policy that has moved as far as the noise is twice that of the noise alone.
VISIBLE = 2.0
# Share of right answers that so many updates are to move, at the very least.
MOVES = 0.01
# Mean d of a policy against itself where the run has not measured it: in float32 3e-14 was seen on
# the embedded model; bfloat16 logits make it 1e-4, float16 has three bits more, and d goes with
# the square of the error.
NOISE = {"float32": 1e-12, "float16": 1e-4 / 64, "bfloat16": 1e-4}
MEASURED = "noise/hellinger_sq_mean"
MAX_LR = {True: 1e-4, False: 1e-5}  # with and without an adapter: no larger rate is advised


def nonfinite(history: History, facts: Facts) -> Diagnosis | None:
    """Steps are skipped because their loss or gradient is no finite number."""
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
    """Within a step the policy leaves the one that sampled: most steps do, or one broke it."""
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
        + (", and the right answers are gone" if broken else f", in {wild} of {history.span}"),
        advice=f"--set optim.lr={facts.lr / 10:.2g}: a tenth of the learning rate{fewer}",
    )


def _spread(line: Line) -> float:
    """Return the largest change of a token's probability in a step, as a factor of 1 or more."""
    high, low = number(line, "loss/ratio_max"), number(line, "loss/ratio_min")
    if not number(line, "loss/clip_frac") >= CLIPPED or math.isnan(high) or math.isnan(low):
        return 1.0
    return max(high, 1 / low if low > 0 else math.inf)


def grad_clipped(history: History, facts: Facts) -> Diagnosis | None:
    """Every gradient is cut by a limit that is out of place."""
    limit = facts.max_grad_norm
    norms = [norm for norm in history.newest("optim/grad_norm", count=2 * CUT_STEPS) if norm > 0]
    norms = norms[-CUT_STEPS:]
    if limit <= 0 or len(norms) < CUT_STEPS or min(norms) <= limit:
        return None
    middle = statistics.median(norms)
    if middle <= CUT_BY * limit:
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


def update_too_small(history: History, facts: Facts) -> Diagnosis | None:
    """After many updates the policy is still its reference: d is noise, or moves no answer."""
    updates = history.known("optim/updates", width=len(history.last))
    distances = history.newest("policy/hellinger_sq_mean", count=WINDOW)
    lengths = history.known("completion/length_mean")
    if (
        history.step < facts.warmup_steps + UPDATES
        or sum(value > 0 for value in updates) < UPDATES
        or len(distances) < WINDOW
        or not lengths
        or history.rises("reward/mean")
    ):
        return None
    measured = history.newest(MEASURED, count=1) or history.first(MEASURED)[-1:]
    noise = measured[0] if measured and measured[0] > 0 else NOISE.get(facts.dtype, 0.0)
    length, distance = statistics.median(lengths), statistics.median(distances)
    floor = max(VISIBLE * noise, MOVES**2 / (2 * length))
    if not distance < floor:
        return None
    still = moved_at_most(distance, length=length) < MOVES
    return Diagnosis(
        key="update_too_small",
        step=history.step,
        headline="The learning rate is too small: the policy is still its reference",
        evidence=f"d is {distance:.1e} on average in {history.span}"
        + (f", too little to change {percent(MOVES)} of the answers" if still else "")
        + (f"; its noise is {noise:.1e}" if distance < VISIBLE * noise else ""),
        advice=_larger(facts, distance=distance, floor=floor),
    )


def moved_at_most(distance: float, *, length: float) -> float:
    """Return how far the share of right answers may differ between policy and reference.

    The squared Hellinger distances of independent tokens add up to no less than that of the
    completion, H^2, and the probability of any event differs by sqrt(2 H^2) at most. Tokens of a
    completion depend on each other, so for them this is an order of magnitude and no bound.

    Args:
        distance: mean d of a token. length: tokens of a completion.

    Source: Le Cam and Yang, Asymptotics in Statistics (2000), chapter 3.
    """
    return min(1.0, math.sqrt(2 * length * distance))


def _larger(facts: Facts, *, distance: float, floor: float) -> str:
    """d grows with the square of the learning rate: advise what takes it to ten times the floor."""
    factor = math.sqrt(10 * floor / max(distance, floor * 1e-12))
    rate = facts.lr * max(10.0, 10 ** math.ceil(math.log10(factor)))
    limit = max(MAX_LR[facts.has_adapter], 2 * facts.lr)
    why = (
        "an adapter wants about ten times the rate of full training"
        if facts.has_adapter
        else "d grows with the square of it"
    )
    return f"--set optim.lr={min(rate, limit):.2g}: {why}"
