"""Learns how long work takes: a straight line, seconds over an amount of work."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

KEPT = 32
"""Measurements kept: enough for a stable line, few enough to follow a machine that changes"""

_FADING = 0.93
"""Weight of a measurement relative to the next one: the last ten make half of the sum."""

_FEWEST = 4
"""Measurements needed to fit a line; with fewer, the first guess is scaled."""

_SPREAD = 3.0
"""Minimum ratio of the largest to the smallest amount for fitting both the fixed part and the rate;
below it, noise would dominate."""

_OUTLIER = 3.0
"""A measurement whose error exceeds the median error by this factor is dropped: the machine was
busy."""

_TOLERANCE = 0.05
"""Errors up to this share never make a measurement an outlier."""


@dataclass(frozen=True)
class Line:
    """Seconds for an amount of work: ``fixed + rate * amount``."""

    fixed: float
    rate: float

    def seconds(self, amount: float) -> float:
        return self.fixed + self.rate * amount

    def times(self, factor: float) -> Line:
        return Line(self.fixed * factor, self.rate * factor)


@dataclass
class LearnedLine:
    """A line that is learned."""

    guess: Line
    """The line to assume before any measurement."""
    points: list[tuple[float, float]] = field(default_factory=list)
    """Amounts and seconds, the latest last."""
    _line: Line | None = None

    def add(self, amount: float, seconds: float) -> None:
        """Add a measurement."""
        if amount > 0 and seconds > 0:
            self.points = [*self.points, (amount, seconds)][-KEPT:]
            self._line = None

    @property
    def line(self) -> Line:
        if self._line is None:
            self._line = fit(self.points, self.guess)
        return self._line


def fit(points: Sequence[tuple[float, float]], guess: Line) -> Line:
    """Return the line with the smallest relative errors at ``points``, without outliers.

    Relative errors make estimates of small pictures as good as those of large ones. Later points
    weigh more. A few points, or points of one size only, just scale the guess by their median.
    """
    if not points:
        return guess
    first = _weighed(points)
    if first is None:
        return guess.times(statistics.median(s / guess.seconds(a) for a, s in points))
    errors = [abs(first.seconds(amount) / seconds - 1) for amount, seconds in points]
    most = max(_TOLERANCE, _OUTLIER * statistics.median(errors))
    kept = [point for point, error in zip(points, errors, strict=True) if error <= most]
    return _weighed(kept) or first


def _weighed(points: Sequence[tuple[float, float]]) -> Line | None:
    """Return the weighted least-squares line of the relative errors; None for too few points.

    With u = 1/seconds and v = amount/seconds it minimises the sum of (fixed*u + rate*v - 1)**2.
    """
    amounts = [amount for amount, _ in points]
    if len(points) < _FEWEST or max(amounts) < _SPREAD * min(amounts):
        return None
    uu = uv = vv = u1 = v1 = 0.0
    for age, (amount, seconds) in enumerate(reversed(points)):
        weight, u, v = _FADING**age, 1 / seconds, amount / seconds
        uu += weight * u * u
        uv += weight * u * v
        vv += weight * v * v
        u1 += weight * u
        v1 += weight * v
    determinant = uu * vv - uv * uv
    if determinant <= 0:
        return None
    fixed = (u1 * vv - v1 * uv) / determinant
    rate = (v1 * uu - u1 * uv) / determinant
    if fixed < 0:
        return Line(0.0, v1 / vv)
    if rate < 0:
        return Line(u1 / uu, 0.0)
    return Line(fixed, rate)
