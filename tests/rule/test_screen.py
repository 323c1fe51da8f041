"""The screen on arrays: what may change its decision, and what it costs a candidate without any gain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.track import Rule
from harness.rule.screen import replay_screen, units
from tests.make import RULE

UNIT = RULE.noise_nats or 0.0
RUNS = RULE.screen_looks[-1]
# Powers of two and few digits: every sum, mean and quotient is exact, so decisions compare to the bit.
eighths = st.integers(-40, 40).map(lambda k: UNIT * k / 8)
gains = st.lists(eighths, min_size=RUNS, max_size=RUNS)
counts = st.sampled_from(range(1, RUNS + 1))


def decided(values: list[float], margin: float = 0.0, rule: Rule = RULE) -> tuple[int, int]:
    state = replay_screen(np.array(values), margin, rule)
    return int(state.decision), int(state.look)


@given(gains, eighths)
def test_a_price_takes_as_much_from_a_gain(values: list[float], price: float) -> None:
    assert decided([value + price for value in values], price) == decided(values)


@given(gains, st.sampled_from([0.25, 2.0, 8.0]))
def test_gains_count_in_units_of_the_noise(values: list[float], factor: float) -> None:
    scaled = RULE.model_copy(update={"noise_nats": factor * UNIT})
    assert decided([factor * value for value in values], rule=scaled) == decided(values)
    assert units(np.array(values), 0.0, RULE) * UNIT == np.mean(values)


@given(gains, st.randoms(use_true_random=False))
def test_the_order_of_the_runs_of_one_look_is_irrelevant(values: list[float], random: object) -> None:
    shuffled, before = [], 0
    for look in RULE.screen_looks:
        part = values[before:look]
        random.shuffle(part)  # type: ignore[attr-defined]
        shuffled, before = [*shuffled, *part], look
    assert decided(shuffled) == decided(values)


@given(gains, gains, counts)
def test_a_larger_gain_never_turns_a_pass_into_a_drop(values: list[float], more: list[float], num: int) -> None:
    better = [value + abs(extra) for value, extra in zip(values, more, strict=True)]
    assert decided(better[:num])[0] >= decided(values[:num])[0]


@given(gains, gains)
def test_a_decision_is_final(values: list[float], others: list[float]) -> None:
    for num in range(1, RUNS):
        decision, look = decided(values[:num])
        if decision != 0:
            assert decided([*values[:num], *others[num:]]) == (decision, look)
        assert look == sum(each <= num for each in RULE.screen_looks) or decision != 0


@given(gains)
def test_the_last_look_decides(values: list[float]) -> None:
    assert decided(values)[0] != 0


@given(st.lists(gains, min_size=1, max_size=5))
def test_each_candidate_is_screened_as_it_is_alone(many: list[list[float]]) -> None:
    together = replay_screen(np.array(many), UNIT, RULE)
    assert [decided(one, UNIT) for one in many] == list(zip(together.decision, together.look, strict=True))


def test_each_bar_decides_at_its_look() -> None:
    first, second, _ = RULE.screen_pass
    low, lower, _ = RULE.screen_drop
    last = RULE.screen_pass[-1]
    tick = 1 / 8
    assert decided([UNIT * first]) == (1, 1)
    assert decided([UNIT * (first - tick)]) == (0, 1)
    assert decided([UNIT * low]) == (0, 1)
    assert decided([UNIT * (low - tick)]) == (-1, 1)
    assert decided([UNIT * second] * 2) == (1, 2)
    assert decided([UNIT * (second - tick)] * 2) == (0, 2)
    assert decided([UNIT * lower] * 2) == (0, 2)
    assert decided([UNIT * (lower - tick)] * 2) == (-1, 2)
    assert decided([UNIT * last] * 4) == (1, 3)
    assert decided([UNIT * (last - tick)] * 4) == (-1, 3)


def test_a_track_without_a_unit_has_no_screen() -> None:
    with pytest.raises(ValueError, match="noise_nats"):
        decided([1.0], rule=RULE.model_copy(update={"noise_nats": None}))


def test_a_candidate_without_gain_costs_about_two_runs_and_one_in_fifteen_passes() -> None:
    noise = UNIT * np.random.default_rng(3).standard_normal((100_000, RUNS))
    state = replay_screen(noise, 0.0, RULE)
    assert np.array(RULE.screen_looks)[state.look - 1].mean() < 2.4
    assert 0.05 < (state.decision == 1).mean() < 0.09
    good = replay_screen(noise + 2 * UNIT, 0.0, RULE)
    assert (good.decision == 1).mean() > 0.97
