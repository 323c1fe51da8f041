"""The plan: what the two stages cost and find, simulated; the same question has the same answer."""

from __future__ import annotations

import pytest

from harness.core.errors import LlmbenchError
from harness.core.track import Rule, Track
from harness.rule.forecast import filled, forecast, look_costs, make_plan
from tests.make import RULE, STORED

SD = 0.004
UNIT = RULE.model_copy(update={"noise_nats": SD})
STORED_UNIT = STORED.model_copy(update={"noise_nats": SD})
ALONE = RULE.model_copy(update={"noise_nats": None})
RULES = pytest.mark.parametrize("rule", [UNIT, STORED_UNIT, ALONE], ids=["paired", "stored", "no screen"])


@pytest.fixture
def planned(smoke: Track) -> Track:
    """The declared rule, with a unit that the test knows."""
    return smoke.model_copy(update={"rule": smoke.rule.model_copy(update={"noise_nats": SD})})


@RULES
def test_the_same_question_has_the_same_answer(rule: Rule) -> None:
    assert forecast(rule, SD, SD) == forecast(rule, SD, SD)


@RULES
def test_more_gain_never_has_less_chance(rule: Rule) -> None:
    found = [forecast(rule, step * SD / 2, SD) for step in range(-2, 9)]
    for name in ("accepted", "passed"):
        chances = [getattr(one, name) for one in found]
        assert chances == sorted(chances)
    assert found[-1].accepted > 0.99


@RULES
def test_every_contest_ends_somewhere(rule: Rule) -> None:
    found = forecast(rule, SD, SD)
    assert sum(found.confirmation) == pytest.approx(found.passed)
    assert sum(found.screen) == pytest.approx(0 if rule.noise_nats is None else 1)
    assert found.accepted <= found.passed


@RULES
def test_the_unit_of_loss_does_not_matter_and_a_price_is_a_smaller_gain(rule: Rule) -> None:
    scaled = rule if rule.noise_nats is None else rule.model_copy(update={"noise_nats": 8 * SD})
    assert forecast(scaled, 16 * SD, 8 * SD) == forecast(rule, 2 * SD, SD)
    assert forecast(rule, 2 * SD, SD, margin=SD).accepted == pytest.approx(forecast(rule, SD, SD).accepted, abs=1e-3)


def test_the_confirmation_alone_spends_its_alpha() -> None:
    assert forecast(ALONE, 0.0, SD).accepted == pytest.approx(0.01, abs=0.003)
    assert forecast(STORED.model_copy(update={"noise_nats": None}), 0.0, SD).accepted <= 0.01


def test_a_candidate_without_gain_costs_what_the_study_says(planned: Track) -> None:
    """benchmarks/verdict has the same numbers from ten times as many contests."""
    none, gain, twice = make_plan(planned, 1.5 * SD, 0, 2, 10.0, "kept runs").expected
    assert none.total.runs == pytest.approx(3.3, abs=0.1)
    assert none.accepted < 0.002
    assert gain.accepted == pytest.approx(0.7, abs=0.03)
    assert twice.accepted > 0.99
    assert (none.gain, gain.gain, twice.gain) == (0, 1.5 * SD, 3 * SD)


def test_the_plan_adds_up(planned: Track) -> None:
    plan = make_plan(planned, 2 * SD, 0, 2, 10.0, "kept runs")
    for one in plan.expected:
        assert one.total.runs == pytest.approx(one.screen.runs + one.confirmation.runs)
        assert one.total.time_s == pytest.approx((one.screen.time_s or 0) + (one.confirmation.time_s or 0))
        assert one.total.time_s == pytest.approx(10 * one.total.runs / 2)  # two at a time, no place left empty
        assert one.total.runs <= plan.longest.runs == 4 + 2 * 8
    assert (plan.longest.time_s, plan.record.runs, plan.record.time_s) == (100.0, 4, 20.0)
    dearer = make_plan(planned, 2 * SD, 20, 2, 10.0, "kept runs")
    assert dearer.margin == pytest.approx(20 * planned.rule.loss_per_statement)
    assert dearer.expected[1].accepted < plan.expected[1].accepted


def test_a_plan_without_times_still_counts_runs(planned: Track) -> None:
    plan = make_plan(planned, SD, 0, 1, None, None)
    assert [cost.time_s for one in plan.expected for cost in (one.screen, one.confirmation, one.total)] == [None] * 9
    assert plan.expected[0].total.runs > 0


def test_a_track_without_known_noise_cannot_be_planned(planned: Track) -> None:
    unknown = planned.model_copy(update={"rule": planned.rule.model_copy(update={"noise_nats": None})})
    with pytest.raises(LlmbenchError, match=r"lacks rule\.noise_nats.*llmbench noise --save --track smoke"):
        make_plan(unknown, SD, 0, 1, None, None)
    assert look_costs(unknown.rule, "screen", 2) == []


@pytest.mark.parametrize("jobs", [1, 2, 3, 4, 7, 16])
@pytest.mark.parametrize("rule", [UNIT, STORED_UNIT])
@pytest.mark.parametrize("stage", ["screen", "confirmation"])
def test_looks_cost_what_a_contest_trains(stage: str, rule: Rule, jobs: int) -> None:
    looks = rule.screen_looks if stage == "screen" else rule.looks
    arms = 2 if stage == "confirmation" and rule.stored_runs is None else 1
    costs = look_costs(rule, stage, jobs)  # type: ignore[arg-type]
    assert costs[-1].runs == arms * looks[-1]
    trained = slots = 0.0
    for look, cost in zip(looks, costs, strict=True):
        assert cost.runs >= arms * look
        assert cost.runs == arms * min(filled(rule, stage, look, jobs), looks[-1])  # type: ignore[arg-type]
        assert (cost.slots - slots - 1) * jobs < cost.runs - trained <= (cost.slots - slots) * jobs
        trained, slots = cost.runs, cost.slots
    if jobs == 1:
        assert [cost.slots for cost in costs] == [arms * look for look in looks]
