"""Contests without any true gain, simulated or resampled from measured pairs, and the protocols that judge them.

Unit of every loss: the paired deviation that the track knows, so that `noise_nats` is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.core.track import Rule
from harness.rule.forecast import look_costs
from harness.rule.screen import replay_screen
from harness.rule.sequential import Criterion, replay, spend
from harness.rule.stats import bounds, estimate, p_value
from harness.rule.verdict import Stage

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Array]

NUM_PAIRS = 10  # the most that any protocol here asks for
NUM_SCREENED = 4
SINGLE = math.sqrt(0.5)  # deviation of one run, where the two runs of a pair are independent


class Contests(NamedTuple):
    """Losses of many contests without any true gain: contest, seed."""

    screen: Array
    """Gains of the screen's pairs."""
    record: Array
    candidate: Array
    """Of the fresh pairs; a protocol of one stage has only these."""

    def better(self, gain: float) -> Contests:
        """The same contests with a candidate that is better by `gain`."""
        return Contests(self.screen + gain, self.record, self.candidate - gain)


@dataclass(frozen=True)
class Noise:
    """How the two arms of a pair scatter. The two are independent, the mean gain is zero."""

    name: str
    draw: Draw
    """One arm's noise, of mean 0 and deviation 1."""
    ratio: float = 1.0
    """Candidate's deviation over the record's."""
    bad_share: float = 0.0
    """Share of the candidate's runs that are worse, all others are better by as much as that costs on the mean."""
    worse: tuple[float, float] = (0.0, 0.0)
    """By how much: equally likely values between these."""

    def arms(self, rng: np.random.Generator, size: tuple[int, int]) -> tuple[Array, Array]:
        record, candidate = (SINGLE * self.draw(rng, size) for _ in range(2))
        candidate = candidate * self.ratio
        if self.bad_share:
            is_bad = rng.random(size) < self.bad_share
            candidate += is_bad * rng.uniform(*self.worse, size) - self.bad_share * sum(self.worse) / 2
        return record, candidate

    def contests(self, rng: np.random.Generator, num: int, num_pairs: int = NUM_PAIRS) -> Contests:
        """Independent contests."""
        record, candidate = self.arms(rng, (num, NUM_SCREENED))
        return Contests(record - candidate, *self.arms(rng, (num, num_pairs)))


def _normal(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    return rng.standard_normal(size)


def _skewed(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    return rng.exponential(size=size) - 1


def _heavy(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    return rng.standard_t(3, size) / math.sqrt(3)


NORMAL = Noise("normal", _normal)
NOISES = (
    NORMAL,
    Noise("heavy tails, both arms", _heavy),
    Noise("skewed, both arms alike", _skewed),
    Noise("candidate scatters twice as much", _normal, 2.0),
    Noise("candidate skewed and twice as wide", _skewed, 2.0),
    Noise("candidate: 1 run in 10 is 3 to 6 worse", _normal, bad_share=0.1, worse=(3, 6)),
    Noise("candidate: 1 run in 10 is 6 to 12 worse", _normal, bad_share=0.1, worse=(6, 12)),
    Noise("candidate: 1 run in 5 is 3 to 6 worse", _normal, bad_share=0.2, worse=(3, 6)),
)


def measured_contests(
    rng: np.random.Generator, record: Sequence[float], candidate: Sequence[float], num: int
) -> Contests:
    """Contests drawn from measured pairs without their mean gain, arms swapped at random.

    The unit is the deviation of these pairs. Swapping makes the noise symmetric, so it keeps tails and loses skew.
    Neither stage meets a pair twice, but both draw from the same pairs, since few studies have enough for two.
    """
    arms = np.array([record, candidate])
    arms -= arms.mean(axis=1, keepdims=True)
    arms /= (arms[0] - arms[1]).std(ddof=1)

    def drawn(size: int) -> tuple[Array, Array]:
        seeds = rng.permuted(np.tile(np.arange(len(record)), (num, 1)), axis=1)[:, :size]
        swap = rng.integers(0, 2, seeds.shape)
        return arms[swap, seeds], arms[1 - swap, seeds]

    one, other = drawn(NUM_SCREENED)
    return Contests(one - other, *drawn(min(NUM_PAIRS, len(record))))


class Tally(NamedTuple):
    """Shares and means over many contests."""

    accepted: float
    runs: float
    """Trained runs until the decision, where they are trained one after the other."""
    runs_by_two: float
    """The same where two are trained at a time: a candidate that its first run drops has cost two."""
    slots: float
    """Of two runs at a time, until the decision."""
    passed: float = 1.0
    """Share that came through the screen."""


def tally(accepted: Flags, costs: Array, passed: float = 1.0) -> Tally:
    """Shares and means; `costs` holds runs, runs by two and slots of each contest."""
    return Tally(float(accepted.mean()), *costs.mean(0).tolist(), passed)


def stage_costs(rule: Rule, stage: Stage, looks: Counts) -> Array:
    """Runs, runs by two and slots of contests whose stage ended at these looks."""
    alone, by_two = (look_costs(rule, stage, jobs) for jobs in (1, 2))
    table = [(one.runs, two.runs, two.slots) for one, two in zip(alone, by_two, strict=True)]
    return np.array(table)[looks - 1]


def arm_costs(runs: Counts, most: int) -> Array:
    """The same of contests that train one arm alone, `most` runs at the most."""
    by_two = np.minimum(most, runs + runs % 2)
    return np.stack([runs, by_two, (by_two + 1) // 2], axis=-1).astype(float)


Protocol = Callable[[Contests], Tally]


def loss_criterion(rule: Rule, contests: Contests) -> Criterion:
    num = rule.looks[-1]
    return Criterion(
        quantity="loss",
        record=contests.record[:, :num],
        candidate=contests.candidate[:, :num],
        margin=0.0,
        design="paired",
        missed="not_shown",
        hopeless="hopeless",
    )


def confirmation_alone(rule: Rule) -> Protocol:
    """Every candidate goes straight to the confirmation."""

    def apply(contests: Contests) -> Tally:
        state = replay([loss_criterion(rule, contests)], rule)
        return tally(state.decision == 1, stage_costs(rule, "confirmation", state.look))

    return apply


def both_stages(rule: Rule) -> Protocol:
    """The screen, then the confirmation of what passes."""

    def apply(contests: Contests) -> Tally:
        screened = replay_screen(contests.screen, 0.0, rule)
        passed = screened.decision == 1
        confirmed = replay([loss_criterion(rule, Contests(*(part[passed] for part in contests)))], rule)
        accepted, costs = np.zeros_like(passed), stage_costs(rule, "screen", screened.look)
        accepted[passed] = confirmed.decision == 1
        costs[passed] += stage_costs(rule, "confirmation", confirmed.look)
        return tally(accepted, costs, float(passed.mean()))

    return apply


def looking(looks: Sequence[int], level: float, futility: float | None = None) -> Protocol:
    """A paired t at each look, each at the same level; `futility` stops where the upper bound there is not above 0."""

    def apply(contests: Contests) -> Tally:
        accepted = np.zeros(len(contests.record), dtype=np.bool_)
        runs = np.zeros(len(accepted), dtype=np.int64)
        for num in looks:
            found = estimate(contests.record[:, :num], contests.candidate[:, :num], "paired")
            accepts = p_value(found, 0.0) <= level
            hopeless = bounds(found, futility)[1] <= 0 if futility is not None else np.zeros_like(accepts)
            open_now = runs == 0
            accepted |= open_now & accepts
            runs = np.where(open_now & (accepts | hopeless | (num == looks[-1])), num, runs)
        return tally(accepted, arm_costs(runs, looks[-1]))

    return apply


def fixed(num: int, test: Callable[[Array, Array], Flags]) -> Protocol:
    """One test after `num` runs of each arm."""

    def apply(contests: Contests) -> Tally:
        accepted = test(contests.record[:, :num], contests.candidate[:, :num])
        return tally(accepted, arm_costs(np.full(len(accepted), num), num))

    return apply


def _welch(record: Array, candidate: Array) -> Flags:
    return p_value(estimate(record, candidate, "welch"), 0.0) <= 0.01


def _known_sigma(record: Array, candidate: Array) -> Flags:
    """z with the deviation of a pair known beforehand and trusted for every candidate."""
    found = estimate(record, candidate, "paired")
    known = found._replace(
        standard_error=np.full_like(found.gain, 1 / math.sqrt(record.shape[-1])), df=np.asarray(math.inf)
    )
    return p_value(known, 0.0) <= 0.01


THIS, ALONE, OLD, WELCH = "this protocol", "confirmation alone", "rule of 2026-11-23", "Welch, 10 a side"


def protocols(rule: Rule) -> dict[str, Protocol]:
    """The track's protocol, its second stage alone, the rule before it, and what is usual elsewhere."""
    return {
        THIS: both_stages(rule),
        ALONE: confirmation_alone(rule),
        OLD: looking((3, 5, 8), 0.01 / 3, futility=0.4),
        "one t at 3": looking((3,), 0.01),
        "peeking, 5 % at 3 to 8": looking(range(3, 9), 0.05),
        WELCH: fixed(10, _welch),
        "z at 3, sigma known": fixed(3, _known_sigma),
    }


def neighbours(rule: Rule) -> Iterator[tuple[str, Rule]]:
    """The rule with one thing moved, by what was moved; the rule itself first."""
    yield "as declared", rule
    for name, place, values in (
        ("screen_pass", 0, (2.0, 3.0)),
        ("screen_pass", 1, (1.1, 1.3, 1.8)),
        ("screen_drop", 0, (-1.0, 0.0)),
        ("screen_drop", 1, (0.0, 0.7)),
    ):
        own = getattr(rule, name)
        for value in values:
            changed = (*own[:place], value, *own[place + 1 :])
            yield f"{name} {listed(changed)}", rule.model_copy(update={name: changed})
    for value in (0.5, 0.9):  # the two meet at the last look
        last = {name: (*getattr(rule, name)[:-1], value) for name in ("screen_pass", "screen_drop")}
        yield f"screen_pass and screen_drop end at {value}", rule.model_copy(update=last)
    for futility in (None, 0.1, 0.4):
        yield f"futility_alpha {futility or 'none'}", rule.model_copy(update={"futility_alpha": futility})
    every = ((3, 1.0), (4, 1.3), (5, 1.6), (6, 2.0), (7, 2.8), (8, 4.0))
    for looks, weights in (
        (rule.looks, (1.0,) * len(rule.looks)),
        ((3, 5, 8), (1.0, 1.6, 4.0)),
        ((4, 6, 8), (1.3, 2.0, 4.0)),
        tuple(zip(*every, strict=True)),
    ):
        levels = spend(looks, weights, rule.alpha)
        label = f"looks {listed(looks)}, levels as {listed(weights)}"
        yield label, rule.model_copy(update={"looks": looks, "levels": levels})


def listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
