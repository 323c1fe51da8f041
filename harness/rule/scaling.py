"""How a gain changes with compute: its slope, a forecast for another size, and what it is worth in compute.

A *rung* is a track of one size. Each has its own pairs with their own standard deviation. Every number here is a
weighted sum of the rungs' mean gains: its variance follows from theirs, and its degrees of freedom are Welch's (1947),
as for the difference of two means. Compute is in floating-point operations of a run, and gains are taken to be linear
in its logarithm to base ten. That is an assumption, and best for sizes that are close.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.core.errors import LlmbenchError
from harness.rule.stats import Array

FEWEST_PAIRS = 2
"""Least number of pairs of a rung, because one pair has no standard deviation."""

FEWEST_IDEAS = 2
"""Least number of ideas that have an order."""
RESAMPLES = 2000


class Rung(NamedTuple):
    """One size: the compute of one run, and the gain of each pair in nats per token."""

    compute: float
    gains: Sequence[float]


class Interval(NamedTuple):
    """A number and the ends of its two-sided interval, which equal the number if there is no spread."""

    value: float
    low: float
    high: float


def gain_at(rung: Rung, level: float = 0.9) -> Interval:
    """The mean gain on one rung, with its interval at `level`. Raises LlmbenchError for fewer than two pairs."""
    return _weighted([rung], np.ones(1), level)


def slope(rungs: Sequence[Rung], level: float = 0.9) -> Interval:
    """Gain per tenfold of compute, by least squares over the rungs' means.

    Raises LlmbenchError for fewer than two rungs of different compute, or fewer than two pairs on one.
    """
    x = _log_compute(rungs)
    return _weighted(rungs, (x - x.mean()) / ((x - x.mean()) ** 2).sum(), level)


def forecast(rungs: Sequence[Rung], compute: float, level: float = 0.9, *, pairs: int | None = None) -> Interval:
    """The gain on the same line at another compute.

    With `pairs` the interval is that of the mean of so many pairs there, with the spread of the nearest rung. Without
    it, it is that of the line. Raises LlmbenchError as `slope` does.
    """
    x = _log_compute(rungs)
    weights = 1 / len(x) + (math.log10(compute) - x.mean()) * (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    nearest = min(rungs, key=lambda rung: abs(math.log10(rung.compute / compute)))
    more = 0.0 if pairs is None else float(np.var(nearest.gains, ddof=1)) / pairs
    return _weighted(rungs, weights, level, more)


def compute_multiple(base: Sequence[tuple[float, float]], compute: float, gain: Interval) -> Interval:
    """How many times `compute` the base needs for a loss that is lower by `gain`, from its own losses over the rungs.

    `base` holds (compute, val loss) of the base on each rung. Between rungs the loss is taken to be linear in the
    logarithm of compute; outside, the nearest slope is continued. Raises LlmbenchError where
    the base's loss does not fall from rung to rung, or where `compute` is none of the rungs.
    """
    points = sorted(base)
    x, loss = (np.array(values, dtype=float) for values in zip(*points, strict=True))
    x = np.log10(x)
    if len(points) < 2 or not (np.diff(loss) < 0).all() or compute not in dict(points):
        raise LlmbenchError("a gain has a multiple of compute only where the base's loss falls over two rungs or more")
    start = dict(points)[compute]

    def needed(gain: float) -> float:
        target = start - gain
        place = int(np.clip(np.searchsorted(-loss, -target), 1, len(loss) - 1))  # the piece that contains the target
        share = (loss[place - 1] - target) / (loss[place - 1] - loss[place])
        return float(10 ** (x[place - 1] + share * (x[place] - x[place - 1]) - math.log10(compute)))

    return Interval(*map(needed, gain))


def order_kept(first: Sequence[float], second: Sequence[float], level: float = 0.9) -> Interval:
    """The share of pairs of ideas whose gains are in the same order on two sizes: 1/2 by chance, 1 if all are.

    The interval is a percentile bootstrap over the ideas (Efron, 1979), because the pairs of an idea are not
    independent. Equal gains count half. Raises LlmbenchError for fewer than two ideas.
    """
    if len(first) < FEWEST_IDEAS:
        raise LlmbenchError("an order needs two ideas on both sizes; measure more of them")
    one, two = (np.sign(np.subtract.outer(gains, gains)) for gains in (np.array(first), np.array(second)))
    kept = (1 + one * two) / 2
    others = ~np.eye(len(first), dtype=bool)
    drawn = np.random.default_rng(0).integers(len(first), size=(RESAMPLES, len(first)))
    places = drawn[:, :, None], drawn[:, None, :]
    count = others[places].sum(axis=(1, 2))  # an idea that is drawn twice is no pair
    shares = (kept * others)[places].sum(axis=(1, 2))[count > 0] / count[count > 0]
    low, high = np.quantile(shares, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(kept[others].mean()), float(low), float(high))


def share(hits: int, count: int, level: float = 0.9) -> Interval:
    """A share of `count` ideas with Wilson's interval (1927)."""
    from scipy.special import ndtri

    z, found = float(ndtri((1 + level) / 2)), hits / count
    middle = (found + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * math.sqrt(found * (1 - found) / count + z**2 / (4 * count**2))
    return Interval(found, max(0.0, middle - reach), min(1.0, middle + reach))


def typical_deviation(gains: Sequence[Sequence[float]]) -> float | None:
    """The median over ideas of the standard deviation of a pair's gain; None if no idea has two pairs.

    The median of few normal values' variances is below the variance: each is divided by its own median under it.
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
        raise LlmbenchError("a slope needs two sizes of different compute; name more tracks")
    return x


def _weighted(rungs: Sequence[Rung], weights: Array, level: float, more: float = 0.0) -> Interval:
    """The weighted sum of the rungs' mean gains; `more` is an additional variance."""
    from scipy.special import stdtrit

    if any(len(rung.gains) < FEWEST_PAIRS for rung in rungs):
        raise LlmbenchError(f"each size needs {FEWEST_PAIRS} pairs or more; train more of them")
    means = np.array([np.mean(rung.gains) for rung in rungs])
    variances = weights**2 * [np.var(rung.gains, ddof=1) / len(rung.gains) for rung in rungs]
    value, total = float(weights @ means), float(variances.sum())
    if total + more == 0:
        return Interval(value, value, value)
    df = total**2 / float((variances**2 / [len(rung.gains) - 1 for rung in rungs]).sum()) if total else math.inf
    reach = float(-stdtrit(df, (1 - level) / 2)) * math.sqrt(total + more)
    return Interval(value, value - reach, value + reach)
