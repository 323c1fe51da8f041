"""The stopping rule on arrays: when a contest is accepted, when it is hopeless, when it needs more pairs.

`verdict.decide` runs it on one contest, `benchmarks/verdict.py` on a hundred thousand simulated ones.
Shapes: seeds are always the last axis; any axes before it are independent contests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.core.track import Rule
from harness.rule.stats import Array, Design, Estimate, bounds, estimate, p_value

Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]
Quantity = Literal["loss", "time", "evaluation_time"]


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One condition: the gain in one quantity against one margin."""

    quantity: Quantity
    record: Array
    candidate: Array
    margin: float
    design: Design
    tested: bool = True
    """Whether the gain must be significant. If not, the mean gain must reach the margin, and only an early stop needs
    significance: a guard on time must not end a contest because the machine was busy for a while."""
    counts: Flags | None = None
    """Which pairs count, the same ones of every contest; None where all do."""
    missed: str
    """Reason code if the last look does not show the gain."""
    hopeless: str
    """Reason code if an earlier look excludes it."""

    def arms(self, num_pairs: int) -> tuple[Array, Array]:
        """The record's and the candidate's values of the first `num_pairs` pairs, as far as they count."""
        counted = slice(None) if self.counts is None else self.counts[:num_pairs]
        return self.record[..., :num_pairs][..., counted], self.candidate[..., :num_pairs][..., counted]


class Finding(NamedTuple):
    """One criterion at one look, for every contest."""

    estimate: Estimate
    low: Array
    high: Array
    """Ends of the two-sided interval at level 1 - 2 alpha_look."""
    p: Array
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


def find(criterion: Criterion, num_pairs: int, rule: Rule) -> Finding:
    """One criterion after `num_pairs` pairs.

    Welch's degrees of freedom, estimated from three values an arm, come out too high where one arm is
    noisier; below `rule.welch_df_from` seeds they are the smaller arm's, which is always safe (Hsu 1938).
    Where fewer pairs count than the first look needs, nothing is known: all numbers are NaN.
    """
    record, candidate = criterion.arms(num_pairs)
    if record.shape[-1] < rule.looks[0]:
        unknown, no = np.full(record.shape[:-1], np.nan), np.zeros(record.shape[:-1], dtype=np.bool_)
        return Finding(Estimate(unknown, unknown, unknown), unknown, unknown, unknown, no, no, ~no)
    found = estimate(record, candidate, criterion.design)
    if criterion.design == "welch" and num_pairs < rule.welch_df_from:
        found = found._replace(df=np.asarray(num_pairs - 1.0))
    low, high = bounds(found, rule.alpha_look)
    p = p_value(found, criterion.margin)
    passes = p <= rule.alpha_look if criterion.tested else found.gain >= criterion.margin
    best = bounds(found, rule.futility_alpha)[1] if criterion.tested else high
    hopeless = ~passes & (best <= criterion.margin)
    return Finding(found, low, high, p, passes, hopeless, ~passes & ~hopeless & (found.standard_error == 0))


def replay(criteria: Sequence[Criterion], rule: Rule) -> Replay:
    """All looks in turn, for every contest at once. The first decision is final."""
    *contests, available = criteria[0].record.shape
    decision, look = np.zeros(contests, dtype=np.int64), np.zeros(contests, dtype=np.int64)
    for number, num_pairs in enumerate(rule.looks, start=1):
        if num_pairs > available:
            break
        findings = [find(criterion, num_pairs, rule) for criterion in criteria]
        accepts = np.all([f.passes for f in findings], axis=0)
        rejects = np.any([f.hopeless for f in findings], axis=0)
        if num_pairs == rule.looks[-1]:
            rejects = rejects | np.any([~f.passes & ~f.unclear for f in findings], axis=0)
        undecided = decision == 0
        look = np.where(undecided, number, look)
        decision = np.where(undecided, np.where(accepts, 1, np.where(rejects, -1, 0)), decision)
    return Replay(decision, look)
