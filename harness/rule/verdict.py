"""The rule: pairs in, verdict out. The same pure function in `run`, `submit`, `verify` and in the study of errors.

A verdict is reached at a look, after a declared number of pairs. There the candidate is accepted, or rejected as
hopeless, or waits for the next look; what the last look does not accept is rejected. Earlier looks are replayed
first, so a verdict is final: running more pairs cannot change it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from harness.core.runs import FailedRun, FinishedRun, Pair
from harness.core.schema import Count, Line, Strict
from harness.core.track import Rule
from harness.rule.comparable import comparability_problems
from harness.rule.sequential import Criterion, Finding, Quantity, find, replay
from harness.rule.stats import Design, pair_correlation, sign_flip_p

Lane = Literal["loss", "speed", "simplicity"]
FailureCode = Literal["candidate_failed", "hopeless_start", "record_failed", "run_interrupted"]
LANES: tuple[Lane, ...] = ("loss", "speed", "simplicity")
Decision = Literal["accepted", "rejected", "undecided"]
_DECISIONS: dict[int, Decision] = {1: "accepted", -1: "rejected", 0: "undecided"}


class Guard(Strict):
    """One condition and its numbers."""

    quantity: Quantity
    """`loss` in nats per token; times as the logarithm of the ratio record / candidate: `time` that training takes,
    `evaluation_time` that val takes."""
    gain: float | None
    """None where too many runs were resumed, whose times do not count."""
    margin: float
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    passed: bool


class Verdict(Strict):
    """The rule's decision about a set of pairs, and the numbers behind it.

    `gain`, `margin` and the interval are in nats per token in the lanes `loss` and `simplicity`, and the
    logarithm of the time ratio record / candidate in the lane `speed`. They are None before the first look
    and where pairs must not be compared.
    """

    decision: Decision
    lane: Lane
    reasons: Annotated[tuple[str, ...], Field(min_length=1)]
    """Stable codes, the deciding ones first; `reasons.explain` has a sentence for each."""
    details: tuple[Line, ...] = ()
    """For pairs that must not be compared: the values that differ."""
    pairs: Count
    """Number of pairs used: those of the look, in the order given."""
    look: Count
    """Number of the look, from 1; 0 before the first."""
    next_look: int | None
    """Pairs that the next look needs; None if the verdict is final or more pairs would not help."""
    design: Design
    gain: float | None = None
    margin: float
    ci_low: float | None = None
    """Lower end of the two-sided interval at level 1 - 2 alpha_look: above the margin where the gain is shown."""
    ci_high: float | None = None
    p_value: float | None = None
    """One-sided, at this look; None if the values have no spread."""
    alpha_look: float
    sign_flip_p: float | None = None
    """Exact one-sided p of the sign-flip test, from seven pairs on; a check, not part of the rule."""
    correlation: float | None = None
    """Of the two arms' val losses over the pairs used; None below three pairs."""
    time_ratio: float | None = None
    """Training time, candidate / record, geometric mean over those of the pairs used that were not resumed."""
    added_statements: int
    guards: tuple[Guard, ...] = ()
    """Conditions besides the lane's own gain."""


def decide(pairs: Sequence[Pair], rule: Rule, *, added_statements: int, lane: Lane = "loss") -> Verdict:
    """The verdict on `pairs`, given in the order in which their seeds were declared.

    `added_statements` is the candidate's cost minus the record's. In the lanes `loss` and `speed` each added
    statement raises the margin; removed ones earn nothing. A look uses the first pairs up to its number; pairs
    between two looks are not used until the next one is complete. Never raises on finite numbers.
    """
    verdict = _verdict_for(rule, lane, added_statements)
    if problems := comparability_problems(pairs, timed=lane != "loss"):
        return verdict(decision="undecided", reasons=tuple(problems), details=tuple(problems.values()))
    if lane == "simplicity" and added_statements >= 0:
        return verdict(decision="rejected", reasons=("not_simpler",))
    if len(pairs) < rule.looks[0]:
        return verdict(decision="undecided", reasons=("too_few_pairs",), next_look=rule.looks[0])
    criteria = _criteria(pairs, rule, lane, _margin(rule, lane, added_statements))
    state = replay(criteria, rule)
    decision, look = _DECISIONS[int(state.decision)], int(state.look)
    num_used, is_last = rule.looks[look - 1], look == len(rule.looks)
    findings = [find(criterion, num_used, rule) for criterion in criteria]
    own, *guards = map(_as_guard, criteria, findings)
    record, candidate = (arm.tolist() for arm in criteria[0].arms(num_used))
    flips = sign_flip_p(record, candidate, margin=own.margin)
    remarks = {
        "fewer_statements": lane != "simplicity" and added_statements < 0,
        "pairs_left_over": decision != "undecided" and len(pairs) > num_used,
        "sign_flip_disagrees": decision == "accepted" and flips is not None and flips > rule.alpha,
    }
    losses = ([run.evaluation.val_loss for run in arm[:num_used]] for arm in zip(*pairs, strict=True))
    return verdict(
        decision=decision,
        reasons=_deciding(lane, decision, criteria, findings, is_last=is_last)
        + tuple(code for code, holds in remarks.items() if holds),
        pairs=num_used,
        look=look,
        next_look=rule.looks[look] if decision == "undecided" and not is_last else None,
        **own.model_dump(include={"gain", "ci_low", "ci_high", "p_value"}),
        sign_flip_p=flips,
        correlation=pair_correlation(*losses),
        time_ratio=next(
            (math.exp(-g.gain) for g in (own, *guards) if g.quantity == "time" and g.gain is not None), None
        ),
        guards=tuple(guards),
    )


def failed_verdict(
    code: FailureCode, reason: str, rule: Rule, *, added_statements: int, lane: Lane = "loss"
) -> Verdict:
    """The verdict where a run failed: a failed candidate is rejected, and no number is given."""
    decision: Decision = "rejected" if code in ("candidate_failed", "hopeless_start") else "undecided"
    return _verdict_for(rule, lane, added_statements)(decision=decision, reasons=(code,), details=(reason,))


def _verdict_for(rule: Rule, lane: Lane, added_statements: int) -> Callable[..., Verdict]:
    """A verdict before the first look, to which decision, reasons and numbers are still to be added."""
    return partial(
        Verdict,
        lane=lane,
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


def _criteria(pairs: Sequence[Pair], rule: Rule, lane: Lane, margin: float) -> tuple[Criterion, ...]:
    """The lane's own gain, then its guards. Times are always paired: runs next to each other see the same load."""
    losses = np.array([[run.evaluation.val_loss for run in pair] for pair in pairs]).T
    loss = partial(Criterion, quantity="loss", record=losses[0], candidate=losses[1], design=rule.design)
    whole = np.array([all(run.training.resumed is None for run in pair) for pair in pairs])

    def time(quantity: Quantity, read: Callable[[FinishedRun], float]) -> Callable[..., Criterion]:
        log_times = np.log([[read(run) for run in pair] for pair in pairs]).T
        arms = {"record": log_times[0], "candidate": log_times[1]}
        return partial(Criterion, quantity=quantity, **arms, design="paired", counts=None if whole.all() else whole)

    slowest = -math.log1p(rule.max_slowdown)
    training = time("time", lambda run: run.training.train_s)
    guards = []
    if pairs[0].record.evaluation.eval_cpu_s is not None:  # before it was measured from outside, no clock ran there
        scoring, slow = time("evaluation_time", evaluation_seconds), "slow_evaluation"
        guards = [scoring(margin=slowest, tested=False, missed=slow, hopeless=slow)]
    if lane == "speed":
        own = training(margin=margin, missed="not_shown", hopeless="hopeless")
        return own, loss(margin=-rule.loss_tolerance, missed="loss_worse", hopeless="loss_worse"), *guards
    if lane == "simplicity":
        own = loss(margin=margin, missed="loss_worse", hopeless="loss_worse")
        slowest = -math.log1p(rule.time_tolerance)
    else:
        own = loss(margin=margin, missed="not_shown", hopeless="hopeless")
    return own, training(margin=slowest, tested=lane != "loss", missed="too_slow", hopeless="too_slow"), *guards


# Where a kernel counts processor time in hundredths of a second, less is no measurement.
LEAST_EVALUATION_S = 0.01


def evaluation_seconds(run: FinishedRun) -> float:
    """What scoring val once took: processor time on a CPU, which the load on the machine hardly moves; else wall time.

    One evaluation takes seconds, so its wall time depends on what else runs: beside four busy loops on two cores the
    logarithm of two equal models' ratio had a deviation of .43 on `smoke`, that of processor time .04 (2026-11).
    """
    cpu_s = run.evaluation.eval_cpu_s if run.provenance.machine.gpu is None else None
    return max(run.evaluation.eval_s if cpu_s is None else cpu_s, LEAST_EVALUATION_S)


def _deciding(
    lane: Lane, decision: Decision, criteria: Sequence[Criterion], findings: Sequence[Finding], *, is_last: bool
) -> tuple[str, ...]:
    """The codes that decided, or that say what is missing."""
    if decision == "accepted":
        return ("simpler_and_no_worse",) if lane == "simplicity" else ("gain_shown",)
    both = list(zip(criteria, findings, strict=True))
    flat = ("zero_variance",) * any(bool(c.tested and f.estimate.standard_error == 0) for c, f in both)
    flat += ("resumed_runs",) * any(bool(np.isnan(f.estimate.gain)) for f in findings)
    if decision == "undecided":
        return flat if is_last else ("needs_more_pairs", *flat)
    if is_last:
        return tuple(c.missed for c, f in both if not f.passes and not np.isnan(f.estimate.gain)) + flat
    return tuple(c.hopeless for c, f in both if f.hopeless) + flat


def _as_guard(criterion: Criterion, finding: Finding) -> Guard:
    """A finding about one contest as plain numbers; without spread there is only a gain."""
    has_spread = bool(finding.estimate.standard_error > 0)
    return Guard(
        quantity=criterion.quantity,
        gain=None if np.isnan(finding.estimate.gain) else float(finding.estimate.gain),
        margin=criterion.margin,
        ci_low=float(finding.low) if has_spread else None,
        ci_high=float(finding.high) if has_spread else None,
        p_value=float(finding.p) if has_spread else None,
        passed=bool(finding.passes),
    )


class Decided(NamedTuple):
    """The outcome of two arms' runs."""

    pairs: tuple[Pair, ...]
    """The pairs up to the first seed that not both arms finished."""
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
    """The verdict on the finished pairs before the first gap; the first failed run decides where it is undecided.

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
    if failed and verdict.decision == "undecided":  # otherwise the verdict is final, whatever became of later runs
        code: FailureCode = "candidate_failed"
        if failed[0].status == "interrupted":
            code = "run_interrupted"
        elif failed[0] in records:
            code = "record_failed"
        elif failed[0].status == "hopeless":
            code = "hopeless_start"
        verdict = failed_verdict(code, failed[0].reason, rule, added_statements=added_statements, lane=lane)
    return Decided(tuple(pairs), failed, verdict)
