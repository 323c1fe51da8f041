"""What a re-run says about a claim, and what challenges make of a record. Pure functions of verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from harness.core.track import Rule
from harness.rule.criteria import Guard
from harness.rule.sequential import false_accept_rate
from harness.rule.verdict import Verdict

Outcome = Literal["confirmed", "refuted", "open"]
State = Literal["", "provisional", "disputed", "retracted"]
"""Of a record, empty where it is confirmed; of anything else empty."""


def rule_in_pairs(rule: Rule) -> Rule:
    """The rule for training a claim again: both arms anew, whatever a contest of the track compares.

    Stored runs of the record are part of the claim: luck of theirs would come again in every re-run. Their levels
    are a union bound; in pairs they spend a little less than alpha, exactly known.
    """
    if rule.design == "paired":
        return rule
    return rule.model_copy(update={"stored_runs": None, "alpha": false_accept_rate(rule.looks, rule.levels)})


def rule_again(rule: Rule) -> Rule:
    """The rule for training a record again: in pairs, at the same levels, without a stop where the gain looks small.

    A confirmation may stop early where its mean is no gain; at worst that misses a record. A re-run that stops before
    the evidence is in leaves the claim open. So a look stops a re-run only if the gain is shown, or if the interval of
    that look excludes it. False accepts stay below the rule's alpha.
    """
    return rule_in_pairs(rule).model_copy(update={"futility_alpha": None})


def outcome_of_record(claim: Verdict, again: Verdict) -> Outcome:
    """What the re-run of a record says about its claim.

    A claim is refuted by a rejection together with one of: a failed run of the candidate, a first run that ends in the
    record's own numbers, an interval below the claimed gain (an interval not above the margin always is), or a val
    loss shown to be worse than the lane allows. A failed guard on time refutes nothing, because times of different
    machines are not comparable.
    """
    if again.decision != "rejected":
        return "confirmed" if again.decision == "accepted" else "open"
    shown = again.ci_low is not None and again.ci_low >= again.margin  # then it was not the gain that failed
    excluded = not shown and claim.gain is not None and _upper(again) < claim.gain
    worse = any(guard.quantity == "loss" and _upper(guard) <= guard.margin for guard in again.guards)
    return "refuted" if excluded or worse or {"candidate_failed", "identical"} & {*again.reasons} else "open"


def _upper(found: Verdict | Guard) -> float:
    """Upper end of the two-sided interval: the gain itself without spread, infinite without a gain."""
    end = found.gain if found.ci_high is None else found.ci_high
    return math.inf if end is None else end


def outcome_of_negative(again: Verdict) -> Outcome:
    """What a re-run says about the claim that a candidate did not break the record."""
    outcomes: dict[str, Outcome] = {"accepted": "refuted", "rejected": "confirmed"}
    return outcomes.get(again.decision, "open")


def outcome_of_challenge(filed: Outcome, again: Outcome) -> Outcome:
    """What a further re-run of the same record says about a challenge's outcome."""
    if "open" in (filed, again):
        return "open"
    return "confirmed" if filed == again else "refuted"


def state_after(outcomes: Sequence[Outcome]) -> State:
    """The state of a record after its challenges, in their order.

    It is provisional until one confirms it. One refutation disputes a record and a later confirmation lifts the
    dispute; a second unanswered refutation retracts it for good. An earlier confirmation does not count against a
    later refutation.
    """
    doubt = 0
    for outcome in outcomes:
        doubt = max(0, doubt + {"refuted": 1, "confirmed": -1, "open": 0}[outcome])
        if doubt == 2:
            return "retracted"
    if doubt:
        return "disputed"
    return "" if "confirmed" in outcomes else "provisional"


# Failures that the run itself caused; a crash or a kill may have an outside cause.
OWN_FAILURES = ("diverged", "invalid")
