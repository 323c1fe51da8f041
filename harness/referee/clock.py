"""Measures the wall-clock and processor time of a run, from outside the processes that train it (its players)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from harness.player.process import Player


class Clock:
    """A clock that runs from the first batch that the players get until the final weights have arrived.

    It pauses only while the players are suspended, so it counts everything that they compute.
    """

    def __init__(self, players: Sequence[Player], earlier_s: float = 0.0, earlier_cpu_s: float = 0.0) -> None:
        """`earlier_s`, `earlier_cpu_s`: wall-clock and processor seconds of training before the run was interrupted."""
        self._players, self._earlier_s, self._earlier_cpu_s = players, earlier_s, earlier_cpu_s
        self._paused_s = 0.0
        self._stopped_s: float | None = None
        self._started, self._started_cpu_s = time.perf_counter(), self._processor_s()

    def _processor_s(self) -> float:
        return sum(player.cpu_s() for player in self._players)

    @property
    def train_s(self) -> float:
        """Wall-clock seconds of training so far, including those before interruptions."""
        now = time.perf_counter() if self._stopped_s is None else self._stopped_s
        return self._earlier_s + now - self._started - self._paused_s

    @property
    def cpu_s(self) -> float:
        """Processor seconds of training so far, summed over players, including those before interruptions."""
        return self._earlier_cpu_s + self._processor_s() - self._started_cpu_s

    def stop(self) -> float:
        """Stop the clock, when the final weights have arrived. Returns the processor seconds so far."""
        self._stopped_s = time.perf_counter()
        return self.cpu_s

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which the players are suspended and the clock is stopped."""
        for player in self._players:
            player.freeze()
        before = time.perf_counter()
        try:
            yield
        finally:
            if self._stopped_s is None:
                self._paused_s += time.perf_counter() - before
            for player in self._players:
                player.thaw()
