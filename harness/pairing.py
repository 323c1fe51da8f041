"""Two arms' runs as pairs, and what the rule says of them where some have failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from harness.results import FailedRun, FinishedRun, Pair
from harness.track import Rule
from harness.verdict import FailureCode, Lane, Verdict, failed_verdict, judge


class Judged(NamedTuple):
    """What two arms' runs come to."""

    pairs: tuple[Pair, ...]
    """The unbroken row of pairs that both arms finished."""
    failed: tuple[FailedRun, ...]
    verdict: Verdict


def judge_arms(
    records: Sequence[FinishedRun | FailedRun],
    candidates: Sequence[FinishedRun | FailedRun],
    rule: Rule,
    *,
    added_statements: int,
    lane: Lane,
) -> Judged:
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
    verdict = judge(pairs, rule, added_statements=added_statements, lane=lane)
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
    return Judged(tuple(pairs), failed, verdict)
