"""What a contest is expected to cost and to find, from simulated contests with screen and confirmation.

Assumes normal losses, no correlation between the runs of a seed, and equal times, so that no guard on time decides.
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
"""With so many, a share of 0.001 has a relative error of about 20 %, a share of one half less than 1 %."""


class Forecast(NamedTuple):
    """How the simulated contests ended, as shares of all of them."""

    accepted: float
    passed: float
    """Share that the screen passes on; 1 without a screen."""
    screen: tuple[float, ...]
    """For each look of the screen, the share of contests whose screen ends there; empty without a screen."""
    confirmation: tuple[float, ...]
    """For each look of the confirmation, the share whose confirmation ends there."""


def forecast(rule: Rule, gain: float, sd: float, *, margin: float = 0.0) -> Forecast:
    """Simulate a candidate whose true gain is `gain`; a pair's difference has the standard deviation `sd`.

    All in nats per token; `margin` is the price of the candidate's statements. The random numbers are always the same,
    so equal arguments give equal results, and a larger gain is never accepted less often.
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
    """Shares of all contests that ended at each look."""
    return tuple((np.bincount(done.look, minlength=num_looks + 1)[1:] / NUM_CONTESTS).tolist())


TimeSource = Literal["kept runs", "matrix rate"]
"""What the time of a run is estimated from."""


class Cost(NamedTuple):
    """What a stage has trained by the end of a look."""

    runs: float
    slots: float
    """Duration, in units of the time of one run, with `jobs` runs at a time."""


def trained_arms(rule: Rule, stage: Stage) -> int:
    """Runs that a stage trains for each seed: 2 for fresh pairs, 1 if the record's runs are kept ones."""
    return 2 if stage == "confirmation" and rule.design == "paired" else 1


def filled(rule: Rule, stage: Stage, look: int, jobs: int) -> int:
    """Number of seeds to train up to a look, rounded up so that `jobs` runs at a time leave no core idle."""
    arms = trained_arms(rule, stage)
    return math.ceil(arms * look / jobs) * jobs // arms


def look_costs(rule: Rule, stage: Stage, jobs: int) -> list[Cost]:
    """For each look of a stage, its cost if the record's runs on public seeds are kept already. Empty for the screen
    of a track without `noise_nats`.
    """
    if stage == "screen" and rule.noise_nats is None:
        return []
    looks, costs = rule.screen_looks if stage == "screen" else rule.looks, [Cost(0, 0)]
    for look in looks:
        runs = trained_arms(rule, stage) * min(filled(rule, stage, look, jobs), looks[-1])
        costs.append(Cost(runs, costs[-1].slots + math.ceil((runs - costs[-1].runs) / jobs)))
    return costs[1:]


class StageCost(Strict):
    """How many runs a stage trains, and how long they take on this machine."""

    runs: float
    time_s: float | None
    """None where the time of a run is not known."""


class Expected(Strict):
    """What to expect of a candidate with one gain. Costs are means over all contests, with those that the screen ends.

    The cost of the screen counts the candidate's runs alone.
    """

    gain: float
    """True gain in nats per token, without the price of its statements."""
    passed: float
    """Probability that the screen passes it on."""
    accepted: float
    """Probability that it passes the screen and the confirmation accepts it."""
    screen: StageCost
    confirmation: StageCost
    total: StageCost


class ContestPlan(Strict):
    """What to expect of contests on a track."""

    expected: tuple[Expected, ...]
    """For no gain, for the gain that was asked for, and for twice as much."""
    noise_nats: float
    """Standard deviation of a pair's difference, as the track declares it."""
    margin: float
    """Price of the added statements, nats per token."""
    run_s: float | None
    """Seconds of one whole run on this machine; None where neither kept runs nor an estimate tell."""
    source: TimeSource | None
    jobs: Positive
    """Runs at a time."""
    longest: StageCost
    """Cost of a contest that takes all looks of both stages."""
    record: StageCost
    """Cost of the record's runs on public seeds, which are trained once and serve every candidate."""


def make_plan(
    track: Track, gain: float, statements: int, jobs: int, run_s: float | None, source: TimeSource | None
) -> ContestPlan:
    """What to expect of a candidate that gains `gain` nats per token and adds `statements`, from simulated contests.

    A run takes `run_s` seconds here, estimated from `source`. Raises LlmbenchError where the track's noise is unknown.
    """
    rule, name, sd = track.rule, track.name, track.rule.noise_nats
    if sd is None:
        raise LlmbenchError(
            f"{name} declares no noise_nats, so nothing can be planned; measure the noise with `llmbench noise --save "
            f"--track {name}` and declare the result in tracks/{name}.toml"
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
    """Mean cost over all contests, given the share that ends at each look."""
    both = list(zip(costs, shares, strict=True))
    return Cost(sum(share * one.runs for one, share in both), sum(share * one.slots for one, share in both))
