"""What a re-run says about a claim, and the state of a record after its challenges. Pure functions of verdicts."""

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
"""State of a record; empty for a confirmed record and for anything that is no record."""


def rule_in_pairs(rule: Rule) -> Rule:
    """The rule for training a claim again: both arms anew, even where the track compares with stored runs.

    Stored runs belong to the claim, and chance in them would return in every re-run. The levels for stored runs are a
    union bound; in pairs their exact false-accept rate is a little below alpha.
    """
    if rule.design == "paired":
        return rule
    return rule.model_copy(update={"stored_runs": None, "alpha": false_accept_rate(rule.looks, rule.levels)})


def rule_again(rule: Rule) -> Rule:
    """The rule for training a record again: in pairs, at the same levels, without an early stop at a small gain.

    A confirmation may stop early if its mean gain is not above the margin; at worst it misses a record. A re-run that
    stops early would leave the claim open. So a look ends a re-run only if the gain is shown, or if that look's
    interval excludes it. False accepts stay below the rule's alpha.
    """
    return rule_in_pairs(rule).model_copy(update={"futility_alpha": None})


def outcome_of_record(claim: Verdict, again: Verdict) -> Outcome:
    """What the re-run of a record says about its claim.

    A rejection refutes the claim if, in addition, one of these holds: a run of the candidate failed; its first run gave
    exactly the record's numbers; the interval lies below the claimed gain (one that is not above the margin always
    does); the val loss is shown to be worse than the lane allows. A failed guard on time refutes nothing, because times
    of different machines are not comparable.
    """
    if again.decision != "rejected":
        return "confirmed" if again.decision == "accepted" else "open"
    shown = again.ci_low is not None and again.ci_low >= again.margin  # then the re-run was not rejected for its gain
    excluded = not shown and claim.gain is not None and _upper(again) < claim.gain
    worse = any(guard.quantity == "loss" and _upper(guard) <= guard.margin for guard in again.guards)
    return "refuted" if excluded or worse or {"candidate_failed", "identical"} & {*again.reasons} else "open"


def _upper(found: Verdict | Guard) -> float:
    """Upper end of the two-sided interval; the gain itself if there is no spread, infinite if there is no gain."""
    end = found.gain if found.ci_high is None else found.ci_high
    return math.inf if end is None else end


def outcome_of_negative(again: Verdict) -> Outcome:
    """What a re-run says about a negative result: the claim that a candidate did not break the record."""
    outcomes: dict[str, Outcome] = {"accepted": "refuted", "rejected": "confirmed"}
    return outcomes.get(again.decision, "open")


def outcome_of_challenge(filed: Outcome, again: Outcome) -> Outcome:
    """What another re-run of the same record says about a challenge's outcome."""
    if "open" in (filed, again):
        return "open"
    return "confirmed" if filed == again else "refuted"


def state_after(outcomes: Sequence[Outcome]) -> State:
    """The state of a record after these outcomes of its challenges, in their order.

    It is provisional until a challenge confirms it. After one refutation it is disputed, until a later confirmation. A
    second refutation without a confirmation in between retracts it for good. A confirmation does not weigh against a
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


# Failures that the run itself caused. A crash or a kill may have a cause outside the run.
OWN_FAILURES = ("diverged", "invalid")
