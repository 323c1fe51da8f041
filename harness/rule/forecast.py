"""Forecasts how a contest (one candidate against the record) ends and how long it takes, by simulating contests.

Screen and confirmation are both simulated. Assumptions: losses are normal, the losses of the two runs of a pair are not
correlated, and the limits on time are not exceeded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from harness.core.errors import LlmbenchError
from harness.core.schema import Positive, Strict
from harness.core.track import Rule, Track
from harness.rule.screen import replay_screen
from harness.rule.sequential import Criterion, Replay, replay
from harness.rule.stats import Array
from harness.rule.verdict import Stage

NUM_CONTESTS = 20_000
"""Number of simulated contests. The relative error is about 20 % for a share of 0.001, below 1 % for one half."""


class Forecast(NamedTuple):
    """How the simulated contests ended, as shares of all contests."""

    accepted: float
    passed: float
    """Share of contests that pass the screen; 1 if there is no screen."""
    screen: tuple[float, ...]
    """For each screen look, the share of contests whose screen ends there; empty if there is no screen."""
    confirmation: tuple[float, ...]
    """For each confirmation look, the share of contests whose confirmation ends there."""


def forecast(rule: Rule, gain: float, sd: float, *, margin: float = 0.0) -> Forecast:
    """Simulate contests (one candidate against the record) in which the candidate has the true gain `gain`.

    `sd` is the standard deviation of a pair's difference, `margin` the price of the candidate's statements. `gain`,
    `sd` and `margin` are in nats per token. The random numbers are always the same. Therefore equal arguments give
    equal results, and a larger gain is never accepted less often.
    """
    generator = np.random.default_rng(0)

    def runs(count: int, gain: float = 0.0) -> Array:
        return sd / math.sqrt(2) * generator.standard_normal((NUM_CONTESTS, count)) - gain

    passed, screen = np.ones(NUM_CONTESTS, dtype=bool), tuple[float, ...]()
    public = runs(max((rule.stored_runs or 0, *rule.screen_looks)))
    if rule.noise_nats is not None and rule.screen_looks:
        screened = replay_screen(public[:, : rule.screen_looks[-1]] - runs(rule.screen_looks[-1], gain), margin, rule)
        passed, screen = screened.decision == 1, _shares(screened, len(rule.screen_looks))
    criterion = Criterion(
        quantity="loss",
        record=runs(rule.looks[-1]) if rule.stored_runs is None else public[:, : rule.stored_runs],
        candidate=runs(rule.looks[-1], gain),
        margin=margin,
        design=rule.design,
        missed="not_shown",
        hopeless="hopeless",
    )
    done = replay([criterion], rule)
    confirmed = Replay(done.decision[passed], done.look[passed])
    accepted = float((confirmed.decision == 1).sum() / NUM_CONTESTS)
    return Forecast(accepted, float(passed.mean()), screen, _shares(confirmed, len(rule.looks)))


def _shares(done: Replay, num_looks: int) -> tuple[float, ...]:
    """For each look (test after a declared number of runs), the share of all contests that ended at this look."""
    return tuple((np.bincount(done.look, minlength=num_looks + 1)[1:] / NUM_CONTESTS).tolist())


TimeSource = Literal["kept runs", "matrix rate"]
"""How the time of a run is estimated."""


class Cost(NamedTuple):
    """Cost of a stage (screen or confirmation) up to the end of one look (test)."""

    runs: float
    slots: float
    """Duration with `jobs` runs at a time, in units of the time of one run."""


def trained_arms(rule: Rule, stage: Stage) -> int:
    """Number of runs that a stage trains for each seed: 2 for fresh pairs, 1 if the record's runs exist already."""
    return 2 if stage == "confirmation" and rule.design == "paired" else 1


def filled(rule: Rule, stage: Stage, look: int, jobs: int) -> int:
    """Number of seeds to train before a look (test), rounded up so that `jobs` runs are trained at all times."""
    arms = trained_arms(rule, stage)
    return math.ceil(arms * look / jobs) * jobs // arms


def look_costs(rule: Rule, stage: Stage, jobs: int) -> list[Cost]:
    """For each look (test) of a stage, the cost from the stage's start to the end of this look.

    The cost does not include the record's runs on public seeds. The list is empty for the screen of a track without
    `noise_nats`, which has no screen.
    """
    if stage == "screen" and rule.noise_nats is None:
        return []
    looks, costs = rule.screen_looks if stage == "screen" else rule.looks, [Cost(0, 0)]
    for look in looks:
        runs = trained_arms(rule, stage) * min(filled(rule, stage, look, jobs), looks[-1])
        costs.append(Cost(runs, costs[-1].slots + math.ceil((runs - costs[-1].runs) / jobs)))
    return costs[1:]


class StageCost(Strict):
    """Number of runs that are trained, and how many seconds they take on this machine."""

    runs: float
    time_s: float | None
    """None if the time of a run is not known."""


class Expected(Strict):
    """What to expect of a candidate with a given gain. Costs are means over all contests, with or without confirmation.

    The cost of the screen includes only the candidate's runs.
    """

    gain: float
    """True gain in nats per token. The price of the statements is not subtracted."""
    passed: float
    """Probability that the candidate passes the screen."""
    accepted: float
    """Probability that the candidate passes the screen and the confirmation accepts it."""
    screen: StageCost
    confirmation: StageCost
    total: StageCost


class ContestPlan(Strict):
    """What to expect if candidates are compared with a track's record: probabilities, and how much time it takes."""

    expected: tuple[Expected, ...]
    """Three entries: for no gain, for the given gain, and for twice the given gain."""
    noise_nats: float
    """Standard deviation of a pair's difference, in nats, as the track declares it."""
    margin: float
    """Price of the added statements, in nats per token."""
    run_s: float | None
    """Seconds of one whole run on this machine; None if it is not known."""
    source: TimeSource | None
    jobs: Positive
    """Number of runs that are trained at the same time."""
    longest: StageCost
    """Cost of a contest that needs all looks of both stages."""
    record: StageCost
    """Cost of the record's runs on public seeds. They are trained once and used for every candidate."""


def make_plan(
    track: Track, gain: float, statements: int, jobs: int, run_s: float | None, source: TimeSource | None
) -> ContestPlan:
    """What to expect of a candidate that gains `gain` nats per token and adds `statements` statements, by simulation.

    `run_s` is the time of a run on this machine, in seconds; `source` says how it was estimated. Raises LlmbenchError
    if the track's noise is not known.
    """
    rule, name, sd = track.rule, track.name, track.rule.noise_nats
    if sd is None:
        raise LlmbenchError(
            f"tracks/{name}.toml lacks rule.noise_nats, the noise of the track, without which a plan cannot be "
            f"computed; measure it with `llmbench noise --save --track {name}` and write it into that file"
        )
    margin = statements * rule.loss_per_statement
    screen, confirmation = (look_costs(rule, stage, jobs) for stage in ("screen", "confirmation"))

    def cost(*costs: Cost) -> StageCost:
        runs, slots = map(sum, zip(*costs, strict=True))
        return StageCost(runs=runs, time_s=None if run_s is None else slots * run_s)

    def expect(gain: float) -> Expected:
        found = forecast(rule, gain, sd, margin=margin)
        first, second = _mean_cost(screen, found.screen), _mean_cost(confirmation, found.confirmation)
        return Expected(
            gain=gain,
            passed=found.passed,
            accepted=found.accepted,
            screen=cost(first),
            confirmation=cost(second),
            total=cost(first, second),
        )

    return ContestPlan(
        expected=tuple(map(expect, dict.fromkeys((0.0, gain, 2 * gain)))),
        noise_nats=sd,
        margin=margin,
        run_s=run_s,
        source=source,
        jobs=jobs,
        longest=cost(*screen[-1:], *confirmation[-1:]),
        record=cost(Cost(rule.record_runs, math.ceil(rule.record_runs / jobs))),
    )


def _mean_cost(costs: Sequence[Cost], shares: Sequence[float]) -> Cost:
    """Mean cost over all contests, given each look's cost and the share of contests that end there."""
    both = list(zip(costs, shares, strict=True))
    return Cost(sum(share * one.runs for one, share in both), sum(share * one.slots for one, share in both))
