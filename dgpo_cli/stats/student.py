"""Student's t distribution for whole degrees of freedom. No torch."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist


def student_cdf(value: float, *, freedom: int) -> float:
    """Student's t distribution, exact for whole degrees of freedom.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = math.atan2(abs(value), math.sqrt(freedom))
    cosine = math.cos(angle)
    odd = freedom % 2
    term, total = 1.0, 1.0  # of the series in cos^2, for even freedom
    for i in range(1 + odd, freedom - 2, 2):
        term *= (i / (i + 1)) * cosine * cosine
        total += term
    if odd:
        series = math.sin(angle) * cosine * total if freedom > 1 else 0.0
        inside = (angle + series) * 2 / math.pi
    else:
        inside = math.sin(angle) * total
    return 0.5 + math.copysign(inside / 2, value)


@lru_cache(maxsize=256)
def student_quantile(share: float, *, freedom: int) -> float:
    """The value below which Student's t lies with chance `share`, by bisection.

    Above 1,000 degrees of freedom it is the normal quantile with Fisher's first correction.
    Raises ValueError unless 0.5 < share < 1 and freedom is at least 1.
    """
    if not 0.5 < share < 1.0 or freedom < 1:
        raise ValueError(f"share={share}, freedom={freedom}: needs 0.5 < share < 1, freedom >= 1")
    if freedom > 1000:
        normal = NormalDist().inv_cdf(share)
        return normal + (normal**3 + normal) / (4 * freedom)
    low, high = 0.0, 1.0
    while student_cdf(high, freedom=freedom) < share:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        if student_cdf(middle, freedom=freedom) < share:
            low = middle
        else:
            high = middle
    return high
