"""Contests without any true gain, simulated or resampled from placebo pairs, and the rules that judge them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.core.track import Rule
from harness.rule.sequential import Criterion, replay
from harness.rule.stats import known_sigma, p_value

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Array]

NUM_PAIRS = 10  # the most that any rule here asks for


class Contests(NamedTuple):
    """Losses of many contests without any true gain: contest, seed. Unit: a record's seed deviation."""

    record: Array
    candidate: Array


class Tally(NamedTuple):
    accepted: float
    """Share of contests accepted."""
    runs: float
    """Mean number of trained runs until the rule decides, both arms together."""


@dataclass(frozen=True)
class Noise:
    """How the two arms scatter."""

    name: str
    draw: Draw
    ratio: float = 1.0
    """Candidate's standard deviation over the record's."""

    def contests(
        self, rng: np.random.Generator, num: int, correlation: float = 0.0, num_pairs: int = NUM_PAIRS
    ) -> Contests:
        """Independent contests whose arms share the part of their noise that gives the correlation."""
        own, shared, size = math.sqrt(1 - correlation), math.sqrt(correlation), (num, num_pairs)
        common = self.draw(rng, size) * shared if correlation else 0.0
        record, candidate = (own * self.draw(rng, size) + common for _ in range(2))
        return Contests(record, candidate * self.ratio)


def _skewed(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    return rng.exponential(size=size) - 1


def _very_skewed(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    return (rng.lognormal(size=size) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e)


def _heavy(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    return rng.standard_t(3, size) / math.sqrt(3)


NOISES = (
    Noise("normal", lambda rng, size: rng.standard_normal(size)),
    Noise("normal, candidate 3x", lambda rng, size: rng.standard_normal(size), 3),
    Noise("normal, candidate 6x", lambda rng, size: rng.standard_normal(size), 6),
    Noise("heavy tails", _heavy),
    Noise("heavy tails, candidate 3x", _heavy, 3),
    Noise("skewed", _skewed),
    Noise("skewed, candidate 3x", _skewed, 3),
    Noise("very skewed, candidate 3x", _very_skewed, 3),
)


Apply = Callable[[Contests], Tally]


def by_rule(rule: Rule) -> Apply:
    """A rule as the harness runs it: `harness.rule.sequential.replay` on one loss criterion without a price."""

    def apply(contests: Contests) -> Tally:
        state = replay([loss_criterion(rule, contests)], rule)
        runs = 2 * np.asarray(rule.looks)[state.look - 1]
        return Tally(float((state.decision == 1).mean()), float(runs.mean()))

    return apply


def loss_criterion(rule: Rule, contests: Contests) -> Criterion:
    num = rule.looks[-1]
    return Criterion(
        quantity="loss",
        record=contests.record[:, :num],
        candidate=contests.candidate[:, :num],
        margin=0.0,
        design=rule.design,
        missed="not_shown",
        hopeless="hopeless",
    )


def known_deviation(contests: Contests) -> Tally:
    """z at three seeds an arm, with the record's deviation known from its history and trusted for both arms."""
    found = known_sigma(contests.record[:, :3], contests.candidate[:, :3], 1.0)
    return Tally(float((p_value(found, 0.0) <= 0.01).mean()), 6.0)


def rules(rule: Rule) -> dict[str, Apply]:
    """The track's rule under both designs, and what is usual elsewhere, all at the same nominal 1 %."""

    def other(**changes: object) -> Apply:
        return by_rule(rule.model_copy(update={"alpha": 0.01, "futility_alpha": 0.01, **changes}))

    every = tuple(range(3, 9))
    return {
        "this rule, paired": by_rule(rule.model_copy(update={"design": "paired"})),
        "this rule, Welch": by_rule(rule.model_copy(update={"design": "welch"})),
        "one paired t at 3": other(design="paired", looks=(3,)),
        "peeking, t at 3 to 8": other(design="paired", looks=every, alpha=0.01 * len(every)),
        "Welch at 10 a side": other(design="welch", looks=(10,)),
        "z, sigma known, at 3": known_deviation,
    }


def placebo_contests(
    rng: np.random.Generator, record: Sequence[float], candidate: Sequence[float], num: int
) -> Contests:
    """Contests drawn from measured placebo pairs: seeds without repeats, arms swapped at random.

    A placebo changes nothing, so its arms are exchangeable and every swap is an equally likely outcome.
    """
    arms = np.array([record, candidate]) - np.mean([record, candidate])
    arms /= np.sqrt(arms.var(axis=1, ddof=1).mean())  # the known sigma is one
    size = min(NUM_PAIRS, len(record))
    seeds = rng.permuted(np.tile(np.arange(len(record)), (num, 1)), axis=1)[:, :size]
    swap = rng.integers(0, 2, seeds.shape)
    return Contests(arms[swap, seeds], arms[1 - swap, seeds])
