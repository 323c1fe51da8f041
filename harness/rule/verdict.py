"""Makes a verdict from pairs of runs. The commands `run`, `submit` and `verify` call these functions.

A candidate goes through two stages. The *screen* compares the candidate's first runs with the record's runs, on public
seeds. It drops the candidate or passes it on to the *confirmation*, which decides, on seeds computed from the code of
record and candidate. The confirmation makes tests, its *looks*, after numbers of pairs that the track's rule fixes.
Each look accepts the candidate, rejects it, or asks for more pairs; the last look accepts or rejects. If pairs are
added, the earlier looks are made again first, so a verdict cannot change.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from harness.core.errors import LlmbenchError
from harness.core.runs import FailedRun, FinishedRun, Pair, finished
from harness.core.schema import Count, Line, Strict
from harness.core.track import Rule
from harness.rule.comparable import comparability_problems
from harness.rule.criteria import Guard, Lane, as_guard, criteria_of, margin_of
from harness.rule.screen import replay_screen, units
from harness.rule.sequential import Criterion, Finding, Looks, check_levels, find, replay, stage_wise_p
from harness.rule.stats import pair_correlation, sign_flip_p

FailureCode = Literal["candidate_failed", "hopeless_start", "record_failed", "run_interrupted"]
Stage = Literal["screen", "confirmation"]
Decision = Literal["accepted", "rejected", "undecided"]
_DECISIONS: dict[int, Decision] = {1: "accepted", -1: "rejected", 0: "undecided"}


class Verdict(Strict):
    """The rule's decision about a set of pairs, with its numbers.

    The lane is what the candidate claims to improve. `gain`, `margin` and the interval are in nats per token in the
    lanes `loss` and `simplicity`. In the lane `speed` they are logarithms of the time ratio record / candidate. Gain
    and interval are None before the first look (test), and if the runs cannot be compared.
    """

    decision: Decision
    lane: Lane
    stage: Stage
    """`screen`, which drops a candidate or passes it on, or `confirmation`. Only a confirmation accepts."""
    reasons: Annotated[tuple[str, ...], Field(min_length=1)]
    """Reason codes, the deciding ones first. `reasons.explain` gives a sentence for each."""
    details: tuple[Line, ...] = ()
    """The values that differ, if the runs cannot be compared; the cause, if a run failed."""
    pairs: Count
    """Number of pairs used: as many of the first pairs as the last look needed."""
    look: Count
    """Number of the last look that was made, counted from 1; 0 before the first."""
    next_look: int | None
    """Number of pairs that the next look needs; None if the verdict is final or more pairs would not help."""
    design: Literal["paired", "stored"]
    gain: float | None = None
    margin: float
    units: float | None = None
    """In a screen: mean gain minus margin, divided by the track's `noise_nats`."""
    ci_low: float | None = None
    """Lower end of the confidence interval, whose level 1 - 2 alpha holds for all looks together. It is above the
    margin if the gain is shown. None in a screen."""
    ci_high: float | None = None
    p_value: float | None = None
    """One-sided p-value over all looks up to this one. None if the values do not vary, and in a screen."""
    alpha: float
    """One-sided significance level of all looks together. For acceptance, `p_value` must not exceed it."""
    sign_flip_p: float | None = None
    """Exact one-sided p-value of the sign-flip test, for seven pairs or more. It is a check and decides nothing."""
    correlation: float | None = None
    """Correlation between the two arms' val losses over the pairs used; None for fewer than three pairs."""
    time_ratio: float | None = None
    """Ratio of training times, candidate / record: geometric mean over the pairs used, without resumed runs."""
    added_statements: int
    guards: tuple[Guard, ...] = ()
    """Results of all criteria except the claimed gain: limits on loss and times."""

    def used(
        self, records: Sequence[FinishedRun], candidates: Sequence[FinishedRun]
    ) -> tuple[tuple[FinishedRun, ...], tuple[FinishedRun, ...]]:
        """The runs of record and candidate that the verdict uses. All stored runs of the record are used."""
        count = len(records) if self.design == "stored" and self.pairs else self.pairs
        return tuple(records[:count]), tuple(candidates[: self.pairs])


def decide(pairs: Sequence[Pair], rule: Rule, *, added_statements: int, lane: Lane = "loss") -> Verdict:
    """The confirmation's verdict on `pairs`, which must be in the order in which their seeds were drawn.

    `added_statements` is the candidate's number of statements minus the record's. In the lanes `loss` and `speed` each
    added statement raises the margin that the gain must exceed; removed statements do not lower it. A look is a
    test after a fixed number of pairs, n. It uses the first n of `pairs`. Raises LlmbenchError if the significance
    levels of the looks do not give the rule's false-accept rate alpha. If all numbers are finite, it raises nothing
    else.
    """
    check_levels(rule)
    arms = [pair.record for pair in pairs], [pair.candidate for pair in pairs]
    return _decide(*arms, rule, added_statements=added_statements, lane=lane)


def _decide(
    records: Sequence[FinishedRun], candidates: Sequence[FinishedRun], rule: Rule, *, added_statements: int, lane: Lane
) -> Verdict:
    verdict, stored = _verdict_for(rule, lane, "confirmation", added_statements), rule.design == "stored"
    if problems := comparability_problems(records, candidates, timed=lane != "loss", paired=not stored):
        return verdict(decision="undecided", reasons=tuple(problems), details=tuple(problems.values()))
    if lane == "simplicity" and added_statements >= 0:
        return verdict(decision="rejected", reasons=("not_simpler",))
    if lane == "loss" and not stored and changes_nothing(records, candidates):
        return verdict(decision="rejected", reasons=("identical",), pairs=1)
    if len(candidates) < rule.looks[0]:
        return verdict(decision="undecided", reasons=("too_few_pairs",), next_look=rule.looks[0])
    criteria = criteria_of(records, candidates, rule, lane, margin_of(rule, lane, added_statements))
    return weigh(criteria, rule, verdict, losses_of(records), losses_of(candidates))


def losses_of(runs: Sequence[FinishedRun]) -> list[float]:
    """The val loss of each run, in nats per token."""
    return [run.evaluation.val_loss for run in runs]


def weigh(
    criteria: Sequence[Criterion],
    rule: Looks,
    verdict: Callable[..., Verdict],
    records: Sequence[float],
    candidates: Sequence[float],
) -> Verdict:
    """The verdict of the look (test) that decided or, if no look decided, of the last look with enough runs.

    The first criterion is the claimed gain; the other criteria are limits on losses and times. `verdict` is a function
    that makes a Verdict. `records` and `candidates` are losses, for the correlation that the verdict states. There must
    be enough pairs for the first look.
    """
    blank = verdict(decision="undecided", reasons=("too_few_pairs",))
    lane, added, stored = blank.lane, blank.added_statements, rule.design == "stored"
    state = replay(criteria, rule)
    decision, look = _DECISIONS[int(state.decision)], int(state.look)
    num_used, is_last = rule.looks[look - 1], look == len(rule.looks)
    findings = [find(criterion, look, rule) for criterion in criteria]
    own, *guards = map(as_guard, criteria, findings)
    record, candidate = (arm.tolist() for arm in criteria[0].arms(num_used))
    flips = None if stored else sign_flip_p(record, candidate, margin=own.margin)
    remarks = {
        "fewer_statements": lane != "simplicity" and added < 0,
        "pairs_left_over": decision != "undecided" and len(candidates) > num_used,
        "sign_flip_disagrees": decision == "accepted" and flips is not None and flips > rule.alpha,
        "equal_spread_assumed": stored,
    }
    return verdict(
        decision=decision,
        reasons=_deciding(lane, decision, criteria, findings, is_last=is_last)
        + tuple(code for code, holds in remarks.items() if holds),
        pairs=num_used,
        look=look,
        next_look=rule.looks[look] if decision == "undecided" and not is_last else None,
        **own.model_dump(include={"gain", "ci_low", "ci_high"}),
        p_value=None if own.p_value is None else _over_all_looks(rule, look, own.p_value),
        sign_flip_p=flips,
        correlation=None if stored else pair_correlation(records[:num_used], candidates[:num_used]),
        time_ratio=next(
            (math.exp(-g.gain) for g in (own, *guards) if g.quantity == "time" and g.gain is not None), None
        ),
        guards=tuple(guards),
    )


def _over_all_looks(rule: Looks, look: int, p: float) -> float:
    """The p-value over all looks, given `p`, the p-value at look number `look` alone."""
    if rule.design == "stored":  # a union bound over the looks
        return min(1.0, sum(rule.levels[: look - 1]) + p)
    return stage_wise_p(rule.looks, rule.levels, look, p)


def changes_nothing(records: Sequence[FinishedRun], candidates: Sequence[FinishedRun]) -> bool:
    """Whether the two runs of the first pair have exactly equal losses on val and on dev."""
    first = next(zip(records, candidates, strict=False), None)
    if first is None:
        return False
    one, other = (
        (run.evaluation.nats, run.evaluation.correct, [(p.step, p.dev_loss_nats) for p in run.training.curve])
        for run in first
    )
    return one == other


def screen(pairs: Sequence[Pair], rule: Rule, *, added_statements: int) -> Verdict:
    """The screen's verdict on the candidate's first runs, paired with the record's runs of the same seeds.

    The verdict rejects, or says that more runs or a confirmation are needed. It never accepts. Only candidates that
    claim a lower loss have a screen. Raises LlmbenchError if the track's rule has no screen.
    """
    verdict = _verdict_for(rule, "loss", "screen", added_statements)
    if not rule.screen_looks or rule.noise_nats is None:
        raise LlmbenchError("this track has no screen (no cheap first test); train pairs for a confirmation instead")
    records, candidates = [pair.record for pair in pairs], [pair.candidate for pair in pairs]
    if problems := comparability_problems(records, candidates, timed=False, loads=False):
        return verdict(decision="undecided", reasons=tuple(problems), details=tuple(problems.values()))
    if changes_nothing(records, candidates):
        return verdict(decision="rejected", reasons=("identical",), pairs=1)
    if len(pairs) < rule.screen_looks[0]:
        return verdict(decision="undecided", reasons=("needs_more_runs",), next_look=rule.screen_looks[0])
    losses = losses_of(records), losses_of(candidates)
    gains, margin = np.array(losses[0]) - np.array(losses[1]), margin_of(rule, "loss", added_statements)
    state = replay_screen(gains, margin, rule)
    look, passed = int(state.look), int(state.decision)
    num_used = rule.screen_looks[look - 1]
    code = {1: "screen_passed", -1: "screened_out", 0: "needs_more_runs"}[passed]
    return verdict(
        decision="rejected" if passed == -1 else "undecided",
        reasons=(code,),
        pairs=num_used,
        look=look,
        next_look=rule.screen_looks[look] if passed == 0 else None,
        gain=float(gains[:num_used].mean()),
        units=float(units(gains[:num_used], margin, rule)),
        correlation=pair_correlation(*(arm[:num_used] for arm in losses)),
    )


def failed_verdict(
    code: FailureCode, reason: str, rule: Rule, *, added_statements: int, lane: Lane = "loss", stage: Stage
) -> Verdict:
    """The verdict, without a gain, if a run failed. Only a failed run of the candidate leads to a rejection."""
    decision: Decision = "rejected" if code in ("candidate_failed", "hopeless_start") else "undecided"
    return _verdict_for(rule, lane, stage, added_statements)(decision=decision, reasons=(code,), details=(reason,))


def _verdict_for(rule: Rule, lane: Lane, stage: Stage, added_statements: int) -> Callable[..., Verdict]:
    """A function that makes a Verdict. Numbers that it is not given have their values before the first look (test)."""
    return partial(
        Verdict,
        lane=lane,
        stage=stage,
        pairs=0,
        look=0,
        next_look=None,
        design="paired" if stage == "screen" else rule.design,
        margin=margin_of(rule, lane, added_statements),
        alpha=rule.alpha,
        added_statements=added_statements,
    )


def _deciding(
    lane: Lane, decision: Decision, criteria: Sequence[Criterion], findings: Sequence[Finding], *, is_last: bool
) -> tuple[str, ...]:
    """The reason codes of the decision or, if it is `undecided`, codes that say what is missing."""
    if decision == "accepted":
        return ("simpler_and_no_worse",) if lane == "simplicity" else ("gain_shown",)
    both = list(zip(criteria, findings, strict=True))
    flat = ("zero_variance",) * any(bool(c.level is None and f.estimate.standard_error == 0) for c, f in both)
    flat += ("resumed_runs",) * any(bool(np.isnan(f.estimate.gain)) for f in findings)
    if decision == "undecided":
        waiting = [c for c, f in both if not f.passes and not np.isnan(f.estimate.gain)]
        codes = dict.fromkeys("needs_more_pairs" if c.level is None else c.unclear for c in waiting)
        return flat if is_last else (*codes, *flat)
    if is_last:
        return tuple(c.missed for c, f in both if not f.passes and not np.isnan(f.estimate.gain)) + flat
    return tuple(c.hopeless for c, f in both if f.hopeless) + flat


class Decided(NamedTuple):
    """The verdict on the runs of record and candidate, and the runs that it could use."""

    records: tuple[FinishedRun, ...]
    candidates: tuple[FinishedRun, ...]
    """The runs that count. The two runs of a pair are at the same position in `records` and `candidates`. Pairs count
    before the first seed whose two runs did not both finish. With stored runs, all runs of the record count."""
    failed: tuple[FailedRun, ...]
    verdict: Verdict


def decide_arms(
    records: Sequence[FinishedRun | FailedRun],
    candidates: Sequence[FinishedRun | FailedRun],
    rule: Rule,
    *,
    added_statements: int,
    lane: Lane,
    stage: Stage,
) -> Decided:
    """The verdict on the pairs before the first seed for which a run is missing or did not finish.

    If these pairs do not decide and a run failed, the failed run decides. Runs with the same seed are a pair. The pairs
    are in the order of `records`.
    """
    if stage == "confirmation" and rule.design == "stored":
        check_levels(rule)
        kept = finished(records)
        own = finished(itertools.takewhile(lambda run: isinstance(run, FinishedRun), candidates))
        own = own if len(kept) == rule.stored_runs else []
        verdict = _decide(kept, own, rule, added_statements=added_statements, lane=lane)
    else:
        pairs = _pairs(records, candidates)
        kept, own = [pair.record for pair in pairs], [pair.candidate for pair in pairs]
        if stage == "screen":
            verdict = screen(pairs, rule, added_statements=added_statements)
        else:
            verdict = decide(pairs, rule, added_statements=added_statements, lane=lane)
    failed = tuple(run for run in (*records, *candidates) if isinstance(run, FailedRun))
    if failed and verdict.decision == "undecided" and verdict.reasons != ("screen_passed",):
        # An accepted or rejected verdict is final, even if a later run failed.
        code: FailureCode = "candidate_failed"
        if failed[0].status == "interrupted":
            code = "run_interrupted"
        elif failed[0] in records:
            code = "record_failed"
        elif failed[0].status == "hopeless":
            code = "hopeless_start"
        verdict = failed_verdict(
            code, failed[0].reason, rule, added_statements=added_statements, lane=lane, stage=stage
        )
    return Decided(tuple(kept), tuple(own), failed, verdict)


def _pairs(records: Sequence[FinishedRun | FailedRun], candidates: Sequence[FinishedRun | FailedRun]) -> list[Pair]:
    """The pairs before the first seed for which a run is missing or did not finish."""
    arms, pairs = [{run.seed: run for run in runs} for runs in (records, candidates)], []
    for seed in dict.fromkeys(run.seed for run in (*records, *candidates)):
        record, candidate = (arm.get(seed) for arm in arms)
        if not isinstance(record, FinishedRun) or not isinstance(candidate, FinishedRun):
            break
        pairs.append(Pair(record, candidate))
    return pairs
