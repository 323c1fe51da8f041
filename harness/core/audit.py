"""What one audit of a claim's model covered, and with what probability it finds a leak.

A model that sees what it must not gains D nats at each position where it looks: one of N positions of val in
D / worth, where `worth` is the gain in val loss. A test of M distinct positions, drawn without replacement, meets one
of those K = N worth / D with probability 1 - C(N - K, M) / C(N, M).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

from harness.core.runs import Seconds
from harness.core.schema import Positive, Sha256, Strict

WORTH = 0.0017
"""Nats a token; with the two below what an audit is sized for."""
CONCENTRATION = 3.0
"""Nats at each leaking position."""
FOUND = 0.9
TABLE_WORTHS = (0.0005, WORTH, 0.005, 0.01)
TABLE_CONCENTRATIONS = (1.0, CONCENTRATION, 6.0, 10.0)


class Power(NamedTuple):
    """One point of an audit's curve."""

    nats: float
    """At each leaking position."""
    worth_nats: float
    """Mean a token of val."""
    found: float
    """Probability, 0 to 1."""


class Audit(Strict):
    """An audit that the model passed; one that it fails has no record."""

    weights_sha256: Sha256
    """Of the audited run's final weights."""
    seed: Literal["weights", "drawn"]
    """What its questions follow from: the weights and val, or a number drawn when it was made."""
    positions: Positive
    """Of val, each with a boundary after it."""
    tested: Positive
    """Distinct ones; the boundaries of val's shorter last window are all tested besides, where that is cheap."""
    audit_s: Seconds
    """Wall seconds, scoring val once more included."""

    def power(self) -> Iterator[Power]:
        """The curve: leaks of several worths and concentrations."""
        for nats in TABLE_CONCENTRATIONS:
            for worth in TABLE_WORTHS:
                yield Power(nats, worth, probability_found(self.positions, self.tested, worth, nats))


def probability_found(positions: int, tested: int, worth: float, nats: float) -> float:
    """Of a leak worth `worth` nats a token that gains `nats` at each leaking position.

    >>> round(probability_found(64443, 4000, 0.0017, 3.0), 3)
    0.901
    """
    leaking = math.floor(positions * worth / nats)
    if leaking > positions - tested:
        return 1.0
    return -math.expm1(_log_choose(positions - leaking, tested) - _log_choose(positions, tested))


def positions_needed(positions: int) -> int:
    """The fewest to test that find what an audit is sized for; all where even that does not suffice."""
    low, high = 0, positions
    while low < high:
        middle = (low + high) // 2
        if probability_found(positions, middle, WORTH, CONCENTRATION) >= FOUND:
            high = middle
        else:
            low = middle + 1
    return low


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
