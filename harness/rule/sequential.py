"""The looks of a confirmation on arrays: what is accepted, what is hopeless, what needs more pairs.

`verdict.decide` runs it on one contest, `benchmarks/verdict.py` on a hundred thousand simulated ones.
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
"""Share of alpha by which the levels of a track may miss it."""
NODES = 200
"""Of the grid over the statistic, three times: evenly, and dense on both sides of an edge. Four times as many, with
twice as many angles, move the size of usual looks by less than a thousandth of itself."""
ANGLES = 32
"""Gauss-Legendre nodes of one step's integral."""
SMALLEST_P, LARGEST_P = 1e-150, 1 - 2.0**-53
"""Ends of the levels whose quantiles are finite, and their squares too."""


class Looks(Protocol):
    """When a contest may be decided, and at which levels: a track's rule, or what a comparison declares."""

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
    """One condition: the gain in one quantity against one margin."""

    quantity: Quantity
    record: Array
    candidate: Array
    margin: float
    design: Design
    level: float | None = None
    """None where the gain must be shown at the level of each look. A guard on time has a level of its own: it passes
    where the gain is above the margin at that level and blocks where it is below; in between the next look is taken,
    and at the last one the mean decides."""
    counts: Flags | None = None
    """Which pairs count, the same ones of every contest; None where all do."""
    missed: str
    """Reason code if the last look does not show the gain."""
    hopeless: str
    """Reason code if an earlier look excludes it."""
    unclear: str = ""
    """Reason code if a look finds neither, of a criterion with a level of its own."""

    def arms(self, num_pairs: int) -> tuple[Array, Array]:
        """The record's and the candidate's values of the first `num_pairs` pairs, as far as they count.

        Stored runs of a record all count.
        """
        counted = slice(None) if self.counts is None else self.counts[:num_pairs]
        candidate = self.candidate[..., :num_pairs][..., counted]
        if self.design == "stored":
            return self.record, candidate
        return self.record[..., :num_pairs][..., counted], candidate


class Finding(NamedTuple):
    """One criterion at one look, for every contest."""

    estimate: Estimate
    low: Array
    high: Array
    """Ends of the two-sided interval: of the look's level, or of the criterion's own."""
    p: Array
    """One-sided, of this look alone."""
    passes: Flags
    hopeless: Flags
    unclear: Flags
    """Neither passed nor excluded, because the values have no spread or too few pairs count."""


class Replay(NamedTuple):
    """The state of each contest after the looks that its pairs allow."""

    decision: Counts
    """1 accepted, -1 rejected, 0 undecided."""
    look: Counts
    """The look that decided, else the last one reached; from 1, 0 for none."""


def find(criterion: Criterion, look: int, rule: Looks) -> Finding:
    """One criterion at a look, counted from 1.

    Where fewer pairs count than the first look needs, nothing is known: all numbers are NaN.
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
    """Chance that paired t-tests at these looks, each at its own level, accept a candidate without any gain.

    Exact for normal differences. With S_n the sum and Q_n the sum of squares of n differences, the statistic of every
    look is a function of u_n = S_n / sqrt(Q_n), t = u sqrt((n - 1) / (n - u^2)). Without a gain the direction of the
    differences is uniform on a sphere, so u_n is a Markov chain: u' = u cos(a) + sin(a), where the angle a is
    independent of u and has a density proportional to cos(a)^(n - 1). The recursion runs backwards: the chance to
    be accepted from u_n on is the mean over a of the chance from u_{n+1} on.
    """
    from scipy.special import stdtrit

    finite = np.clip(levels, SMALLEST_P, LARGEST_P).tolist()
    quantiles = [float(-stdtrit(n - 1, level)) for n, level in zip(looks, finite, strict=True)]
    return _crossing(tuple(looks), tuple(quantiles))


def stage_wise_p(looks: Sequence[int], levels: Sequence[float], look: int, p: float) -> float:
    """One p-value over all looks of a paired design that stopped at `look`, whose own test gave `p`.

    The chance, without a gain, to be accepted at an earlier look, or to come to this one with a statistic at least as
    large. At most alpha exactly where the candidate is accepted (Fairbanks and Madsen 1982, stage-wise ordering).
    """
    return false_accept_rate(looks[:look], [*levels[: look - 1], p])


@lru_cache(maxsize=256)
def _crossing(looks: tuple[int, ...], quantiles: tuple[float, ...]) -> float:
    """Chance that the t statistic reaches its quantile at one of these looks."""
    from scipy.special import stdtr, stdtrit

    bars = {n: t * math.sqrt(n / (n - 1 + t * t)) for n, t in zip(looks, quantiles, strict=True)}
    # Value of the chain's state after the last look: nothing is accepted any more.
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
    # At the first look: equally likely quantiles of u, taken between those where the contest goes on.
    t_first = quantiles[0]
    at_first = float(stdtr(first - 1, -t_first))
    share = (nodes + 1) / 2
    total = 0.0
    # The mass below the bar, in pieces that are fine near the bar, where the chance to be accepted later is large.
    edges = 1 - (1 - np.linspace(0, 1, 200)) ** 3
    for low, high in itertools.pairwise(edges):
        mass = (low + (high - low) * share) * (1 - at_first)
        t = stdtrit(first - 1, mass)
        u = t * np.sqrt(first / (first - 1 + t * t))
        total += float((np.interp(u, grid, later) * weights).sum() / 2) * (high - low) * (1 - at_first)
    return float(at_first + total)


def _grid(n: int, edge: float) -> tuple[Array, float]:
    """States u_n, and which of them just reach `edge` at n + 1: there the chance to pass it has a root's edge.

    The grid is dense there.
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
    """Chance to be accepted after n differences, from that after n + 1, which is not smooth at `edge`.

    If n + 1 is a look, all from `edge` on are accepted there.
    """
    half = math.pi / 2
    turned, longest = np.arctan(u), np.sqrt(1 + u * u)
    # u' = longest sin(a + turned) meets the edge up to twice, and a third time where the edge is below -1.
    inside = np.arcsin(np.clip(edge / longest, -1, 1))
    meets = (-math.pi - inside, inside, math.pi - inside)
    cuts = [np.full_like(u, -half), *(np.clip(meet - turned, -half, half) for meet in meets), np.full_like(u, half)]
    # Divided by the integral of cos^(n-1) over all angles.
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
"""Looks out of eight, and the ratio of their levels, of which the tracks' own looks use some (benchmarks/verdict)."""


def usual_weights(looks: Sequence[int]) -> list[float]:
    """The ratio of the tracks' levels at these looks, by their share of the last one."""
    return [float(np.interp(8 * look / looks[-1], *WEIGHTS)) for look in looks]


def spend(looks: Sequence[int], weights: Sequence[float], alpha: float) -> tuple[float, ...]:
    """Levels in the ratio of `weights` that spend `alpha` in a paired design."""
    from scipy.optimize import brentq

    def missed(scale: float) -> float:
        return false_accept_rate(looks, [scale * weight for weight in weights]) - alpha

    scale = brentq(missed, 0.0, 1.01 * alpha / min(weights), xtol=alpha * 1e-6)
    return tuple(scale * weight for weight in weights)


def check_levels(rule: Looks) -> None:
    """Raises LlmbenchError where the levels do not spend alpha."""
    if rule.design == "stored":  # no exact levels: a union bound
        size, exact = sum(rule.levels), False
    else:
        size, exact = false_accept_rate(rule.looks, rule.levels), True
    if size > rule.alpha * (1 + SIZE_TOLERANCE) or (exact and size < rule.alpha * (1 - SIZE_TOLERANCE)):
        raise LlmbenchError(
            f"rule.levels: these looks accept a candidate without any gain with a chance of {size:.5f}, the declared "
            f"alpha is {rule.alpha}; multiply the levels by about {rule.alpha / size:.4f}"
        )
