"""One contest, look by look: train what is missing of both arms, judge, stop when the verdict is in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.bench import Bench
from harness.entry import Arms, added_statements
from harness.job import GiveUp
from harness.results import FailedRun, FinishedRun, Pair, RunIdentity
from harness.verdict import FailureCode, Verdict, failed_verdict, judge


@dataclass(frozen=True)
class Contest:
    """The pairs so far and what the rule says of them."""

    arms: Arms
    pairs: tuple[Pair, ...]
    failed: tuple[FailedRun, ...]
    verdict: Verdict


def run_contest(
    bench: Bench,
    arms: Arms,
    *,
    seeds: Sequence[int],
    max_pairs: int,
    announce: Callable[[Sequence[Pair], int], None] = lambda pairs, look: None,
) -> Contest:
    """Train pairs up to each look and judge there, until the verdict is in or `max_pairs` is reached.

    `announce(pairs, look)` is called before each look with the pairs that there are and the number it needs.
    A candidate whose run fails is rejected at once.
    """
    looks = bench.track.rule.looks
    contest = judge_stored(bench, arms, ())
    for look in looks:
        if look > max_pairs or (look > looks[0] and contest.verdict.next_look is None):
            break
        announce(contest.pairs, look)
        wanted = [run for place, seed in enumerate(seeds[:look]) for run in _pair(bench, arms, seed, place)]
        contest = _judge_runs(bench, arms, bench.make(wanted, _milestones(bench, arms, seeds[0])))
        if contest.failed:
            break
    return contest


def judge_stored(bench: Bench, arms: Arms, seeds: Sequence[int]) -> Contest:
    """What the rule says of the pairs that are trained already; nothing is trained."""
    found = [bench.find(run) for place, seed in enumerate(seeds) for run in _pair(bench, arms, seed, place)]
    return _judge_runs(bench, arms, [run for run in found if run is not None])


def _pair(bench: Bench, arms: Arms, seed: int, place: int) -> list[RunIdentity]:
    """One seed's two runs in the order in which they are trained: which arm goes first alternates."""
    recipes = (arms.record, arms.candidate) if place % 2 == 0 else (arms.candidate, arms.record)
    return [bench.identify(recipe, seed) for recipe in recipes]


def _milestones(bench: Bench, arms: Arms, seed: int) -> dict[tuple[str, int], GiveUp]:
    """Where the candidate's first run may be given up: known once the record's run of that seed is there."""
    rule = bench.track.rule
    record = bench.find(bench.identify(arms.record, seed))
    if not isinstance(record, FinishedRun):
        return {}
    steps = rule.milestone * record.training.steps
    point = min(record.training.curve, key=lambda point: abs(point.step - steps))
    limit = point.dev_loss_nats + rule.milestone_deficit
    return {(arms.candidate, seed): GiveUp(step=point.step, dev_loss_nats=limit)}


def _judge_runs(bench: Bench, arms: Arms, runs: Sequence[FinishedRun | FailedRun]) -> Contest:
    """The verdict on the unbroken row of finished pairs, then on the first failure, if there is one."""
    rule, added = bench.track.rule, added_statements(bench.project, arms)
    by_arm = {(run.recipe, run.seed): run for run in runs}
    pairs = []
    for seed in dict.fromkeys(run.seed for run in runs):
        record, candidate = by_arm.get((arms.record, seed)), by_arm.get((arms.candidate, seed))
        if not isinstance(record, FinishedRun) or not isinstance(candidate, FinishedRun):
            break
        pairs.append(Pair(record, candidate))
    verdict = judge(pairs, rule, added_statements=added, lane=arms.lane)
    failed = tuple(run for run in runs if isinstance(run, FailedRun))
    if failed and verdict.decision == "undecided":  # a verdict once fallen stays, whatever became of later runs
        code: FailureCode = "candidate_failed"
        if failed[0].status == "interrupted":
            code = "run_interrupted"
        elif failed[0].recipe == arms.record:
            code = "record_failed"
        elif failed[0].status == "hopeless":
            code = "hopeless_start"
        verdict = failed_verdict(code, failed[0].reason, rule, added_statements=added, lane=arms.lane)
    return Contest(arms, tuple(pairs), failed, verdict)
