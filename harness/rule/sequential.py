"""The *looks* of a confirmation: tests after declared numbers of pairs that accept, reject, or ask for more pairs.

All functions take arrays and judge many contests (one candidate against the record) at once. `verdict.decide` uses this
module for one contest, `benchmarks/verdict.py` for a hundred thousand simulated contests.
Shapes: seeds are always the last axis; each position on the axes before it is an independent contest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import LlmbenchError
from harness.rule.stats import Array, Design, Estimate, bounds, estimate, p_value

Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]
Quantity = Literal["loss", "time", "evaluation_time"]

SIZE_TOLERANCE = 0.01
"""Largest allowed relative difference between alpha and the false-accept rate of a track's significance levels."""
NODES = 200
"""Number of points in each of three grids over the statistic: one is even, two are dense on the sides of an edge. With
four times as many points and twice as many angles, the false-accept rate of usual looks changes by less than 0.1 %."""
ANGLES = 32
"""Number of Gauss-Legendre nodes for the integral over one further pair."""
SMALLEST_P, LARGEST_P = 1e-150, 1 - 2.0**-53
"""Range of significance levels for which quantiles and their squares are finite."""


class Looks(Protocol):
    """When a contest may be decided: after which numbers of pairs (`looks`), at which significance levels (`levels`).

    On a track, the rule contains both. Outside a track, the user gives `looks`, and the levels are computed.
    """

    @property
    def looks(self) -> tuple[int, ...]: ...
    @property
    def levels(self) -> tuple[float, ...]: ...
    @property
    def alpha(self) -> float: ...
    @property
    def futility_alpha(self) -> float | None: ...
    @property
    def design(self) -> Literal["paired", "stored"]: ...


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One criterion: the gain in one quantity must exceed one margin."""

    quantity: Quantity
    record: Array
    candidate: Array
    margin: float
    design: Design
    level: float | None = None
    """One-sided significance level of a limit on time; None for a criterion that uses the level of each look. A limit
    on time passes if its gain is shown to be above the margin, and rejects if it is shown to be below. Otherwise the
    next look is needed; at the last look the mean decides."""
    counts: Flags | None = None
    """Which pairs count, equal for all contests; None if all pairs count."""
    missed: str
    """Reason code if the last look does not show the gain."""
    hopeless: str
    """Reason code if a look before the last rejects because of this criterion."""
    unclear: str = ""
    """Reason code if a look does not decide about a criterion that has its own level."""

    def arms(self, num_pairs: int) -> tuple[Array, Array]:
        """The values of record and candidate in the first `num_pairs` pairs, without pairs that `counts` excludes.

        If the design is `stored`, the record's values are those of all its stored runs.
        """
        counted = slice(None) if self.counts is None else self.counts[:num_pairs]
        candidate = self.candidate[..., :num_pairs][..., counted]
        if self.design == "stored":
            return self.record, candidate
        return self.record[..., :num_pairs][..., counted], candidate


class Finding(NamedTuple):
    """Result of one criterion at one look (test), for every contest."""

    estimate: Estimate
    low: Array
    high: Array
    """`low` and `high` are the ends of the two-sided confidence interval. Each end has the one-sided level of the
    criterion if it has one, else that of the look."""
    p: Array
    """One-sided p-value of the test at this look alone."""
    passes: Flags
    hopeless: Flags
    unclear: Flags
    """Whether the criterion cannot be decided, because the values do not vary or too few pairs count."""


class Replay(NamedTuple):
    """The state of each contest after all looks for which there are enough pairs."""

    decision: Counts
    """1 for accepted, -1 for rejected, 0 for undecided."""
    look: Counts
    """Number of the look that decided or, if none did, of the last look reached; 0 before the first."""


def find(criterion: Criterion, look: int, rule: Looks) -> Finding:
    """Evaluate one criterion at look number `look`, counted from 1.

    All numbers are NaN if fewer pairs can be used than the first look needs.
    """
    level, num_pairs, is_last = rule.levels[look - 1], rule.looks[look - 1], look == len(rule.looks)
    record, candidate = criterion.arms(num_pairs)
    if candidate.shape[-1] < rule.looks[0] or record.shape[-1] < rule.looks[0]:
        unknown, no = np.full(candidate.shape[:-1], np.nan), np.zeros(candidate.shape[:-1], dtype=np.bool_)
        return Finding(Estimate(unknown, unknown, unknown), unknown, unknown, unknown, no, no, ~no)
    found = estimate(record, candidate, criterion.design)
    p = p_value(found, criterion.margin)
    flat = found.standard_error == 0
    if criterion.level is not None:
        low, high = bounds(found, criterion.level)
        passes = found.gain >= criterion.margin if is_last else low >= criterion.margin
        hopeless = ~passes if is_last else high < criterion.margin
        return Finding(found, low, high, p, passes, hopeless, np.zeros_like(flat))
    low, high = bounds(found, level)
    passes = p <= level
    best = bounds(found, rule.futility_alpha)[1] if rule.futility_alpha is not None else high
    hopeless = ~passes & (best <= criterion.margin)
    return Finding(found, low, high, p, passes, hopeless, ~passes & ~hopeless & flat)


def replay(criteria: Sequence[Criterion], rule: Looks) -> Replay:
    """Make all looks (tests after declared numbers of pairs) in order, for all contests at once.

    The first decision on a contest is final.
    """
    *contests, available = criteria[0].candidate.shape
    decision, look = np.zeros(contests, dtype=np.int64), np.zeros(contests, dtype=np.int64)
    for number, num_pairs in enumerate(rule.looks, start=1):
        if num_pairs > available:
            break
        findings = [find(criterion, number, rule) for criterion in criteria]
        accepts = np.all([f.passes for f in findings], axis=0)
        rejects = np.any([f.hopeless for f in findings], axis=0)
        if num_pairs == rule.looks[-1]:
            rejects = rejects | np.any([~f.passes & ~f.unclear for f in findings], axis=0)
        undecided = decision == 0
        look = np.where(undecided, number, look)
        decision = np.where(undecided, np.where(accepts, 1, np.where(rejects, -1, 0)), decision)
    return Replay(decision, look)


def false_accept_rate(looks: Sequence[int], levels: Sequence[float]) -> float:
    """Probability that paired t-tests at these looks and levels accept a candidate with no gain.

    Exact if the differences within the pairs are normal. Let S_n be the sum and Q_n the sum of squares of the first n
    differences, and u_n = S_n / sqrt(Q_n). The t statistic of a look after n pairs is
    t = u_n sqrt((n - 1) / (n - u_n^2)). With no gain, the direction of the vector of differences is uniform on a
    sphere. So u_n is a Markov chain: u_{n+1} = u_n cos(a) + sin(a), where the angle a is independent of u_n and has a
    density proportional to cos(a)^(n - 1). The computation goes back from the last look: the probability of a later
    acceptance, given u_n, is the mean over a of this probability, given u_{n+1}.
    """
    from scipy.special import stdtrit

    finite = np.clip(levels, SMALLEST_P, LARGEST_P).tolist()
    quantiles = [float(-stdtrit(n - 1, level)) for n, level in zip(looks, finite, strict=True)]
    return _crossing(tuple(looks), tuple(quantiles))


def stage_wise_p(looks: Sequence[int], levels: Sequence[float], look: int, p: float) -> float:
    """The p-value over all looks of a paired comparison that ended at look number `look`, counted from 1.

    `p` is the p-value of the t-test at that look alone. The result is the probability that a candidate with no gain is
    accepted at an earlier look, or reaches this look with a t statistic at least as large. It is at most the
    false-accept rate alpha if and only if the candidate is accepted (stage-wise ordering, Fairbanks and Madsen 1982).
    """
    return false_accept_rate(looks[:look], [*levels[: look - 1], p])


@lru_cache(maxsize=256)
def _crossing(looks: tuple[int, ...], quantiles: tuple[float, ...]) -> float:
    """Probability that, without any gain, the t statistic reaches the quantile of at least one of these looks."""
    from scipy.special import stdtr, stdtrit

    bars = {n: t * math.sqrt(n / (n - 1 + t * t)) for n, t in zip(looks, quantiles, strict=True)}
    # After the last look the probability of acceptance is zero.
    last = looks[-1]
    grid, edge = np.array([-math.sqrt(last), math.sqrt(last)]), bars[last]
    later = np.zeros_like(grid)
    nodes, weights = np.polynomial.legendre.leggauss(ANGLES)
    for n in range(last - 1, looks[0] - 1, -1):
        edge = bars.get(n + 1, edge)
        new_grid, new_edge = _grid(n, edge)
        later = _one_step(new_grid, n, edge, n + 1 in bars, grid, later, nodes, weights)
        grid, edge = new_grid, new_edge
    first = looks[0]
    # The first look: the probability of acceptance at it, then of acceptance later, integrated over quantiles of u.
    t_first = quantiles[0]
    at_first = float(stdtr(first - 1, -t_first))
    share = (nodes + 1) / 2
    total = 0.0
    # The pieces of the integral are finer near the quantile, where acceptance at a later look is likely.
    edges = 1 - (1 - np.linspace(0, 1, 200)) ** 3
    for low, high in itertools.pairwise(edges):
        mass = (low + (high - low) * share) * (1 - at_first)
        t = stdtrit(first - 1, mass)
        u = t * np.sqrt(first / (first - 1 + t * t))
        total += float((np.interp(u, grid, later) * weights).sum() / 2) * (high - low) * (1 - at_first)
    return float(at_first + total)


def _grid(n: int, edge: float) -> tuple[Array, float]:
    """The grid of values for u_n (see `false_accept_rate`), and the u_n from which u_{n+1} can just reach `edge`.

    The grid is dense near that u_n, because there the probability of acceptance changes like a square root.
    """
    longest = math.sqrt(n)
    plain = longest * np.sin(np.linspace(-math.pi / 2, math.pi / 2, NODES))
    reach = math.copysign(math.sqrt(max(0.0, edge * edge - 1)), edge)
    near = np.linspace(0, 1, NODES) ** 3
    sides = [reach + (end - reach) * near for end in (-longest, longest)] if abs(reach) < longest else []
    return np.unique(np.concatenate([plain, *sides])), reach


def _one_step(
    u: Array, n: int, edge: float, is_look: bool, next_grid: Array, next_value: Array, nodes: Array, weights: Array
) -> Array:
    """Probability of a later acceptance for each value `u` of u_n (see `false_accept_rate`), after n pairs.

    It is computed from `next_value`, the same probability after n + 1 pairs at the points `next_grid`. The probability
    after n + 1 pairs is not smooth at `edge`, so the integral is split there. If a look follows n + 1 pairs, every
    u_{n+1} from `edge` on is accepted.
    """
    half = math.pi / 2
    turned, longest = np.arctan(u), np.sqrt(1 + u * u)
    # u' = longest sin(a + turned) meets the edge up to twice, and a third time where the edge is below -1.
    inside = np.arcsin(np.clip(edge / longest, -1, 1))
    meets = (-math.pi - inside, inside, math.pi - inside)
    cuts = [np.full_like(u, -half), *(np.clip(meet - turned, -half, half) for meet in meets), np.full_like(u, half)]
    # The inverse of the integral of cos^(n-1) over all angles.
    scale = math.gamma(n / 2 + 0.5) / (math.sqrt(math.pi) * math.gamma(n / 2))
    value = np.zeros_like(u)
    for place, (low, high) in enumerate(itertools.pairwise(cuts)):
        middle, reach = (low + high) / 2, (high - low) / 2
        angle = middle[:, None] + reach[:, None] * nodes
        density = np.cos(angle) ** (n - 1) * scale
        if is_look and place % 2 == 0:
            found = density
        else:
            found = density * np.interp(u[:, None] * np.cos(angle) + np.sin(angle), next_grid, next_value)
        value += (found * weights).sum(-1) * reach
    return value


WEIGHTS = ((3, 4, 5, 6, 7, 8), (1.0, 1.3, 1.6, 2.0, 2.8, 4.0))
"""Looks of a contest of eight pairs, and the ratios of their significance levels. Tracks use some of these looks
(benchmarks/verdict)."""


def usual_weights(looks: Sequence[int]) -> list[float]:
    """The usual ratios between the significance levels of `looks`, interpolated in WEIGHTS at 8 * look / last look."""
    return [float(np.interp(8 * look / looks[-1], *WEIGHTS)) for look in looks]


def spend(looks: Sequence[int], weights: Sequence[float], alpha: float) -> tuple[float, ...]:
    """The significance levels, in the ratios `weights`, for a false-accept rate of `alpha` over all `looks`."""
    from scipy.optimize import brentq

    def missed(scale: float) -> float:
        return false_accept_rate(looks, [scale * weight for weight in weights]) - alpha

    scale = brentq(missed, 0.0, 1.01 * alpha / min(weights), xtol=alpha * 1e-6)
    return tuple(scale * weight for weight in weights)


def check_levels(rule: Looks) -> None:
    """Raises LlmbenchError if the significance levels of `rule` do not give its false-accept rate `rule.alpha`."""
    if rule.design == "stored":  # for stored runs only a union bound is known
        size, exact = sum(rule.levels), False
    else:
        size, exact = false_accept_rate(rule.looks, rule.levels), True
    if size > rule.alpha * (1 + SIZE_TOLERANCE) or (exact and size < rule.alpha * (1 - SIZE_TOLERANCE)):
        raise LlmbenchError(
            f"with rule.levels, a candidate without any gain is accepted with a probability of {size:.5f}, but the "
            f"track's rule.alpha is {rule.alpha}; multiply each of rule.levels by about {rule.alpha / size:.4f}"
        )
