"""What a re-run says about a submission, and the state of a record after its challenges (re-runs on new seeds)."""

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
    """The rule for a re-run of a submission. Record and candidate are both trained, even on a track with stored runs.

    On such a track, the submitted candidate was compared with stored runs of the record. If these runs are worse than
    usual by chance, a re-run against them overestimates the gain in the same way. The significance levels of such a
    track come from a union bound. For pairs, the exact false-accept rate of these levels is a little below alpha; this
    rate is used as the new alpha.
    """
    if rule.design == "paired":
        return rule
    return rule.model_copy(update={"stored_runs": None, "alpha": false_accept_rate(rule.looks, rule.levels)})


def rule_again(rule: Rule) -> Rule:
    """The rule for a re-run of a record: pairs, the significance levels of `rule`, and no early stop at a small gain.

    A confirmation stops early if the mean gain is not above the margin. The worst consequence is that a record is
    missed. But a re-run that stopped in this way would not show whether the claimed gain is real. So a look (test) ends
    a re-run early only if it shows a gain above the margin, or if the interval of the gain lies below the margin. The
    false-accept rate stays below the rule's alpha.
    """
    return rule_in_pairs(rule).model_copy(update={"futility_alpha": None})


def outcome_of_record(claim: Verdict, again: Verdict) -> Outcome:
    """Whether a re-run confirms or refutes the gain that the submission of a record claims.

    A re-run that rejects refutes the claim if one of these also holds: a run of the candidate failed; the candidate's
    first run gave exactly the record's losses; the interval of the gain lies below the claimed gain and reaches below
    the margin; the val loss is shown to be worse than the claim allows. A rejection because of time refutes nothing,
    because times of different machines cannot be compared.
    """
    if again.decision != "rejected":
        return "confirmed" if again.decision == "accepted" else "open"
    shown = again.ci_low is not None and again.ci_low >= again.margin  # then a rejection has another reason
    excluded = not shown and claim.gain is not None and _upper(again) < claim.gain
    worse = any(guard.quantity == "loss" and _upper(guard) <= guard.margin for guard in again.guards)
    return "refuted" if excluded or worse or {"candidate_failed", "identical"} & {*again.reasons} else "open"


def _upper(found: Verdict | Guard) -> float:
    """Upper end of the gain's two-sided interval; without an interval, the gain; without a gain, infinity."""
    end = found.gain if found.ci_high is None else found.ci_high
    return math.inf if end is None else end


def outcome_of_negative(again: Verdict) -> Outcome:
    """Whether a re-run confirms or refutes a negative result, which says that a candidate does not beat the record."""
    outcomes: dict[str, Outcome] = {"accepted": "refuted", "rejected": "confirmed"}
    return outcomes.get(again.decision, "open")


def outcome_of_challenge(filed: Outcome, again: Outcome) -> Outcome:
    """Whether `again`, the outcome of a further re-run of the record, confirms `filed`, the outcome of a challenge."""
    if "open" in (filed, again):
        return "open"
    return "confirmed" if filed == again else "refuted"


def state_after(outcomes: Sequence[Outcome]) -> State:
    """A record's state after challenges with these outcomes, in this order.

    A record is provisional until a challenge confirms it. A refutation makes it disputed, until a later challenge
    confirms it. A second refutation without a confirmation in between retracts it for good. A refutation counts in
    full, even if earlier challenges confirmed the record.
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
