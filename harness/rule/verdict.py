"""The rule: pairs in, verdict out. The same pure function in `run`, `submit`, `verify` and in the study.

A verdict falls at a look, after a declared number of pairs. There the candidate is accepted, or rejected as
hopeless, or waits for the next look; what the last look does not accept is rejected. Earlier looks are
replayed first, so a verdict once fallen stays, and nobody gains by asking again with more pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from harness.core.runs import FailedRun, FinishedRun, Pair
from harness.core.schema import Count, Strict
from harness.core.track import Rule
from harness.rule.comparable import comparability_problems
from harness.rule.sequential import Criterion, Finding, Quantity, Replay, find, replay
from harness.rule.stats import Design, pair_correlation, sign_flip_p

Lane = Literal["loss", "speed", "simplicity"]
FailureCode = Literal["candidate_failed", "hopeless_start", "record_failed", "run_interrupted"]
LANES: tuple[Lane, ...] = ("loss", "speed", "simplicity")
Decision = Literal["accepted", "rejected", "undecided"]


class Guard(Strict):
    """A condition beside the lane's own gain."""

    quantity: Quantity
    """`loss` in nats per token; `time` as the logarithm of the time ratio record / candidate."""
    gain: float
    margin: float
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    passed: bool


class Verdict(Strict):
    """What the rule says about a set of pairs, and the numbers behind it.

    `gain`, `margin` and the interval are in nats per token in the lanes `loss` and `simplicity`, and the
    logarithm of the time ratio record / candidate in the lane `speed`. They are None before the first look
    and where pairs must not be compared.
    """

    decision: Decision
    lane: Lane
    reasons: Annotated[tuple[str, ...], Field(min_length=1)]
    """Stable codes, the deciding ones first; `reasons.explain` says them in words."""
    details: tuple[str, ...] = ()
    """For pairs that must not be compared: which values differ."""
    pairs: Count
    """Pairs used: those of the look, in the order given."""
    look: Count
    """Which look this was, from 1; 0 before the first."""
    next_look: int | None
    """Pairs that the next look needs; None where the verdict is final or more pairs would not help."""
    design: Design
    gain: float | None = None
    margin: float
    ci_low: float | None = None
    """Lower end of the two-sided interval at level 1 - 2 alpha_look: above the margin where the gain is shown."""
    ci_high: float | None = None
    p_value: float | None = None
    """One-sided, at this look; None where the values do not scatter."""
    alpha_look: float
    sign_flip_p: float | None = None
    """Exact one-sided p under flips of sign, from seven pairs on; a check, not part of the rule."""
    correlation: float | None = None
    """Of the two arms' val losses over the pairs used; None below three pairs."""
    time_ratio: float | None = None
    """Candidate / record, geometric mean over the pairs used."""
    added_statements: int
    guards: tuple[Guard, ...] = ()


def decide(pairs: Sequence[Pair], rule: Rule, *, added_statements: int, lane: Lane = "loss") -> Verdict:
    """The verdict on `pairs`, given in the order in which their seeds were declared.

    `added_statements` is the candidate's cost minus the record's. In the lanes `loss` and `speed` each added
    one raises the margin and removed ones earn nothing. A look uses the first pairs up to its number; pairs
    between two looks are not used until the next one is complete. Never raises on finite numbers.
    """
    base: dict[str, Any] = {
        "lane": lane,
        "margin": _margin(rule, lane, added_statements),
        "design": "paired" if lane == "speed" else rule.design,
        "alpha_look": rule.alpha_look,
        "added_statements": added_statements,
    }
    unused = base | {"pairs": 0, "look": 0, "next_look": None}
    if problems := comparability_problems(pairs, timed=lane != "loss"):
        return Verdict(decision="undecided", reasons=tuple(problems), details=tuple(problems.values()), **unused)
    if lane == "simplicity" and added_statements >= 0:
        return Verdict(decision="rejected", reasons=("not_simpler",), **unused)
    if len(pairs) < rule.looks[0]:
        return Verdict(decision="undecided", reasons=("too_few_pairs",), **unused | {"next_look": rule.looks[0]})
    criteria = _criteria(pairs, rule, lane, base["margin"])
    return _report(pairs, rule, criteria, replay(criteria, rule), base)


def failed_verdict(
    code: FailureCode,
    reason: str,
    rule: Rule,
    *,
    added_statements: int,
    lane: Lane = "loss",
) -> Verdict:
    """The verdict where a run has no score: a candidate that fails is rejected, without any number."""
    return Verdict(
        decision="rejected" if code in ("candidate_failed", "hopeless_start") else "undecided",
        lane=lane,
        reasons=(code,),
        details=(reason,),
        pairs=0,
        look=0,
        next_look=None,
        design="paired" if lane == "speed" else rule.design,
        margin=_margin(rule, lane, added_statements),
        alpha_look=rule.alpha_look,
        added_statements=added_statements,
    )


def _margin(rule: Rule, lane: Lane, added_statements: int) -> float:
    """What the lane's own gain must exceed: the price of the added statements, or minus the tolerance."""
    if lane == "simplicity":
        return -rule.loss_tolerance
    price = rule.loss_per_statement if lane == "loss" else rule.speed_per_statement
    return price * max(0, added_statements)


def _criteria(pairs: Sequence[Pair], rule: Rule, lane: Lane, margin: float) -> tuple[Criterion, Criterion]:
    """The lane's own gain first, then its guard. Times are always paired: neighbours share the machine's mood."""
    import numpy as np

    losses = np.array([[run.evaluation.val_loss for run in pair] for pair in pairs]).T
    log_times = np.log([[run.training.train_s for run in pair] for pair in pairs]).T

    def loss(margin: float, missed: str, hopeless: str) -> Criterion:
        arms = {"record": losses[0], "candidate": losses[1]}
        return Criterion(quantity="loss", **arms, margin=margin, design=rule.design, missed=missed, hopeless=hopeless)

    def time(margin: float, missed: str, hopeless: str, *, tested: bool = True) -> Criterion:
        arms = {"record": log_times[0], "candidate": log_times[1]}
        return Criterion(
            quantity="time", **arms, margin=margin, design="paired", tested=tested, missed=missed, hopeless=hopeless
        )

    if lane == "loss":
        slowest = -math.log1p(rule.max_slowdown)
        return loss(margin, "not_shown", "hopeless"), time(slowest, "too_slow", "too_slow", tested=False)
    if lane == "speed":
        return time(margin, "not_shown", "hopeless"), loss(-rule.loss_tolerance, "loss_worse", "loss_worse")
    slowest = -math.log1p(rule.time_tolerance)
    return loss(margin, "loss_worse", "loss_worse"), time(slowest, "too_slow", "too_slow")


def _report(
    pairs: Sequence[Pair], rule: Rule, criteria: tuple[Criterion, Criterion], state: Replay, base: dict[str, Any]
) -> Verdict:
    """The verdict with its numbers, at the look where it fell or waits."""
    look, decision = int(state.look), _DECISIONS[int(state.decision)]
    used, is_last = pairs[: rule.looks[look - 1]], look == len(rule.looks)
    own, guard = criteria
    findings = [find(criterion, len(used), rule) for criterion in criteria]
    flips = sign_flip_p(own.record[: len(used)].tolist(), own.candidate[: len(used)].tolist(), margin=own.margin)
    remarks = {
        "fewer_statements": base["lane"] != "simplicity" and base["added_statements"] < 0,
        "pairs_left_over": decision != "undecided" and len(pairs) > len(used),
        "sign_flip_disagrees": decision == "accepted" and flips is not None and flips > rule.alpha,
    }
    log_speedup = next(float(f.estimate.gain) for c, f in zip(criteria, findings, strict=True) if c.quantity == "time")
    fields: dict[str, Any] = base | _numbers(findings[0])
    return Verdict(
        decision=decision,
        reasons=_deciding(base["lane"], decision, criteria, findings, is_last=is_last)
        + tuple(code for code, holds in remarks.items() if holds),
        pairs=len(used),
        look=look,
        next_look=rule.looks[look] if decision == "undecided" and not is_last else None,
        sign_flip_p=flips,
        correlation=pair_correlation(
            [pair.record.evaluation.val_loss for pair in used], [pair.candidate.evaluation.val_loss for pair in used]
        ),
        time_ratio=math.exp(-log_speedup),
        guards=(
            Guard(
                quantity=guard.quantity,
                margin=guard.margin,
                passed=bool(findings[1].passes),
                **_numbers(findings[1]),
            ),
        ),
        **fields,
    )


_DECISIONS: dict[int, Decision] = {1: "accepted", -1: "rejected", 0: "undecided"}


def _deciding(
    lane: Lane, decision: Decision, criteria: Sequence[Criterion], findings: Sequence[Finding], *, is_last: bool
) -> tuple[str, ...]:
    """The codes that decided, or that say what is missing."""
    if decision == "accepted":
        return ("simpler_and_no_worse",) if lane == "simplicity" else ("gain_shown",)
    both = list(zip(criteria, findings, strict=True))
    flat = ("zero_variance",) * any(bool(c.tested and f.estimate.standard_error == 0) for c, f in both)
    if decision == "undecided":
        return flat if is_last else ("needs_more_pairs", *flat)
    if is_last:
        return tuple(c.missed for c, f in both if not f.passes) + flat
    return tuple(c.hopeless for c, f in both if f.hopeless) + flat


def _numbers(finding: Finding) -> dict[str, Any]:
    """One finding's gain, interval and p as plain numbers; without scatter there is only a gain."""
    scatters = bool(finding.estimate.standard_error > 0)
    return {
        "gain": float(finding.estimate.gain),
        "ci_low": float(finding.low) if scatters else None,
        "ci_high": float(finding.high) if scatters else None,
        "p_value": float(finding.p) if scatters else None,
    }


class Decided(NamedTuple):
    """What two arms' runs come to."""

    pairs: tuple[Pair, ...]
    """The unbroken row of pairs that both arms finished."""
    failed: tuple[FailedRun, ...]
    verdict: Verdict


def decide_arms(
    records: Sequence[FinishedRun | FailedRun],
    candidates: Sequence[FinishedRun | FailedRun],
    rule: Rule,
    *,
    added_statements: int,
    lane: Lane,
) -> Decided:
    """The verdict on the unbroken row of finished pairs, then on the first failure, if there is one.

    Runs of one seed are a pair; the seeds count in the order in which they come.
    """
    arms = [{run.seed: run for run in runs} for runs in (records, candidates)]
    pairs = []
    for seed in dict.fromkeys(run.seed for run in (*records, *candidates)):
        record, candidate = (arm.get(seed) for arm in arms)
        if not isinstance(record, FinishedRun) or not isinstance(candidate, FinishedRun):
            break
        pairs.append(Pair(record, candidate))
    verdict = decide(pairs, rule, added_statements=added_statements, lane=lane)
    failed = tuple(run for run in (*records, *candidates) if isinstance(run, FailedRun))
    if failed and verdict.decision == "undecided":  # a verdict once fallen stays, whatever became of later runs
        code: FailureCode = "candidate_failed"
        if failed[0].status == "interrupted":
            code = "run_interrupted"
        elif failed[0] in records:
            code = "record_failed"
        elif failed[0].status == "hopeless":
            code = "hopeless_start"
        verdict = failed_verdict(code, failed[0].reason, rule, added_statements=added_statements, lane=lane)
    return Decided(tuple(pairs), failed, verdict)
