"""The tests of `harness.rule.stats` against scipy, and properties that hold for any numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from harness.rule.stats import (
    GainTest,
    gain_test,
    pair_correlation,
    seed_problems,
    sign_flip_p,
)

TwoArms = Callable[..., GainTest]
paired_t: TwoArms = partial(gain_test, paired=True)
TWO_ARMS: list[TwoArms] = [paired_t, gain_test, partial(gain_test, sigma=0.25)]
NAMES = ["paired_t", "welch_t", "two_sample_z"]

# Multiples of 1/1024: their sums and differences are exact, so equality can be asked for to the bit.
exact = st.integers(-4096, 4096).map(lambda k: k / 1024)
pairs = st.lists(st.tuples(exact, exact), min_size=2, max_size=9)
anything = st.floats(allow_nan=True, allow_infinity=True)
finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("test", ["one_sample_t", "paired_t", "welch_t", "z", "two_sample_z"])
def test_thousand_random_cases_agree_with_scipy(test: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):  # of each of the five tests
        sizes, scales = rng.integers(2, 12, 2), 10 ** rng.uniform(-6, 3, 2)
        record, candidate = (rng.normal(rng.normal(), scale, size) for scale, size in zip(scales, sizes, strict=True))
        if test == "paired_t":
            record = candidate + rng.normal(0, scales[1], len(candidate))
        target, sigma, size = float(rng.normal()), float(scales[0]), len(candidate)
        margin, alpha = float(rng.normal(0, 0.1)), float(rng.uniform(0.001, 0.3))
        more = {"margin": margin, "alpha": alpha}
        if test == "one_sample_t":
            found = gain_test(target, candidate.tolist(), **more)
            expected = scipy_stats.ttest_1samp(target - candidate, margin, alternative="greater").pvalue
            interval = scipy_stats.ttest_1samp(target - candidate, 0).confidence_interval(1 - 2 * alpha)
        elif test == "paired_t":
            found = paired_t(record.tolist(), candidate.tolist(), **more)
            expected = scipy_stats.ttest_rel(record - margin, candidate, alternative="greater").pvalue
            interval = scipy_stats.ttest_rel(record, candidate).confidence_interval(1 - 2 * alpha)
        elif test == "welch_t":
            found = gain_test(record.tolist(), candidate.tolist(), **more)
            expected = scipy_stats.ttest_ind(record - margin, candidate, equal_var=False, alternative="greater").pvalue
            interval = scipy_stats.ttest_ind(record, candidate, equal_var=False).confidence_interval(1 - 2 * alpha)
        else:
            one = test == "z"
            found = gain_test(target if one else record.tolist(), candidate.tolist(), sigma=sigma, **more)
            error = sigma * math.sqrt(1 / size + (0 if one else 1 / len(record)))
            normal = scipy_stats.norm((target if one else record.mean()) - candidate.mean(), error)
            expected, interval = normal.cdf(margin), (normal.ppf(alpha), normal.ppf(1 - alpha))
        assert found.test == test
        assert found.p_value == pytest.approx(expected, rel=1e-9, abs=1e-14)
        assert (found.ci_low, found.ci_high) == pytest.approx(tuple(interval), rel=1e-9, abs=1e-9)
        assert found.passes == (expected <= alpha)


@pytest.mark.parametrize("test", TWO_ARMS, ids=NAMES)
@given(pairs=pairs, margin=exact, more=st.integers(1, 4096).map(lambda k: k / 1024))
def test_a_larger_gain_never_raises_p(
    test: TwoArms, pairs: list[tuple[float, float]], margin: float, more: float
) -> None:
    record, candidate = zip(*pairs, strict=True)
    before, after = test(record, candidate, margin=margin), test(record, [c - more for c in candidate], margin=margin)
    assert (before.p_value is None) == (after.p_value is None)
    assert before.p_value is None or after.p_value is None or after.p_value <= before.p_value


@pytest.mark.parametrize("test", TWO_ARMS, ids=NAMES)
@given(pairs=pairs)
def test_swapped_arms_mirror_the_outcome(test: TwoArms, pairs: list[tuple[float, float]]) -> None:
    record, candidate = zip(*pairs, strict=True)
    there, back = test(record, candidate), test(candidate, record)
    assert not (there.passes and back.passes)
    assert there.gain == pytest.approx(-(back.gain or 0.0))
    if there.p_value is not None and back.p_value is not None:
        assert there.p_value + back.p_value == pytest.approx(1.0)


@settings(max_examples=300)
@given(
    record=st.lists(anything, max_size=9),
    candidate=st.lists(anything, max_size=9),
    target=anything,
    margin=anything,
    sigma=anything,
    alpha=anything,
)
def test_no_numbers_raise_and_no_unusable_number_passes(
    record: list[float], candidate: list[float], target: float, margin: float, sigma: float, alpha: float
) -> None:
    for found in (
        gain_test(target, candidate, margin=margin, alpha=alpha),
        paired_t(record, candidate, margin=margin, alpha=alpha),
        gain_test(record, candidate, margin=margin, alpha=alpha),
        gain_test(target, candidate, sigma=sigma, margin=margin, alpha=alpha),
        gain_test(record, candidate, sigma=sigma, margin=margin, alpha=alpha),
    ):
        numbers = (found.gain, found.ci_low, found.ci_high, found.p_value)
        assert all(number is None or math.isfinite(number) for number in numbers)
        assert (found.p_value is None) == bool(found.reasons)
        if not all(math.isfinite(value) for value in candidate):
            assert not found.passes
    for number in (pair_correlation(record, candidate), sign_flip_p(record, candidate, margin=margin)):
        assert number is None or -1 <= number <= 1


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (paired_t([3.0], [1.0]), "too_few_values"),
        (gain_test([3.0, 3.1], [1.0]), "too_few_values"),
        (gain_test(1.0, []), "too_few_values"),
        (gain_test(1.0, [], sigma=1.0), "too_few_values"),
        (paired_t([3.0, 3.0, 3.0], [1.0, 1.0, 1.0]), "zero_variance"),
        (paired_t([0.3, 0.4, 0.5], [0.2, 0.3, 0.4]), "zero_variance"),  # 0.1, give or take a rounding
        (gain_test([3.0, 3.0], [1.0, 1.0]), "zero_variance"),
        (paired_t([3.0, 3.1], [1.0, 1.1, 1.2]), "unequal_lengths"),
        (gain_test([3.0, math.nan], [1.0, 1.1]), "not_finite"),
        (paired_t([3.0, math.inf], [1.0, 1.1]), "not_finite"),
        (gain_test(-math.inf, [3.0, 2.0]), "not_finite"),
        (gain_test([3.0, 1e101], [1.0, 1.1]), "not_finite"),
        (gain_test([3.0, 3.1], [1.0, 1.1], margin=math.nan), "not_finite"),
        (gain_test([3.0, 3.1], [1.0, 1.1], sigma=0.0), "bad_sigma"),
        (gain_test([3.0, 3.1], [1.0, 1.1], sigma=math.nan), "bad_sigma"),
        (gain_test([3.0, 3.1], [1.0, 1.1], alpha=0.7), "bad_alpha"),
        (gain_test([3.0, 3.1], [1.0, 1.1], alpha=1e-320), "bad_alpha"),
    ],
)
def test_what_cannot_be_tested_has_a_reason_and_no_p(found: GainTest, reason: str) -> None:
    assert reason in found.reasons
    assert found.p_value is None
    assert not found.passes


def test_seeds_that_repeat_or_differ_have_a_reason() -> None:
    assert seed_problems([1, 2, 3], [1, 2, 3], paired=True) == ()
    assert seed_problems([1, 2, 2], [1, 2, 3], paired=False) == ("repeated_seeds",)
    assert seed_problems([1, 2], [1, 3], paired=True) == ("mixed_seeds",)
    assert seed_problems([1, 2], [1, 3], paired=False) == ()


def test_one_value_suffices_where_sigma_is_known() -> None:
    assert gain_test(4.0, [3.0], sigma=0.2).passes


def test_welch_with_one_constant_arm_is_the_other_arms_t() -> None:
    assert gain_test([3.0, 3.0, 3.0], [1.0, 1.1, 1.3]).p_value == pytest.approx(gain_test(3.0, [1.0, 1.1, 1.3]).p_value)


@given(st.lists(st.tuples(exact, exact), min_size=7, max_size=9), exact)
@settings(max_examples=40)
def test_sign_flip_p_counts_all_flips(pairs: list[tuple[float, float]], margin: float) -> None:
    record, candidate = zip(*pairs, strict=True)
    gains = [r - c - margin for r, c in pairs]
    flips = list(itertools.product([1, -1], repeat=len(gains)))
    as_large = sum(sum(s * g for s, g in zip(signs, gains, strict=True)) >= sum(gains) for signs in flips)
    assert sign_flip_p(record, candidate, margin=margin) == as_large / len(flips)


def test_sign_flip_needs_seven_pairs() -> None:
    assert sign_flip_p([1.0] * 6, [0.0] * 6) is None
    assert sign_flip_p([1.0] * 7, [0.0] * 7) == 1 / 128


def test_correlation_is_pearsons() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        arms = rng.normal(size=(2, 6)) * 1e-3 + 3.0
        expected = scipy_stats.pearsonr(*arms).statistic
        assert pair_correlation(*arms.tolist()) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert pair_correlation([1.0, 2.0], [1.0, 2.0]) is None
    assert pair_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
