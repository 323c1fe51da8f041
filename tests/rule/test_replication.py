"""What a re-run says of a claim, and what challenges make of a record: tables and properties of pure functions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.core.runs import FinishedRun, Pair
from harness.core.track import Rule
from harness.rule.criteria import Lane
from harness.rule.replication import (
    Outcome,
    outcome_of_challenge,
    outcome_of_negative,
    outcome_of_record,
    rule_again,
    rule_in_pairs,
    state_after,
)
from harness.rule.sequential import check_levels
from harness.rule.verdict import FailureCode, Verdict, decide, failed_verdict
from tests.make import RULE, STORED, contests, make_pairs, make_run

AGAIN = rule_again(RULE)


def verdict_on(pairs: Sequence[Pair], rule: Rule = AGAIN, lane: Lane = "loss") -> Verdict:
    return decide(pairs, rule, added_statements=0, lane=lane)


def spread(gain: float, size: float, num: int = 8) -> list[Pair]:
    """`num` pairs whose gains alternate by `size` about `gain`."""
    return make_pairs([3.0] * num, [3.0 - gain + size * (-1) ** seed for seed in range(num)])


CLAIM = verdict_on(spread(0.125, 0.001, 3), RULE)


@pytest.mark.parametrize(
    ("pairs", "outcome"),
    [
        (spread(0.125, 0.001), "confirmed"),
        (spread(0.03, 0.001), "confirmed"),  # a smaller gain than claimed, but a gain
        (spread(0.0, 0.001), "refuted"),  # no gain: the interval ends below the margin
        (spread(-0.25, 0.001), "refuted"),
        (spread(0.0, 0.0), "refuted"),  # the very same numbers in both arms: no scatter and no gain
        (spread(0.02, 0.05), "refuted"),  # unclear whether there is a gain, but not the one that was claimed
        (spread(0.06, 0.09), "open"),  # the interval holds both no gain and the claimed one
        (spread(0.06, 0.09, 5), "open"),
        (spread(0.125, 0.001, 2), "open"),
    ],
)
def test_a_record_is_confirmed_refuted_or_left_open(pairs: list[Pair], outcome: Outcome) -> None:
    assert CLAIM.decision == "accepted"
    assert outcome_of_record(CLAIM, verdict_on(pairs)) == outcome


def test_a_candidate_that_fails_refutes_and_a_record_that_fails_does_not() -> None:
    expected: dict[FailureCode, Outcome] = {
        "candidate_failed": "refuted",
        "record_failed": "open",
        "run_interrupted": "open",
    }
    for code, outcome in expected.items():
        assert (
            outcome_of_record(CLAIM, failed_verdict(code, "why", RULE, added_statements=0, stage="confirmation"))
            == outcome
        )


def timed_pairs(gain: float, candidate_s: float, num: int = 8) -> list[Pair]:
    """Pairs trained alone, one right after the other, with almost no noise in loss or time."""

    def run(recipe: str, seed: int, loss: float, seconds: float, minute: int) -> FinishedRun:
        ended = f"2026-11-22T12:{minute:02d}:00Z"
        return make_run(recipe, seed, loss, seconds + 1e-3 * seed, ended)

    return [
        Pair(
            run("base", s, 3.0 + 1e-4 * (-1) ** s, 10.0, 2 * s), run("base+idea", s, 3.0 - gain, candidate_s, 2 * s + 1)
        )
        for s in range(num)
    ]


def test_a_guard_on_time_refutes_nothing_and_a_guard_on_loss_does() -> None:
    slow = verdict_on(timed_pairs(0.125, 20.0))
    assert slow.reasons[0] == "too_slow"
    assert outcome_of_record(CLAIM, slow) == "open"
    fast = verdict_on(timed_pairs(0.0, 5.0, 3), RULE, "speed")
    worse = verdict_on(timed_pairs(-0.25, 5.0), lane="speed")
    assert (fast.decision, worse.reasons[0]) == ("accepted", "loss_worse")
    assert outcome_of_record(fast, worse) == "refuted"


def test_a_rerun_does_not_stop_on_a_hunch() -> None:
    """Three pairs without a gain in much noise: the rule gives up, and the interval still holds the claimed gain."""
    pairs = spread(-0.02, 0.05, 3)
    hasty, patient = verdict_on(pairs, RULE), verdict_on(pairs)
    assert (hasty.reasons, outcome_of_record(CLAIM, hasty)) == (("hopeless",), "open")
    assert (patient.decision, patient.next_look) == ("undecided", 4)


@given(contests())
def test_a_rerun_stops_early_only_where_it_settles_the_claim(pairs: list[Pair]) -> None:
    """Otherwise what was stopped would stay open for ever, since a verdict is final."""
    again = verdict_on(pairs)
    if again.decision != "undecided" and again.look < len(RULE.looks) and "too_slow" not in again.reasons:
        assert outcome_of_record(CLAIM, again) != "open"


@given(contests())
def test_what_the_rule_accepts_its_rerun_accepts_and_confirms(pairs: list[Pair]) -> None:
    claim, again = verdict_on(pairs, RULE), verdict_on(pairs)
    assume(claim.decision == "accepted")
    assert (again.decision, again.look, again.gain) == (claim.decision, claim.look, claim.gain)
    assert outcome_of_record(claim, again) == "confirmed"


def test_a_first_run_that_ends_in_the_records_own_numbers_refutes_a_record() -> None:
    """A variant that acts on the claim's seeds alone: on others it is the record."""
    again = verdict_on(spread(0.0, 0.0, 1))
    assert again.reasons == ("identical",)
    assert outcome_of_record(CLAIM, again) == "refuted"
    assert outcome_of_negative(again) == "confirmed"


def test_where_contests_use_stored_runs_a_claim_is_trained_again_in_pairs() -> None:
    """Else the luck of the record's stored runs would come again in every re-run."""
    for rule in (rule_in_pairs(STORED), rule_again(STORED)):
        check_levels(rule)
        assert (rule.design, rule.looks, rule.levels) == ("paired", STORED.looks, STORED.levels)
        assert 0.5 * STORED.alpha < rule.alpha < STORED.alpha
    assert rule_in_pairs(RULE) == RULE
    again = verdict_on(spread(0.125, 0.001), rule_again(STORED))
    assert (again.design, outcome_of_record(CLAIM, again)) == ("paired", "confirmed")


def test_a_negative_result_is_refuted_by_an_acceptance_alone() -> None:
    assert outcome_of_negative(verdict_on(spread(0.125, 0.001))) == "refuted"
    assert outcome_of_negative(verdict_on(spread(0.0, 0.001))) == "confirmed"
    assert outcome_of_negative(verdict_on(spread(0.0, 0.001, 2))) == "open"


def test_a_challenge_is_confirmed_by_the_same_outcome_and_refuted_by_the_opposite() -> None:
    outcomes: tuple[Outcome, ...] = ("confirmed", "refuted", "open")
    for filed, again in itertools.product(outcomes, repeat=2):
        expected = "open" if "open" in (filed, again) else "confirmed" if filed == again else "refuted"
        assert outcome_of_challenge(filed, again) == expected


R: Outcome = "refuted"
C: Outcome = "confirmed"
O: Outcome = "open"  # noqa: E741


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ([], "provisional"),
        ([O, O], "provisional"),  # nothing was shown
        ([C], ""),
        ([C, O], ""),
        ([O, O, C], ""),
        ([R], "disputed"),
        ([R, O], "disputed"),
        ([R, C], ""),
        ([R, C, R], "disputed"),
        ([C, C, R], "disputed"),  # confirmations beforehand protect against nothing
        ([R, R], "retracted"),
        ([R, O, R], "retracted"),
        ([C, C, C, R, R], "retracted"),
        ([R, R, C, C, C], "retracted"),
    ],
)
def test_challenges_dispute_lift_and_retract(outcomes: list[Outcome], state: str) -> None:
    assert state_after(outcomes) == state


histories = st.lists(st.sampled_from([R, C, O]), max_size=8)


@given(histories, histories)
def test_retracted_stays_retracted_whatever_comes(before: list[Outcome], after: list[Outcome]) -> None:
    assume(state_after(before) == "retracted")
    assert state_after(before + after) == "retracted"


@given(histories)
def test_no_record_is_confirmed_without_a_challenge_that_confirmed_it(history: list[Outcome]) -> None:
    assert state_after([outcome for outcome in history if outcome != C]) != ""


@given(histories, st.data())
def test_a_worse_outcome_never_makes_a_better_state(history: list[Outcome], data: st.DataObject) -> None:
    assume(history)
    place = data.draw(st.integers(0, len(history) - 1))
    ranks = [C, O, R]
    worse = data.draw(st.sampled_from(ranks[ranks.index(history[place]) :]))
    states = ["", "provisional", "disputed", "retracted"]
    changed = state_after([*history[:place], worse, *history[place + 1 :]])
    assert states.index(changed) >= states.index(state_after(history))


def test_a_gain_that_is_shown_again_is_not_refuted_by_time() -> None:
    """Smaller than claimed, above its margin, and on a machine where the candidate is slow."""
    again = spread(0.03, 0.001)
    slow = [
        Pair(p.record, make_run(p.candidate.recipe, p.candidate.seed, p.candidate.evaluation.val_loss, 30.0))
        for p in again
    ]
    verdict = verdict_on(slow)
    assert (verdict.decision, verdict.reasons[0]) == ("rejected", "too_slow")
    assert verdict.ci_high is not None
    assert CLAIM.gain is not None
    assert verdict.ci_high < CLAIM.gain
    assert outcome_of_record(CLAIM, verdict) == "open"
