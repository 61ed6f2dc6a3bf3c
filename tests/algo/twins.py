"""Slow twins: every formula of ALGORITHM written with Python floats and loops."""

from __future__ import annotations

import math

Row = list[float]


def softmax(logits: Row) -> Row:
    top = max(logits)
    powers = [math.exp(x - top) for x in logits]
    total = math.fsum(powers)
    return [power / total for power in powers]


def entropy(logits: Row) -> float:
    return -math.fsum(p * math.log(p) for p in softmax(logits) if p > 0)


def hellinger_sq(policy: Row, reference: Row) -> float:
    pairs = zip(softmax(policy), softmax(reference), strict=True)
    return 0.5 * math.fsum((math.sqrt(p) - math.sqrt(q)) ** 2 for p, q in pairs)


def dgpo_weights(d: Row, h: Row, *, tau: float, kappa: float) -> tuple[Row, Row]:
    scores = [a * b**kappa for a, b in zip(d, h, strict=True)]
    shares = softmax([s / tau for s in scores]) if scores else []
    return scores, [len(scores) * share for share in shares]


def advantages(rewards: Row, *, baseline: str, std: str) -> Row:
    n = len(rewards)
    mean = math.fsum(rewards) / n
    deviation = math.sqrt(math.fsum((r - mean) ** 2 for r in rewards) / (n - 1))
    out = []
    for i, reward in enumerate(rewards):
        others = rewards[:i] + rewards[i + 1 :]
        base = mean if baseline == "group-mean" else math.fsum(others) / (n - 1)
        out.append((reward - base) / (deviation + 1e-6 if std == "group" else 1.0))
    return out


def loss(
    logprobs: list[Row],
    old: list[Row],
    token_advantages: list[Row],
    *,
    low: float,
    high: float,
    aggregation: str,
    max_tokens: int,
) -> float:
    """Rows hold only their own tokens: nothing is padded and nothing is masked."""
    rows = []
    for new_row, old_row, advantage_row in zip(logprobs, old, token_advantages, strict=True):
        tokens = zip(new_row, old_row, advantage_row, strict=True)
        rows.append([clip_token(math.exp(x - y), a, low=low, high=high)[0] for x, y, a in tokens])
    return aggregated(rows, aggregation=aggregation, max_tokens=max_tokens)


def aggregated(losses: list[Row], *, aggregation: str, max_tokens: int) -> float:
    sums = [math.fsum(row) for row in losses]
    if aggregation == "token-mean":
        return sum(sums) / sum(len(row) for row in losses)
    if aggregation == "constant":
        return sum(sums) / (len(sums) * max_tokens)
    return sum(s / len(row) for s, row in zip(sums, losses, strict=True)) / len(sums)


def clip_token(
    rho: float, advantage: float, *, low: float, high: float, dual: float = math.inf
) -> tuple[float, float]:
    """The loss and its slope in the log-probability; verl's core_algos.py, lines 1216 to 1235,
    at commit b178a3cd."""
    plain = -advantage * rho
    held = -advantage * min(max(rho, 1 - low), 1 + high)
    worse = max(plain, held)
    slope = plain if plain >= held else 0.0
    if advantage < 0 and worse > -advantage * dual:
        return -advantage * dual, 0.0
    return worse, slope


def gspo_tokens(
    new: Row, old: Row, advantages: Row, *, low: float, high: float
) -> list[tuple[float, float]]:
    """Losses and slopes of the tokens of a completion; verl's core_algos.py, lines 1286 to 1305."""
    mean = math.fsum(x - y for x, y in zip(new, old, strict=True)) / len(new)
    return [clip_token(math.exp(mean), a, low=low, high=high) for a in advantages]


def cispo_token(
    new: float, old: float, advantage: float, *, least: float, most: float
) -> tuple[float, float]:
    """The loss and its slope; verl's core_algos.py, lines 1743 to 1758."""
    weight = min(max(math.exp(new - old), least), most)
    return -weight * advantage * new, -weight * advantage


def effective_fraction(weights: Row) -> float:
    return math.fsum(weights) ** 2 / (len(weights) * math.fsum(w * w for w in weights))


def smallest_tau(rows: list[Row], *, fraction: float, cap: float, floor: float) -> float:
    """The smallest tau from `floor` on with a mean effective fraction of at least `fraction` over
    the rows of scores, and no weight above `cap`: halved until floats cannot be halved."""

    def keeps(tau: float) -> bool:
        weights = [[len(row) * p for p in softmax([s / tau for s in row])] for row in rows]
        mean = math.fsum(effective_fraction(own) for own in weights) / len(rows)
        return mean >= fraction and max(max(own) for own in weights) <= cap

    if keeps(floor):
        return floor
    low, high = floor, 2 * floor
    while not keeps(high):
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high
