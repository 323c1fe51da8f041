"""How a gain changes with compute: its slope, a forecast for another size, and the extra compute that equals the gain.

A *rung* is a track of one size. Each rung has its own pairs of runs with their own standard deviation. Slope and
forecast are weighted sums of the rungs' mean gains. The variance of such a sum follows from the means' variances. Its
degrees of freedom are approximated as Welch (1947) did for the difference of two means. Compute is the number of
floating-point operations of a run. Assumption: a gain is linear in the logarithm of compute to base ten. This
assumption is best for sizes that are close to each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.core.errors import LlmbenchError
from harness.rule.stats import Array

FEWEST_PAIRS = 2
"""Least number of pairs on a rung, because a single pair has no standard deviation."""

FEWEST_IDEAS = 2
"""Least number of ideas that can be ordered."""
RESAMPLES = 2000


class Rung(NamedTuple):
    """The results of one idea at one model size."""

    compute: float
    """Number of floating-point operations of a run of the base."""
    gains: Sequence[float]
    """For each pair, the idea's gain over the base, in nats per token."""


class Interval(NamedTuple):
    """A value and the ends of its two-sided confidence interval. If gains do not vary, both ends equal the value."""

    value: float
    low: float
    high: float


def gain_at(rung: Rung, level: float = 0.9) -> Interval:
    """Mean gain on one rung, with its confidence interval at `level`. Raises LlmbenchError for fewer than two pairs."""
    return _weighted([rung], np.ones(1), level)


def slope(rungs: Sequence[Rung], level: float = 0.9) -> Interval:
    """Change of the gain for ten times the compute, by least squares over the rungs' means.

    Raises LlmbenchError for fewer than two rungs of different compute, or if a rung has fewer than two pairs.
    """
    x = _log_compute(rungs)
    return _weighted(rungs, (x - x.mean()) / ((x - x.mean()) ** 2).sum(), level)


def forecast(rungs: Sequence[Rung], compute: float, level: float = 0.9, *, pairs: int | None = None) -> Interval:
    """The gain at the compute `compute`, by the line that is fitted to the rungs' gains.

    If `pairs` is given, the interval is for the mean gain of `pairs` new pairs, with the variance of the nearest rung.
    Otherwise the interval is for the value of the line, without the noise of new pairs. Raises LlmbenchError in the
    same cases as `slope`.
    """
    x = _log_compute(rungs)
    weights = 1 / len(x) + (math.log10(compute) - x.mean()) * (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    nearest = min(rungs, key=lambda rung: abs(math.log10(rung.compute / compute)))
    more = 0.0 if pairs is None else float(np.var(nearest.gains, ddof=1)) / pairs
    return _weighted(rungs, weights, level, more)


def compute_multiple(base: Sequence[tuple[float, float]], compute: float, gain: Interval) -> Interval:
    """Compute that the base needs for a loss that is lower by `gain`, as a multiple of `compute`.

    `base` contains (compute, val loss) of the base on each rung. Between rungs the loss is assumed to be linear in the
    logarithm of compute; outside them, the line through the two nearest rungs is continued. Raises LlmbenchError if the
    base's loss does not become lower from rung to rung, or if no rung has the compute `compute`.
    """
    points = sorted(base)
    x, loss = (np.array(values, dtype=float) for values in zip(*points, strict=True))
    x = np.log10(x)
    if len(points) < 2 or not (np.diff(loss) < 0).all() or compute not in dict(points):
        raise LlmbenchError(
            "a multiple of compute can be estimated only if the base's loss falls from each size of the track to the "
            "next larger one; name other tracks"
        )
    start = dict(points)[compute]

    def needed(gain: float) -> float:
        target = start - gain
        place = int(np.clip(np.searchsorted(-loss, -target), 1, len(loss) - 1))  # the two rungs around the target
        share = (loss[place - 1] - target) / (loss[place - 1] - loss[place])
        return float(10 ** (x[place - 1] + share * (x[place] - x[place - 1]) - math.log10(compute)))

    return Interval(*map(needed, gain))


def order_kept(first: Sequence[float], second: Sequence[float], level: float = 0.9) -> Interval:
    """Share of pairs of ideas whose gains are in the same order on two sizes. By chance it is 1/2.

    `first` and `second` contain each idea's gain, on one size each. The interval is a percentile bootstrap over the
    ideas (Efron, 1979), because pairs with a common idea are not independent. Equal gains count half. Raises
    LlmbenchError for fewer than two ideas.
    """
    if len(first) < FEWEST_IDEAS:
        raise LlmbenchError(
            "to compare the order of ideas on two sizes, two ideas must be measured on both sizes; measure more ideas"
        )
    one, two = (np.sign(np.subtract.outer(gains, gains)) for gains in (np.array(first), np.array(second)))
    kept = (1 + one * two) / 2
    others = ~np.eye(len(first), dtype=bool)
    drawn = np.random.default_rng(0).integers(len(first), size=(RESAMPLES, len(first)))
    places = drawn[:, :, None], drawn[:, None, :]
    count = others[places].sum(axis=(1, 2))  # an idea that is drawn twice makes no pair with itself
    shares = (kept * others)[places].sum(axis=(1, 2))[count > 0] / count[count > 0]
    low, high = np.quantile(shares, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(kept[others].mean()), float(low), float(high))


def share(hits: int, count: int, level: float = 0.9) -> Interval:
    """The share `hits` / `count` with Wilson's confidence interval (1927)."""
    from scipy.special import ndtri

    z, found = float(ndtri((1 + level) / 2)), hits / count
    middle = (found + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * math.sqrt(found * (1 - found) / count + z**2 / (4 * count**2))
    return Interval(found, max(0.0, middle - reach), min(1.0, middle + reach))


def typical_deviation(gains: Sequence[Sequence[float]]) -> float | None:
    """Typical standard deviation of a pair's gain: the median over ideas. None if no idea has two pairs.

    The median of sample variances of a few normal values lies below the true variance. So each sample variance is
    divided by the median that it has for a true variance of one.
    """
    from scipy.special import chdtri

    variances = [
        float(np.var(one, ddof=1)) * (len(one) - 1) / float(chdtri(len(one) - 1, 0.5))
        for one in gains
        if len(one) >= FEWEST_PAIRS
    ]
    return math.sqrt(float(np.median(variances))) if variances else None


def _log_compute(rungs: Sequence[Rung]) -> Array:
    x = np.log10([rung.compute for rung in rungs])
    if len(set(x.tolist())) < 2:
        raise LlmbenchError(
            "to estimate how a gain changes with compute, two sizes must differ in compute; name more tracks"
        )
    return x


def _weighted(rungs: Sequence[Rung], weights: Array, level: float, more: float = 0.0) -> Interval:
    """Weighted sum of the rungs' mean gains, with its confidence interval.

    `more` is a variance that is added to that of the sum.
    """
    from scipy.special import stdtrit

    if any(len(rung.gains) < FEWEST_PAIRS for rung in rungs):
        raise LlmbenchError(f"each size of the track needs {FEWEST_PAIRS} pairs of runs or more; train more pairs")
    means = np.array([np.mean(rung.gains) for rung in rungs])
    variances = weights**2 * [np.var(rung.gains, ddof=1) / len(rung.gains) for rung in rungs]
    value, total = float(weights @ means), float(variances.sum())
    if total + more == 0:
        return Interval(value, value, value)
    df = total**2 / float((variances**2 / [len(rung.gains) - 1 for rung in rungs]).sum()) if total else math.inf
    reach = float(-stdtrit(df, (1 - level) / 2)) * math.sqrt(total + more)
    return Interval(value, value - reach, value + reach)
