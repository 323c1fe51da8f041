"""An audit of a claim's model: what it tested, and its probability of finding a leak.

Suppose that a model leaks at K of val's N positions and gains D nats at each of them. Then its mean val loss falls by
`worth` = D K / N. A test of M distinct positions, drawn without replacement, hits at least one leaking position with
probability 1 - C(N - K, M) / C(N, M).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

from harness.core.runs import Seconds
from harness.core.schema import Positive, Sha256, Strict

WORTH = 0.0017
"""Nats per token. An audit tests enough positions to find a leak of this worth and CONCENTRATION with probability
FOUND."""
CONCENTRATION = 3.0
"""Nats that the leak gains at each leaking position."""
FOUND = 0.9
TABLE_WORTHS = (0.0005, WORTH, 0.005, 0.01)
TABLE_CONCENTRATIONS = (1.0, CONCENTRATION, 6.0, 10.0)


class Power(NamedTuple):
    """The probability that an audit finds one kind of leak."""

    nats: float
    """Gain at each leaking position."""
    worth_nats: float
    """Mean gain over all of val's tokens."""
    found: float
    """Probability that the audit finds such a leak, 0 to 1."""


class Audit(Strict):
    """An audit that the model passed; a failed audit is not recorded."""

    weights_sha256: Sha256
    """Digest of the audited run's final weights."""
    seed: Literal["weights", "drawn"]
    """How the tested positions were chosen: from the weights and val, or by a number drawn when the audit was made."""
    positions: Positive
    """Number of val's positions that can be tested."""
    tested: Positive
    """Number of distinct positions that were tested. Val's shorter last window is tested too if that is cheap."""
    audit_s: Seconds
    """Wall-clock seconds, including one additional pass over val."""

    def power(self) -> Iterator[Power]:
        """Yields the probability of finding a leak, for several worths and concentrations."""
        for nats in TABLE_CONCENTRATIONS:
            for worth in TABLE_WORTHS:
                yield Power(nats, worth, probability_found(self.positions, self.tested, worth, nats))


def probability_found(positions: int, tested: int, worth: float, nats: float) -> float:
    """Probability that an audit finds a leak worth `worth` nats per token that gains `nats` at each leaking position.

    >>> round(probability_found(64443, 4000, 0.0017, 3.0), 3)
    0.901
    """
    leaking = math.floor(positions * worth / nats)
    if leaking > positions - tested:
        return 1.0
    return -math.expm1(_log_choose(positions - leaking, tested) - _log_choose(positions, tested))


def positions_needed(positions: int) -> int:
    """Number of positions that an audit must test to find a leak of WORTH and CONCENTRATION with probability FOUND.

    Returns `positions` if even testing all of them is not enough.
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
