"""Gains over sizes: intervals that hold what they promise, and what a gain is worth in compute."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.core.errors import LlmbenchError
from harness.rule.scaling import (
    Interval,
    Rung,
    compute_multiple,
    forecast,
    gain_at,
    order_kept,
    share,
    slope,
    typical_deviation,
)

COMPUTE = (4e11, 3.4e12, 2e13)
"""Roughly those of three rungs, a factor of some seven apart."""


def ladder(generator: np.random.Generator, truth: list[float], noise: list[float], pairs: list[int]) -> list[Rung]:
    return [
        Rung(compute, (gain + sd * generator.standard_normal(count)).tolist())
        for compute, gain, sd, count in zip(COMPUTE, truth, noise, pairs, strict=True)
    ]


@pytest.mark.parametrize("law", ["constant", "line", "power"])
def test_the_slope_of_a_known_law_lies_in_its_interval_as_often_as_promised(law: str) -> None:
    """A thousand ladders, with unequal noise and few pairs."""
    x = np.log10(COMPUTE)
    truth = {
        "constant": np.full(3, 0.05),
        "line": 0.11 - 0.04 * (x - x[1]),
        "power": 0.11 * (np.array(COMPUTE) / COMPUTE[1]) ** -0.25,
    }[law]
    own = float(((x - x.mean()) * truth).sum() / ((x - x.mean()) ** 2).sum())
    generator, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        found = slope(ladder(generator, truth.tolist(), [0.008, 0.005, 0.004], [4, 4, 3]))
        covered += found.low <= own <= found.high
    assert 850 <= covered <= 950


def test_the_next_rung_lies_in_its_forecast_as_often_as_promised() -> None:
    x, generator, covered = np.log10(COMPUTE), np.random.default_rng(1), 0
    truth = (0.1 - 0.03 * (x - x[0])).tolist()
    for _ in range(1000):
        *below, last = ladder(generator, truth, [0.006, 0.006, 0.006], [4, 4, 3])
        found = forecast(below, last.compute, pairs=3)
        covered += found.low <= float(np.mean(last.gains)) <= found.high
    assert covered >= 850


def test_one_rung_is_a_paired_t_interval_and_two_are_welchs() -> None:
    generator = np.random.default_rng(2)
    one, two = (generator.normal(0.1, sd, count).tolist() for sd, count in ((0.01, 4), (0.03, 6)))
    low, high = scipy_stats.t.interval(0.9, 3, np.mean(one), scipy_stats.sem(one))
    assert gain_at(Rung(1e12, one)) == pytest.approx((np.mean(one), low, high))
    found = slope([Rung(1e12, one), Rung(1e13, two)])
    welch = scipy_stats.ttest_ind(two, one, equal_var=False).confidence_interval(0.9)
    assert found == pytest.approx((np.mean(two) - np.mean(one), welch.low, welch.high))


def test_a_forecast_widens_with_distance_and_with_the_noise_of_new_pairs() -> None:
    rungs = ladder(np.random.default_rng(3), [0.1, 0.1, 0.1], [0.01] * 3, [4, 4, 4])
    widths = [found.high - found.low for found in (forecast(rungs, far) for far in (3e12, 2e13, 2e14, 2e15))]
    assert widths == sorted(widths)
    line, pairs = forecast(rungs, 2e14), forecast(rungs, 2e14, pairs=3)
    assert pairs.low < line.low < line.high < pairs.high
    assert pairs.value == line.value


def test_a_gain_is_worth_the_compute_that_the_base_needs_for_its_loss() -> None:
    base = [(1e12, 4.0), (1e13, 3.6), (1e14, 3.4)]
    assert compute_multiple(base, 1e12, Interval(0.4, 0.0, 0.6)) == pytest.approx((10, 1, 100))
    assert compute_multiple(base, 1e13, Interval(0.1, -0.4, 0.4)) == pytest.approx((10**0.5, 0.1, 100))
    assert compute_multiple(base, 1e14, Interval(0.1, 0.1, 0.1)).value == pytest.approx(10**0.5)  # beyond the last


@pytest.mark.parametrize("base", [[(1e12, 4.0)], [(1e12, 4.0), (1e13, 4.0)], [(2e12, 4.0), (1e13, 3.0)]])
def test_without_a_falling_curve_of_the_base_there_is_no_multiple(base: list[tuple[float, float]]) -> None:
    with pytest.raises(LlmbenchError, match="only if the base's loss falls"):
        compute_multiple(base, 1e12, Interval(0.1, 0.1, 0.1))


def test_too_few_rungs_or_pairs_are_refused() -> None:
    with pytest.raises(LlmbenchError, match="two sizes must differ in compute"):
        slope([Rung(1e12, [0.1, 0.2]), Rung(1e12, [0.1, 0.2])])
    with pytest.raises(LlmbenchError, match="2 pairs of runs or more"):
        gain_at(Rung(1e12, [0.1]))


def test_the_share_of_kept_orders_lies_in_its_interval_as_often_as_promised() -> None:
    """Gains of 12 ideas on two sizes with a correlation of 0.8, whose true share is 1/2 + arcsin(0.8) / pi."""
    truth, generator, covered = 0.5 + np.arcsin(0.8) / np.pi, np.random.default_rng(3), 0
    for _ in range(200):
        one = generator.standard_normal(12)
        two = 0.8 * one + 0.6 * generator.standard_normal(12)
        found = order_kept(one.tolist(), two.tolist())
        covered += found.low <= truth <= found.high
    assert 160 <= covered <= 194


def test_equal_orders_and_opposite_ones_are_the_ends() -> None:
    assert order_kept([1, 2, 3], [10, 20, 30]) == Interval(1, 1, 1)
    assert order_kept([1, 2, 3], [3, 2, 1]) == Interval(0, 0, 0)
    assert order_kept([1, 2], [5, 5]).value == 0.5


def test_a_share_has_wilsons_interval() -> None:
    expected = scipy_stats.binomtest(10, 12).proportion_ci(0.9, method="wilson")
    assert share(10, 12) == pytest.approx((10 / 12, expected.low, expected.high))


@pytest.mark.parametrize("pairs", [2, 3, 4])
def test_the_typical_deviation_is_that_of_normal_pairs(pairs: int) -> None:
    gains = np.random.default_rng(4).normal(0.1, 0.005, (4001, pairs)).tolist()
    assert typical_deviation(gains) == pytest.approx(0.005, rel=0.05)
    assert typical_deviation([[0.1]]) is None
