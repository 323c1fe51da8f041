"""Statistical tests of a comparison. scipy is loaded when a test is first used.

A gain is the record's value minus the candidate's, because lower losses and times are better. An *arm* is one of the
two sides: the record's values or the candidate's. Every test is one-sided: it asks whether the true gain exceeds a
given `margin`. A test is impossible if an arm has too few values, if the values do not vary, if a value is NaN or
infinite, or if paired arms differ in length. It then gives a reason code and no p-value, so it can never accept.

The formulas take arrays, so the same code tests one candidate or a million simulated candidates.
Shapes: S is the number of seeds, always the last axis. Each position on the axes before it is an independent contest
(one candidate against the record).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Design = Literal["paired", "stored", "welch"]
TestName = Literal["one_sample_t", "welch_t", "paired_t", "z", "two_sample_z"]

LARGEST = 1e100  # the square of a larger number may overflow; no loss and no time is that large
ROUNDING = 8 * 2.0**-52  # a spread below eight units in the last place is rounding, not noise
SMALLEST_ALPHA = 1e-12  # far below any significance level in use; quantiles are still finite
FEWEST_SIGN_FLIPS = 7  # pairs; with six pairs the smallest possible p is 1/64, above any alpha in use
MOST_SIGN_FLIPS = 20  # pairs, which give 2**20 sums; with more pairs the t-test needs no such check


class Estimate(NamedTuple):
    """A mean gain, its standard error (0 if the values do not vary) and its degrees of freedom."""

    gain: Array
    standard_error: Array
    df: Array


class GainTest(NamedTuple):
    """The result of one test. If the test could not be made, `p_value` is None and `reasons` says why."""

    test: TestName
    n: int
    """Number of the candidate's values."""
    alpha: float
    gain: float | None = None
    ci_low: float | None = None
    """Lower end of the two-sided confidence interval at level 1 - 2 alpha. It is above the margin if and only if
    p < alpha."""
    ci_high: float | None = None
    p_value: float | None = None
    reasons: tuple[str, ...] = ()

    @property
    def passes(self) -> bool:
        """Whether the test shows, at the significance level `alpha`, that the gain exceeds the margin."""
        return self.p_value is not None and self.p_value <= self.alpha


def gain_test(
    record: Sequence[float] | float,
    candidate: Sequence[float],
    *,
    paired: bool = False,
    sigma: float | None = None,
    margin: float = 0.0,
    alpha: float = 0.01,
) -> GainTest:
    """Test whether the candidate's gain exceeds `margin`. If `record` is a single number, it is a fixed target.

    With a fixed target, the test is Student's t-test. Independent arms (the record's values and the candidate's) are
    compared by Welch's t-test, which allows different variances (Welch 1947). With `paired`, values at the same
    position are a pair, and the test is Student's t-test of the differences. If `sigma`, the standard deviation of a
    single value, is known, the test is a z-test.
    """
    target = record if isinstance(record, int | float) else None
    arms = [candidate] if isinstance(record, int | float) else [record, candidate]
    test: TestName = "two_sample_z"
    if target is not None:
        test = "one_sample_t" if sigma is None else "z"
    elif sigma is None:
        test = "paired_t" if paired else "welch_t"
    problems = value_problems(*arms, [margin, target or 0.0])
    if sigma is not None and not ROUNDING / LARGEST < sigma <= LARGEST:
        problems += ("bad_sigma",)
    if not SMALLEST_ALPHA <= alpha < 0.5:
        problems += ("bad_alpha",)
    if min(map(len, arms)) < (2 if sigma is None else 1):
        problems += ("too_few_values",)
    if test == "paired_t" and len(arms[0]) != len(candidate):
        problems += ("unequal_lengths",)
    if problems:
        return GainTest(test, len(candidate), alpha, reasons=problems)
    record_S, candidate_S = np.asarray(record, dtype=float), np.asarray(candidate, dtype=float)
    if sigma is None:
        found = estimate(record_S, candidate_S, "welch" if test == "welch_t" else "paired")
    elif target is None:
        found = known_sigma(record_S, candidate_S, sigma)
    else:
        error = np.asarray(sigma / math.sqrt(len(candidate)))
        found = Estimate(target - candidate_S.mean(-1), error, np.asarray(math.inf))
    gain = float(found.gain)
    if found.standard_error == 0:
        return GainTest(test, len(candidate), alpha, gain, reasons=("zero_variance",))
    low, high = map(float, bounds(found, alpha))
    return GainTest(test, len(candidate), alpha, gain, low, high, float(p_value(found, margin)))


def seed_problems(record: Sequence[int], candidate: Sequence[int], *, paired: bool) -> tuple[str, ...]:
    """Reason codes if a seed occurs twice in one of the lists or, with `paired`, if the two lists of seeds differ."""
    repeated = len(set(record)) != len(record) or len(set(candidate)) != len(candidate)
    mixed = paired and list(record) != list(candidate)
    return ("repeated_seeds",) * repeated + ("mixed_seeds",) * mixed


def pair_correlation(record: Sequence[float], candidate: Sequence[float]) -> float | None:
    """Pearson's correlation between the record's and the candidate's values, over the pairs.

    None for fewer than three pairs, and if the values of one side do not vary or are not finite.
    """
    if len(record) != len(candidate) or len(record) < 3 or value_problems(record, candidate):
        return None
    arms = np.asarray([record, candidate], dtype=float)
    centred = arms - arms.mean(-1, keepdims=True)
    spread = _deviation(arms)
    if not spread.all():
        return None
    unit = centred / spread[:, None]  # scaled before the product, so that products of small numbers do not underflow
    return float(np.clip(unit[0] @ unit[1] / (len(record) - 1), -1.0, 1.0))


def sign_flip_p(record: Sequence[float], candidate: Sequence[float], *, margin: float = 0.0) -> float | None:
    """Exact one-sided p-value of a sign-flip test (Fisher 1935).

    It is the share of all 2**S choices of signs for the S differences (gain minus margin) that give at least the
    measured mean. The test assumes that the differences are distributed symmetrically about the margin; they need not
    be normal. Means that differ only by rounding count as equal. The result is None for fewer than 7 pairs (p could not
    reach 1 %), for more than 20 pairs (too many choices), and for values that are not finite.
    """
    usable = len(record) == len(candidate) and not value_problems(record, candidate, [margin])
    if not usable or not FEWEST_SIGN_FLIPS <= len(record) <= MOST_SIGN_FLIPS:
        return None
    record_S, candidate_S = np.asarray(record, dtype=float), np.asarray(candidate, dtype=float)
    gains, num = record_S - candidate_S - margin, len(record)
    flipped = (np.arange(2**num)[:, None] >> np.arange(num)) & 1
    rounding = ROUNDING * (np.abs(record_S) + np.abs(candidate_S) + abs(margin)).sum()
    return float((gains @ flipped.T <= rounding).mean())  # a flip keeps or raises the sum if the flipped part is <= 0


def estimate(record_S: Array, candidate_S: Array, design: Design) -> Estimate:
    """Estimate the mean gain of each contest (one candidate against the record).

    Record and candidate need two seeds or more. `design` says how their values are compared. `paired`: values at the
    same position are a pair. `stored`: all values are independent, with the same variance. `welch`: all values are
    independent, and the variances of record and candidate may differ (Welch 1947).
    """
    if design == "paired":
        num = candidate_S.shape[-1]
        scale = np.maximum(np.abs(record_S), np.abs(candidate_S)).max(-1)
        gains = record_S - candidate_S
        return Estimate(gains.mean(-1), _deviation(gains, scale) / math.sqrt(num), np.asarray(num - 1.0))
    if design == "stored":  # Student's t-test with the pooled variance, which assumes equal variances
        arms = (record_S, candidate_S)
        df = sum(arm.shape[-1] - 1 for arm in arms)
        variance = sum(_deviation(arm) ** 2 * (arm.shape[-1] - 1) for arm in arms) / df
        error = np.sqrt(variance * sum(1 / arm.shape[-1] for arm in arms))
        return Estimate(record_S.mean(-1) - candidate_S.mean(-1), error, np.asarray(float(df)))
    squares = [_deviation(arm) ** 2 / arm.shape[-1] for arm in (record_S, candidate_S)]
    total = squares[0] + squares[1]
    share = squares[0] / np.where(total > 0, total, 1.0)
    df = 1 / (share**2 / (record_S.shape[-1] - 1) + (1 - share) ** 2 / (candidate_S.shape[-1] - 1))
    return Estimate(record_S.mean(-1) - candidate_S.mean(-1), np.sqrt(total), df)


def known_sigma(record_S: Array, candidate_S: Array, sigma: float) -> Estimate:
    """Estimate each contest's mean gain for independent values whose standard deviation `sigma` is known."""
    error = sigma * math.sqrt(1 / record_S.shape[-1] + 1 / candidate_S.shape[-1])
    gain = record_S.mean(-1) - candidate_S.mean(-1)
    return Estimate(gain, np.full_like(gain, error), np.asarray(math.inf))


def p_value(found: Estimate, margin: float) -> Array:
    """One-sided p-value for a gain above the margin. It is NaN if the standard error is 0; no test accepts NaN."""
    from scipy.special import stdtr

    usable = found.standard_error > 0
    t = (found.gain - margin) / np.where(usable, found.standard_error, 1.0)
    return np.where(usable, stdtr(found.df, -t), np.nan)


def bounds(found: Estimate, alpha: float) -> tuple[Array, Array]:
    """Lower and upper bound of the gain, each one-sided at level `alpha`.

    If the standard error is 0, both bounds equal the gain.
    """
    from scipy.special import stdtrit

    reach = -stdtrit(found.df, alpha) * found.standard_error
    return found.gain - reach, found.gain + reach


def _deviation(values_S: Array, scale: Array | None = None) -> Array:
    """Standard deviation over the seeds.

    It is set to 0 if rounding of numbers as large as `scale` could be its only cause.
    """
    scale = np.abs(values_S).max(-1) if scale is None else scale
    found = values_S.std(-1, ddof=1)
    return np.where(found > ROUNDING * scale, found, 0.0)


def value_problems(*arms: Sequence[float]) -> tuple[str, ...]:
    """The reason code `not_finite` if a value is NaN, infinite or above 1e100 in absolute value; else no code."""
    usable = all(abs(value) <= LARGEST for arm in arms for value in arm)  # also false for NaN
    return () if usable else ("not_finite",)
