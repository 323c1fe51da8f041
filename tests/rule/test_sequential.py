"""The looks of a confirmation: size by recursion, one p over all looks, and the same decisions as one by one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from scipy.special import stdtr

from harness.core.errors import LlmbenchError
from harness.core.track import Rule
from harness.rule import sequential
from harness.rule.sequential import (
    Criterion,
    check_levels,
    false_accept_rate,
    replay,
    spend,
    stage_wise_p,
    usual_weights,
)
from harness.rule.stats import Array
from harness.rule.verdict import decide
from tests.make import RULE, STORED, make_pairs

NUM = 1_000_000
LOOKS, LEVELS = RULE.looks, RULE.levels
LOOK_SETS = pytest.mark.parametrize(
    ("looks", "levels"),
    [
        ((3,), (0.01,)),
        (LOOKS, LEVELS),
        ((3, 5, 8), (0.003, 0.003, 0.004)),
        ((2, 8), (0.02, 0.03)),
        (LOOKS, (0.05, 0.1, 0.2, 0.3)),
        (LOOKS, (0.05, 0.1, 0.6, 0.95)),  # a bar below zero, as the p of a hopeless candidate has
    ],
)


@pytest.fixture
def _fresh_grid() -> Iterator[None]:
    sequential._crossing.cache_clear()
    yield
    sequential._crossing.cache_clear()


@lru_cache(maxsize=8)
def p_values(num_pairs: int) -> Array:
    """p of the t-test at `num_pairs` of a million contests without any gain."""
    gains = np.random.default_rng(20).standard_normal((NUM, 8))[:, :num_pairs]
    t = gains.mean(-1) / gains.std(-1, ddof=1) * num_pairs**0.5
    return np.asarray(stdtr(num_pairs - 1, -t))


def simulated(looks: Sequence[int], levels: Sequence[float]) -> float:
    """Share of the contests that some look accepts."""
    return float(np.any([p_values(n) <= level for n, level in zip(looks, levels, strict=True)], axis=0).mean())


def error(share: float) -> float:
    """Standard error of a share of the simulated contests."""
    return (share * (1 - share) / NUM) ** 0.5


def normal_noise(rule: Rule, num: int, *, ratio: float = 1.0, gain: float = 0.0) -> Criterion:
    """The losses of `num` contests. Unit: a record's seed deviation; the candidate's is `ratio` times as large."""
    rng = np.random.default_rng(8)
    record = rng.standard_normal((num, rule.stored_runs or rule.looks[-1]))
    candidate = rng.standard_normal((num, rule.looks[-1]))
    return Criterion(
        quantity="loss",
        record=record,
        candidate=ratio * candidate - gain,
        margin=0.0,
        design=rule.design,
        missed="not_shown",
        hopeless="hopeless",
    )


@LOOK_SETS
def test_size_by_recursion_is_that_of_a_million_contests(looks: tuple[int, ...], levels: tuple[float, ...]) -> None:
    exact = false_accept_rate(looks, levels)
    assert abs(simulated(looks, levels) - exact) < 4 * error(exact)


@pytest.mark.parametrize("level", [1e-6, 0.01, 0.4, 0.7, 1 - 1e-9])
def test_one_look_has_its_own_level(level: float) -> None:
    assert false_accept_rate((5,), (level,)) == pytest.approx(level, rel=1e-9)


@LOOK_SETS
@pytest.mark.usefixtures("_fresh_grid")
def test_a_finer_grid_moves_the_size_by_less_than_a_thousandth(
    looks: tuple[int, ...], levels: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = false_accept_rate(looks, levels)
    monkeypatch.setattr(sequential, "NODES", 4 * sequential.NODES)
    monkeypatch.setattr(sequential, "ANGLES", 2 * sequential.ANGLES)
    sequential._crossing.cache_clear()
    assert false_accept_rate(looks, levels) == pytest.approx(size, rel=1e-3)


@pytest.mark.parametrize("look", [1, 2, 3, 4])
@pytest.mark.parametrize("p", [0.001, 0.01, 0.3, 0.51, 0.9, 0.999])
def test_without_a_gain_a_p_over_all_looks_is_as_rare_as_it_says(look: int, p: float) -> None:
    over_all = stage_wise_p(LOOKS, LEVELS, look, p)
    assert abs(simulated(LOOKS[:look], (*LEVELS[: look - 1], p)) - over_all) < 4 * error(over_all)


@pytest.mark.parametrize("look", [1, 2, 3, 4])
def test_a_larger_statistic_never_has_the_larger_p(look: int) -> None:
    ps = [0.0, 1e-200, 1e-9, 1e-4, 0.01, 0.2, 0.5, 0.7, 0.99, 1 - 1e-6, 1 - 1e-12, 1.0]
    found = [stage_wise_p(LOOKS, LEVELS, look, p) for p in ps]
    assert all(low <= high + 1e-9 for low, high in itertools.pairwise(found))
    assert found[-1] == pytest.approx(1)
    assert found[0] == pytest.approx(false_accept_rate(LOOKS[: look - 1], LEVELS[: look - 1]) if look > 1 else 0)


def test_a_final_verdict_accepts_exactly_where_its_p_is_at_most_alpha() -> None:
    finals = []
    for gain in (0.0, 1.5, 3.0):
        contests = normal_noise(RULE, 30, gain=gain)
        for arms in zip(contests.record, contests.candidate, strict=True):
            verdict = decide(make_pairs(*(4.0 + 0.01 * arm for arm in arms)), RULE, added_statements=0)
            assert verdict.p_value is not None
            assert (verdict.p_value <= RULE.alpha) == (verdict.decision == "accepted")
            finals.append((verdict.decision, verdict.look))
    assert {look for decision, look in finals if decision == "accepted"} >= {2, 3, 4}
    assert {look for decision, look in finals if decision == "rejected"} >= {1, 4}
    # At the very bar of each look.
    for look, level in enumerate(LEVELS, start=1):
        assert stage_wise_p(LOOKS, LEVELS, look, level) <= RULE.alpha
    assert stage_wise_p(LOOKS, LEVELS, len(LOOKS), 1.01 * LEVELS[-1]) > RULE.alpha


@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_levels_that_spend_two_percent_less_or_more_are_refused_with_the_factor_that_repairs_them(
    factor: float,
) -> None:
    def times(by: float) -> Rule:
        return RULE.model_copy(update={"levels": tuple(by * level for level in LEVELS)})

    check_levels(RULE)
    with pytest.raises(LlmbenchError, match=r"multiply each of rule.levels by about") as refused:
        check_levels(times(factor))
    check_levels(times(factor * float(str(refused.value).rsplit(" ", 1)[1])))


def test_levels_of_a_stored_design_may_not_add_up_to_more_than_alpha() -> None:
    check_levels(STORED)
    check_levels(STORED.model_copy(update={"levels": (0.001,) * 4}))  # less is allowed: a bound is no exact size
    with pytest.raises(LlmbenchError, match=r"probability of 0\.01040"):
        check_levels(STORED.model_copy(update={"levels": (0.0026,) * 4}))


def test_one_percent_false_accepts_and_ninety_five_percent_power_under_normal_noise() -> None:
    num = 40_000
    for ratio in (1, 3, 6):
        placebo = replay([normal_noise(RULE, num, ratio=ratio)], RULE)
        assert abs((placebo.decision == 1).mean() - 0.01) < 4 * (0.01 / num) ** 0.5
    better = replay([normal_noise(RULE, num, gain=2 * 2**0.5)], RULE)  # two deviations of a difference of two runs
    assert (better.decision == 1).mean() > 0.95
    assert np.array(RULE.looks)[better.look - 1].mean() < 6.5


def test_stored_runs_hold_the_promise_where_both_arms_scatter_alike() -> None:
    num = 40_000
    rule = STORED.model_copy(update={"stored_runs": 16})
    placebo = replay([normal_noise(rule, num)], rule)
    assert 0.004 < (placebo.decision == 1).mean() < 0.01
    better = replay([normal_noise(rule, num, gain=2 * 2**0.5)], rule)
    assert (better.decision == 1).mean() > 0.95


def test_a_decision_is_final() -> None:
    contests = normal_noise(RULE, 20_000, gain=1.5)
    contests.candidate[0] = contests.record[0] - [-0.01, 0.01, -0.001, 1, 1, 1, 1, 1]  # the last look would accept it
    full = replay([contests], RULE)
    for num in RULE.looks:
        early = replay(
            [replace(contests, record=contests.record[:, :num], candidate=contests.candidate[:, :num])], RULE
        )
        done = early.decision != 0
        assert {1, -1} <= set(early.decision[done])
        assert (full.decision[done] == early.decision[done]).all()
        assert (full.look[done] == early.look[done]).all()
    assert full.decision.all()
    assert (full.decision[0], full.look[0]) == (-1, 1)


@pytest.mark.parametrize("gain", [0.0, 2.0])
def test_each_contest_is_decided_as_it_is_alone(gain: float) -> None:
    contests = normal_noise(RULE, 60, gain=gain)
    together = replay([contests], RULE)
    words = {0: "undecided", 1: "accepted", -1: "rejected"}
    for place, arms in enumerate(zip(contests.record, contests.candidate, strict=True)):
        alone = decide(make_pairs(*(4.0 + 0.01 * arm for arm in arms)), RULE, added_statements=0)
        assert (alone.decision, alone.look) == (words[int(together.decision[place])], together.look[place])


@pytest.mark.parametrize(
    ("looks", "alpha"), [((3, 4, 6, 8), 0.01), ((2, 3), 0.05), ((5,), 0.05), ((3, 5, 8, 20), 0.001)]
)
def test_levels_of_any_looks_spend_alpha_and_rise(looks: tuple[int, ...], alpha: float) -> None:
    levels = spend(looks, usual_weights(looks), alpha)
    assert false_accept_rate(looks, levels) == pytest.approx(alpha, rel=1e-3)
    assert list(levels) == sorted(levels)


def test_the_tracks_own_levels_are_what_their_looks_get() -> None:
    assert spend((3, 4, 6, 8), usual_weights((3, 4, 6, 8)), 0.01) == pytest.approx(
        (0.001438, 0.001869, 0.002876, 0.005751), rel=1e-3
    )
