"""Estimates how long runs take, how many of them fit into a campaign's time budget, and when the campaign ends."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence

from harness.core.events import Done, RunEvent
from harness.core.runs import FinishedRun
from harness.lab.arms import contest_seeds
from harness.lab.contest import training_order
from harness.lab.doctor import run_seconds, whole_seconds
from harness.lab.store import RETRIED, RunStore
from harness.lab.studies.screening import Contestant
from harness.rule.forecast import filled, forecast, trained_arms

NEWEST = 20
"""The usual time is the median over this many newest runs, because the load on the machine may change."""


class UsualTime:
    """How long a run usually takes, in seconds from its start until its score is known.

    Until the first run has ended, this is the expected time. After that it is the median time of the newest runs.
    """

    def __init__(self, expected_s: float | None) -> None:
        self._expected_s, self._taken_s = expected_s, list[float]()

    def observe(self, event: RunEvent) -> None:
        """Record the time of a run that ended, if the run has a score and was trained just now, not earlier."""
        if isinstance(event, Done) and not event.reused and isinstance(event.result, FinishedRun):
            self._taken_s.append(whole_seconds(event.result))

    @property
    def run_s(self) -> float | None:
        """The usual time of a run, in seconds; None if no time is expected and no run was made yet."""
        return statistics.median(self._taken_s[-NEWEST:]) if self._taken_s else self._expected_s


class Pace:
    """Estimates how long the runs of a campaign take, how many fit into its time budget, and when it ends."""

    def __init__(self, store: RunStore, budget_s: float | None = None) -> None:
        """All runs of `store` should end within `budget_s` seconds from now; None for no limit."""
        self.store, self.rule = store, store.track.rule
        self._ends_at = math.inf if budget_s is None else time.monotonic() + budget_s
        self._usual_time = UsualTime(run_seconds(store.project, store.track, store.jobs)[0])
        self.observe = self._usual_time.observe
        self._usual = forecast(self.rule, 0.0, self.rule.noise_nats or 1.0)

    @property
    def run_s(self) -> float:
        """The usual time of a run, in seconds; 0 if no time is expected and no run was made yet."""
        return self._usual_time.run_s or 0.0

    def has_time(self, runs: int) -> bool:
        """Whether this number of further runs would end within the time budget."""
        return time.monotonic() + math.ceil(runs / self.store.jobs) * self.run_s <= self._ends_at

    def affordable(self, one: Contestant) -> int | None:
        """The largest number of pairs after which `one`'s confirmation may decide and that fits into the time budget.

        0 if there is not enough time for the pairs before the first decision, None without a budget.
        """
        if self._ends_at == math.inf:
            return None
        store, pairs = self.store, 0
        seeds = contest_seeds(store.project, store.track, one.met.arms, "confirmation")
        for look in self.rule.looks:
            count = min(filled(self.rule, "confirmation", look, store.jobs), len(seeds))
            found = [store.find(run) for run in training_order(store, one.met.arms, "confirmation", seeds[:count])]
            if self.has_time(sum(run is None or run.status in RETRIED for run in found)):
                pairs = look
        return pairs

    def seconds_left(self, contestants: Sequence[Contestant]) -> float:
        """Estimate of the seconds until all `contestants` are decided, on the assumption that none has a gain."""
        looks, arms, runs = self.rule.looks, trained_arms(self.rule, "confirmation"), 0.0
        screen = sum(share * look for share, look in zip(self._usual.screen, self.rule.screen_looks, strict=False))
        for one in contestants:
            if one.state in ("waiting", "screening"):
                runs += max(len(one.wanted) + len(one.under_way), screen - len(one.gains))
                runs += self._usual.passed * arms * looks[0]
            elif one.state == "passed":
                runs += arms * looks[0]
            elif one.state == "confirming":
                next_look = one.contest.verdict.next_look if one.contest else None
                runs += max(1, arms * ((next_look or looks[0]) - len(one.gains)))
        return min(runs * self.run_s / self.store.jobs, max(0.0, self._ends_at - time.monotonic()))
