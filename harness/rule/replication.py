"""Pure functions of verdicts: what a re-run says about a claim, and a record's state after its challenges."""

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
"""State of a record. It is empty for a confirmed record, and for submissions that are not records."""


def rule_in_pairs(rule: Rule) -> Rule:
    """The rule for a re-run of a claim. Both arms are trained, even on a track that compares with stored runs.

    The stored runs are part of the claim, so their luck would affect every re-run too. The levels for stored runs come
    from a union bound. With pairs, the exact false-accept rate of these levels is a little below alpha.
    """
    if rule.design == "paired":
        return rule
    return rule.model_copy(update={"stored_runs": None, "alpha": false_accept_rate(rule.looks, rule.levels)})


def rule_again(rule: Rule) -> Rule:
    """The rule for a re-run of a record: pairs at the levels of `rule`, and no early stop at a small gain.

    A confirmation may stop early if the mean gain is not above the margin; at worst a record is missed. A re-run that
    stops early would leave the claim open. So a look ends a re-run only if it shows the gain, or if its interval
    excludes the gain. The false-accept rate stays below the rule's alpha.
    """
    return rule_in_pairs(rule).model_copy(update={"futility_alpha": None})


def outcome_of_record(claim: Verdict, again: Verdict) -> Outcome:
    """What a re-run says about the claim of a record.

    A rejection refutes the claim if one of these also holds: a run of the candidate failed; its first run gave exactly
    the record's numbers; the interval lies below the claimed gain (always so if it is not above the margin); the val
    loss is shown to be worse than the lane allows. A failed guard on time refutes nothing, because times of different
    machines cannot be compared.
    """
    if again.decision != "rejected":
        return "confirmed" if again.decision == "accepted" else "open"
    shown = again.ci_low is not None and again.ci_low >= again.margin  # then a rejection has another reason
    excluded = not shown and claim.gain is not None and _upper(again) < claim.gain
    worse = any(guard.quantity == "loss" and _upper(guard) <= guard.margin for guard in again.guards)
    return "refuted" if excluded or worse or {"candidate_failed", "identical"} & {*again.reasons} else "open"


def _upper(found: Verdict | Guard) -> float:
    """Upper end of the two-sided interval. Without an interval, the gain; without a gain, infinity."""
    end = found.gain if found.ci_high is None else found.ci_high
    return math.inf if end is None else end


def outcome_of_negative(again: Verdict) -> Outcome:
    """What a re-run says about a negative result, which claims that a candidate did not break the record."""
    outcomes: dict[str, Outcome] = {"accepted": "refuted", "rejected": "confirmed"}
    return outcomes.get(again.decision, "open")


def outcome_of_challenge(filed: Outcome, again: Outcome) -> Outcome:
    """What a further re-run of the record, with outcome `again`, says about a challenge's filed outcome."""
    if "open" in (filed, again):
        return "open"
    return "confirmed" if filed == again else "refuted"


def state_after(outcomes: Sequence[Outcome]) -> State:
    """A record's state after challenges with these outcomes, in this order.

    A record is provisional until a challenge confirms it. A refutation makes it disputed, until a later confirmation. A
    second refutation without a confirmation in between retracts it for good. An earlier confirmation does not soften a
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


# Failures that the run itself caused. A crash or a kill may have another cause.
OWN_FAILURES = ("diverged", "invalid")
