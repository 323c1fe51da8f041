"""The audit: a test whether a record's model leaks, that is, uses tokens of val that it must predict.

This file holds the schema of the audit's result and computes the probability that the audit finds a leak. Suppose that
a model leaks at K of val's N positions and gains D nats at each of them. Then its mean val loss falls by `worth` = D K
/ N. A test of M distinct positions, drawn at random, hits at least one leaking position with probability 1 - C(N - K,
M) / C(N, M).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

from harness.core.runs import Seconds
from harness.core.schema import Positive, Sha256, Strict

WORTH = 0.0017
"""Size of the leak that an audit must find: it lowers the mean val loss by this many nats per token."""
CONCENTRATION = 3.0
"""The same leak's gain at each leaking position, in nats."""
FOUND = 0.9
"""Probability with which an audit must find this leak."""
TABLE_WORTHS = (0.0005, WORTH, 0.005, 0.01)
TABLE_CONCENTRATIONS = (1.0, CONCENTRATION, 6.0, 10.0)


class Power(NamedTuple):
    """The probability that an audit (leak test) finds one kind of leak."""

    nats: float
    """Gain at each leaking position, in nats."""
    worth_nats: float
    """The same gain as a mean over all of val's tokens, in nats per token."""
    found: float
    """Probability that the audit finds such a leak, 0 to 1."""


class Audit(Strict):
    """The numbers of an audit (leak test) that a model passed. A failed audit is not stored."""

    weights_sha256: Sha256
    """SHA-256 of the weights of the model that was tested."""
    seed: Literal["weights", "drawn"]
    """Seed of the choice of positions. `weights`: computed from the weights and val. `drawn`: a random number."""
    positions: Positive
    """Number of positions of val that can be tested."""
    tested: Positive
    """Number of distinct positions that were tested. They include val's last, shorter window if testing it is cheap."""
    audit_s: Seconds
    """Wall-clock seconds of the audit. It includes one more evaluation on val."""

    def power(self) -> Iterator[Power]:
        """Yields the probability that this audit finds a leak, for leaks of several sizes."""
        for nats in TABLE_CONCENTRATIONS:
            for worth in TABLE_WORTHS:
                yield Power(nats, worth, probability_found(self.positions, self.tested, worth, nats))


def probability_found(positions: int, tested: int, worth: float, nats: float) -> float:
    """Probability, 0 to 1, that an audit (leak test) finds a leak.

    The audit tests `tested` of `positions` positions. The leak lowers the mean val loss by `worth` nats per token, and
    gains `nats` at each leaking position.

    >>> round(probability_found(64443, 4000, 0.0017, 3.0), 3)
    0.901
    """
    leaking = math.floor(positions * worth / nats)
    if leaking > positions - tested:
        return 1.0
    return -math.expm1(_log_choose(positions - leaking, tested) - _log_choose(positions, tested))


def positions_needed(positions: int) -> int:
    """Number of positions at which an audit must test to find a leak of the standard size with probability FOUND.

    The standard size is given by WORTH and CONCENTRATION. `positions` is the number of positions that can be tested. If
    even a test of all these positions is not enough, `positions` is returned.
    """
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
