"""Sums over a part of the vocabulary from which log-probability, entropy and distance follow.

With half logits x of the policy and z of the reference over some columns, m = max x, w = max z:

    f = exp(x - m)    g = exp(z - w)    h = g - k f,  k = |g| / |f|

f and g are the roots of the two probabilities up to a constant each; k brings them to one length.
Kept are m, w, k and the sums A = ff, E = ff(x - m), B = gg, U = fh, G = hh.

Over the whole vocabulary p = f^2/A and q = g^2/B, so the log of a sum of exponentials of logits is
2m + log A, the entropy is log A - 2E/A, and since hh = gg - 2k fg + k^2 ff = 2B (1 - sum sqrt(pq)),

    d = 1 - sum sqrt(p q) = G / (2B).

Nothing cancels: h is small entry by entry where the distributions are near, and G is a sum of
squares. f and g themselves are good to half a unit in the last place each, which gives d a
relative error below 1e-4 from d = 1e-6 up, even where two entries hold all the probability. Any
other k near |g|/|f| would do, as long as it is the number that h was made with: an error e of it
adds e^2/2 to d, which is 1e-14 for a k of float32.

Parts merge exactly. Let M, W be the larger maxima, a = exp(m - M), b = exp(w - W) (both at most
1), K = |g|/|f| of the whole. In the new units a part's f is a f, its g is b g, and

    g' - K f' = b (h + k f) - K a f = b h + s f,    s = k b - K a,

so  A' = sum a^2 A,   E' = sum a^2 (E + A (m - M)),   B' = sum b^2 B,
    U' = sum a (b U + s A),   G' = sum (b^2 G + 2 s b U + s^2 A).

Because s is the part's own slope less the common one, s^2 A is at most a few times the final G:
what float32 rounded in a part (about 1e-7 of |h|^2, |s||f||h| and s^2|f|^2) is small against the
result, not against 1. The exponents a and b are never above 1, so nothing overflows however far
a later maximum lies above an earlier one. Merging is in float64 and takes any number of parts:
tiles of the vocabulary here; the shares of the ranks under tensor parallelism in the same way.

Equal inputs give k = 1, h = 0 and s = 0 exactly, hence d = 0 exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor


class Moments(NamedTuple):
    """The sums of one part of the vocabulary, float64 [R] each; a stack of parts is [S, R]."""

    top: Tensor  # m: largest half logit of the policy
    total: Tensor  # A
    weighted: Tensor  # E
    reference_top: Tensor  # w
    reference_total: Tensor  # B
    slope: Tensor  # k
    cross: Tensor  # U
    gap: Tensor  # G

    def merged(self) -> Moments:
        """Return the moments [R] of the union of the parts of a stack [S, R]."""
        top, reference_top = self.top.amax(dim=0), self.reference_top.amax(dim=0)
        fall = self.top - top
        a, b = fall.exp(), (self.reference_top - reference_top).exp()
        total = (a * a * self.total).sum(dim=0)
        reference_total = (b * b * self.reference_total).sum(dim=0)
        slope = (reference_total / total).sqrt()
        turn = self.slope * b - slope * a
        return Moments(
            top=top,
            total=total,
            weighted=(a * a * (self.weighted + self.total * fall)).sum(dim=0),
            reference_top=reference_top,
            reference_total=reference_total,
            slope=slope,
            cross=(a * (b * self.cross + turn * self.total)).sum(dim=0),
            gap=(b * b * self.gap + turn * (2 * b * self.cross + turn * self.total)).sum(dim=0),
        )

    def log_total(self) -> Tensor:
        """Return the logarithm of the sum of exponentials of the policy's logits, [R]."""
        return 2 * self.top + self.total.log()

    def reference_log_total(self) -> Tensor:
        """Return the same of the reference's logits, [R]."""
        return 2 * self.reference_top + self.reference_total.log()

    def entropy(self) -> Tensor:
        """Return the policy's entropy in nats, [R]."""
        return (self.total.log() - 2 * self.weighted / self.total).clamp(min=0.0)

    def hellinger_sq(self) -> Tensor:
        """Return the squared Hellinger distance, [R] in [0, 1]; for moments that are merged."""
        return (self.gap / (2 * self.reference_total)).clamp(0.0, 1.0)


class Ledger:
    """Collects and merges the moments of vocabulary tiles of R tokens.

    A tile writes float32 numbers; at most `_HELD` tiles are stored.
    """

    _HELD = 16

    def __init__(self, rows: int, *, device: torch.device) -> None:
        self._numbers = torch.zeros(self._HELD, 8, rows, device=device)
        self._count = 0
        self._merged: Moments | None = None

    def next_tile(self) -> Tensor:
        """Return float32 [8, R] for a tile to fill: m, |f|, E, w, |g|, k, U, |h|."""
        if self._count == self._HELD:
            self._merge()
        self._count += 1
        return self._numbers[self._count - 1]

    def result(self) -> Moments:
        """Return the moments of all tiles so far, [R]."""
        self._merge()
        assert self._merged is not None
        return self._merged

    def _merge(self) -> None:
        top, f, weighted, reference_top, g, slope, cross, h = (
            self._numbers[: self._count].double().unbind(dim=1)
        )
        parts = Moments(top, f * f, weighted, reference_top, g * g, slope, cross, h * h)
        if self._merged is not None:
            both = zip(self._merged, parts, strict=True)
            parts = Moments(*(torch.cat([old[None], new]) for old, new in both))
        self._merged = parts.merged()
        self._count = 0
