"""What training a claim again says of it, and what challenges make of a record. Pure functions of verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from harness.core.track import Rule
from harness.rule.verdict import Guard, Verdict

Outcome = Literal["confirmed", "refuted", "open"]
State = Literal["", "disputed", "retracted"]
NEVER_BEHIND = 1e6  # nats: no run is ever that far behind, so none is given up early
_DOUBTS: dict[Outcome, int] = {"refuted": 1, "confirmed": -1, "open": 0}


def rule_again(rule: Rule) -> Rule:
    """The rule for training a record again: the same levels, but no stop because the gain looks small.

    A contest may give up a candidate on a hunch, which costs it a record at most. A re-run must not: what it
    stops before the evidence is in would stay open for ever. So a look stops it only where the gain is shown,
    or where the two-sided interval of that look excludes it. False accepts stay below the rule's alpha.
    """
    return rule.model_copy(update={"futility_alpha": rule.alpha_look, "milestone_deficit": NEVER_BEHIND})


def outcome_of_record(claim: Verdict, again: Verdict) -> Outcome:
    """What the re-run of a record says of its claim.

    Refuted takes a rejection and one thing more: a run of the candidate that failed, an interval that lies below
    the claimed gain (as every one does that is not above the margin), or a val loss shown to be worse than the lane
    allows.
    A guard on time that fails here refutes nothing, because times do not travel between machines.
    """
    if again.decision != "rejected":
        return "confirmed" if again.decision == "accepted" else "open"
    excluded = claim.gain is not None and _upper(again) < claim.gain
    worse = any(guard.quantity == "loss" and _upper(guard) <= guard.margin for guard in again.guards)
    return "refuted" if excluded or worse or "candidate_failed" in again.reasons else "open"


def _upper(found: Verdict | Guard) -> float:
    """Upper end of the two-sided interval: the gain itself where nothing scatters, infinite where there is no gain."""
    end = found.gain if found.ci_high is None else found.ci_high
    return math.inf if end is None else end


def outcome_of_negative(again: Verdict) -> Outcome:
    """What a re-run says of the claim that a candidate did not break the record."""
    outcomes: dict[str, Outcome] = {"accepted": "refuted", "rejected": "confirmed"}
    return outcomes.get(again.decision, "open")


def outcome_of_challenge(filed: Outcome, again: Outcome) -> Outcome:
    """What a further re-run of the same record says of a challenge's outcome."""
    if "open" in (filed, again):
        return "open"
    return "confirmed" if filed == again else "refuted"


def state_after(outcomes: Sequence[Outcome]) -> State:
    """What its challenges, in their order, have made of a record.

    One refutation disputes it and a confirmation after that lifts the dispute; the second refutation that no
    confirmation has answered retracts it for good. A confirmation beforehand protects against nothing.
    """
    doubt = 0
    for outcome in outcomes:
        doubt = max(0, doubt + _DOUBTS[outcome])
        if doubt == 2:
            return "retracted"
    return "disputed" if doubt else ""


# A run that failed in these ways failed by itself; a crash or a kill may have had a cause from outside.
OWN_FAILURES = ("diverged", "invalid")
