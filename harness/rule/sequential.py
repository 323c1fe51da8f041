"""The looks of a confirmation on arrays: which contests are accepted, rejected, or need more pairs.

`verdict.decide` uses it for one contest, `benchmarks/verdict.py` for a hundred thousand simulated ones.
Shapes: seeds are always the last axis; any axes before it are independent contests.
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
"""Largest relative error of the false-accept rate that a track's levels give."""
NODES = 200
"""Points of each of the three grids over the statistic: one even, two dense on the sides of an edge. With four times as
many points and twice as many angles, the size of usual looks changes by less than one in a thousand."""
ANGLES = 32
"""Gauss-Legendre nodes for the integral of one step."""
SMALLEST_P, LARGEST_P = 1e-150, 1 - 2.0**-53
"""Range of levels for which quantiles and their squares are finite."""


class Looks(Protocol):
    """After how many pairs, and at which levels, a contest may be decided: by a track's rule, or as declared."""

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
    """None if the gain must be shown at the level of each look. A guard on time has its own level: at that level it
    passes if the gain is shown to be above the margin, and blocks if it is shown to be below. In between the next look
    is needed; at the last look the mean decides."""
    counts: Flags | None = None
    """Which pairs count, the same for every contest; None for all."""
    missed: str
    """Reason code where the last look does not show the gain."""
    hopeless: str
    """Reason code where an earlier look excludes it."""
    unclear: str = ""
    """Reason code where a look shows neither, for a criterion with its own level."""

    def arms(self, num_pairs: int) -> tuple[Array, Array]:
        """The record's and the candidate's values in those of the first `num_pairs` pairs that count.

        Stored runs of a record all count.
        """
        counted = slice(None) if self.counts is None else self.counts[:num_pairs]
        candidate = self.candidate[..., :num_pairs][..., counted]
        if self.design == "stored":
            return self.record, candidate
        return self.record[..., :num_pairs][..., counted], candidate


class Finding(NamedTuple):
    """What one criterion gives at one look, for every contest."""

    estimate: Estimate
    low: Array
    high: Array
    """Ends of the two-sided interval at the look's level, or at the criterion's own."""
    p: Array
    """One-sided p-value of this look alone."""
    passes: Flags
    hopeless: Flags
    unclear: Flags
    """Neither shown nor excluded, because the values have no spread or too few pairs count."""


class Replay(NamedTuple):
    """The state of each contest after all looks for which there are enough pairs."""

    decision: Counts
    """1 for accepted, -1 for rejected, 0 for undecided."""
    look: Counts
    """Number of the look that decided or, if none did, of the last one reached; 0 before the first."""


def find(criterion: Criterion, look: int, rule: Looks) -> Finding:
    """What one criterion gives at look number `look`, counted from 1.

    All numbers are NaN where fewer pairs count than the first look needs.
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
    """All looks in turn, for every contest at once. The first decision is final."""
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
    """Probability that paired t-tests at these looks and levels accept a candidate without any gain.

    Exact for normal differences. With S_n the sum and Q_n the sum of squares of n differences, the statistic of every
    look is a function of u_n = S_n / sqrt(Q_n), t = u sqrt((n - 1) / (n - u^2)). Without a gain the direction of the
    differences is uniform on a sphere, so u_n is a Markov chain: u' = u cos(a) + sin(a), where the angle a is
    independent of u and has a density proportional to cos(a)^(n - 1). The recursion runs backwards: the probability
    of acceptance from u_n is the mean over a of the probability from u_{n+1}.
    """
    from scipy.special import stdtrit

    finite = np.clip(levels, SMALLEST_P, LARGEST_P).tolist()
    quantiles = [float(-stdtrit(n - 1, level)) for n, level in zip(looks, finite, strict=True)]
    return _crossing(tuple(looks), tuple(quantiles))


def stage_wise_p(looks: Sequence[int], levels: Sequence[float], look: int, p: float) -> float:
    """The p-value over all looks of a paired design that stopped at `look`, where the test at that look gave `p`.

    It is the probability, for a candidate without any gain, to be accepted at an earlier look or to reach this look
    with a statistic at least as large. It is at most alpha exactly where the candidate is accepted (stage-wise
    ordering, Fairbanks and Madsen 1982).
    """
    return false_accept_rate(looks[:look], [*levels[: look - 1], p])


@lru_cache(maxsize=256)
def _crossing(looks: tuple[int, ...], quantiles: tuple[float, ...]) -> float:
    """Probability that the t statistic reaches its quantile at one of these looks."""
    from scipy.special import stdtr, stdtrit

    bars = {n: t * math.sqrt(n / (n - 1 + t * t)) for n, t in zip(looks, quantiles, strict=True)}
    # After the last look nothing is accepted any more.
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
    # At the first look: quantiles of u at equal steps of probability, where the contest goes on.
    t_first = quantiles[0]
    at_first = float(stdtr(first - 1, -t_first))
    share = (nodes + 1) / 2
    total = 0.0
    # The probability below the bar, in finer pieces near the bar, where later acceptance is likely.
    edges = 1 - (1 - np.linspace(0, 1, 200)) ** 3
    for low, high in itertools.pairwise(edges):
        mass = (low + (high - low) * share) * (1 - at_first)
        t = stdtrit(first - 1, mass)
        u = t * np.sqrt(first / (first - 1 + t * t))
        total += float((np.interp(u, grid, later) * weights).sum() / 2) * (high - low) * (1 - at_first)
    return float(at_first + total)


def _grid(n: int, edge: float) -> tuple[Array, float]:
    """States u_n. Near those that can just reach `edge` at n + 1 the probability behaves like a square root.

    The grid is dense near them.
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
    """Probability of acceptance after n differences, from that after n + 1, which is not smooth at `edge`.

    If n + 1 is a look, it accepts everything from `edge` on.
    """
    half = math.pi / 2
    turned, longest = np.arctan(u), np.sqrt(1 + u * u)
    # u' = longest sin(a + turned) meets the edge up to twice, and a third time where the edge is below -1.
    inside = np.arcsin(np.clip(edge / longest, -1, 1))
    meets = (-math.pi - inside, inside, math.pi - inside)
    cuts = [np.full_like(u, -half), *(np.clip(meet - turned, -half, half) for meet in meets), np.full_like(u, half)]
    # Normalized by the integral of cos^(n-1) over all angles.
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
"""Looks of a contest of eight pairs and the ratio of their levels; tracks use some of them (benchmarks/verdict)."""


def usual_weights(looks: Sequence[int]) -> list[float]:
    """The ratio of the levels at these looks, as on the tracks, by each look's share of the last one."""
    return [float(np.interp(8 * look / looks[-1], *WEIGHTS)) for look in looks]


def spend(looks: Sequence[int], weights: Sequence[float], alpha: float) -> tuple[float, ...]:
    """Levels in the ratio of `weights` whose false-accept rate in a paired design is `alpha`."""
    from scipy.optimize import brentq

    def missed(scale: float) -> float:
        return false_accept_rate(looks, [scale * weight for weight in weights]) - alpha

    scale = brentq(missed, 0.0, 1.01 * alpha / min(weights), xtol=alpha * 1e-6)
    return tuple(scale * weight for weight in weights)


def check_levels(rule: Looks) -> None:
    """Raises LlmbenchError where the levels do not give the false-accept rate alpha."""
    if rule.design == "stored":  # stored runs have no exact levels but a union bound
        size, exact = sum(rule.levels), False
    else:
        size, exact = false_accept_rate(rule.looks, rule.levels), True
    if size > rule.alpha * (1 + SIZE_TOLERANCE) or (exact and size < rule.alpha * (1 - SIZE_TOLERANCE)):
        raise LlmbenchError(
            f"rule.levels: these looks accept a candidate without any gain with a probability of {size:.5f}, the "
            f"declared alpha is {rule.alpha}; multiply the levels by about {rule.alpha / size:.4f}"
        )
