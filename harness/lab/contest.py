"""One contest, look by look: train what is missing of both arms, judge, stop when the verdict is in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.core.runs import FailedRun, FinishedRun, Pair, RunIdentity
from harness.lab.arms import Arms, added_statements
from harness.lab.store import RunStore
from harness.player.job import GiveUp
from harness.rule.verdict import Verdict, decide_arms


@dataclass(frozen=True)
class Contest:
    """The pairs so far and what the rule says of them."""

    arms: Arms
    pairs: tuple[Pair, ...]
    failed: tuple[FailedRun, ...]
    verdict: Verdict

    @property
    def failures(self) -> tuple[str, ...]:
        """A sentence for each run that failed."""
        return tuple(f"{run.recipe} seed {run.seed}: {run.status}: {run.reason}" for run in self.failed)


def run_contest(
    store: RunStore,
    arms: Arms,
    *,
    seeds: Sequence[int],
    max_pairs: int,
    announce: Callable[[Sequence[Pair], int, Verdict], None] = lambda pairs, look, verdict: None,
) -> Contest:
    """Train pairs up to each look and judge there, until the verdict is in or `max_pairs` is reached.

    `announce(pairs, look, verdict)` is called before each look with the pairs that there are, the number it needs, and
    what the rule said of them at the look before.
    A candidate whose run fails is rejected at once, and one that cannot even start before the record is trained.
    """
    looks = store.track.rule.looks
    contest = decide_stored(store, arms, ())
    if not _can_start(store, arms, seeds[: looks[0]]):
        contest = _decide_runs(store, arms, store.make([store.identify(arms.candidate, seeds[0])]))
        if contest.failed:
            return contest
    for look in looks:
        if look > max_pairs or (look > looks[0] and contest.verdict.next_look is None):
            break
        announce(contest.pairs, look, contest.verdict)
        runs = store.make(_in_order(store, arms, seeds[:look]), lambda run: _milestone(store, arms, run, seeds[0]))
        contest = _decide_runs(store, arms, runs)
        if contest.failed:
            break
    return contest


def decide_stored(store: RunStore, arms: Arms, seeds: Sequence[int]) -> Contest:
    """What the rule says of the pairs that are trained already, up to the first gap; nothing is trained."""
    runs: list[FinishedRun | FailedRun] = []
    for seed in seeds:
        found = [store.find(store.identify(recipe, seed)) for recipe in (arms.record, arms.candidate)]
        runs += [run for run in found if run is not None]
        if None in found:
            break
    return _decide_runs(store, arms, runs)


def _can_start(store: RunStore, arms: Arms, seeds: Sequence[int]) -> bool:
    """Whether the candidate gets as far as its first step; not asked where nothing is lost if it does not."""
    first = store.identify(arms.candidate, seeds[0])
    records_are_there = all(store.find(store.identify(arms.record, seed)) is not None for seed in seeds)
    return records_are_there or store.find(first) is not None or store.rehearse(first)


def _in_order(store: RunStore, arms: Arms, seeds: Sequence[int]) -> list[RunIdentity]:
    """The order of training. Where times are compared, pair by pair, and which arm goes first alternates.

    Otherwise the record first: it is there already more often than not, and its runs tell where a
    candidate's first run may be given up.
    """
    if store.timed_contest:
        order = [(arms.record, arms.candidate)[:: 1 - 2 * (place % 2)] for place in range(len(seeds))]
        return [store.identify(recipe, seed) for recipes, seed in zip(order, seeds, strict=True) for recipe in recipes]
    return [store.identify(recipe, seed) for recipe in (arms.record, arms.candidate) for seed in seeds]


def _milestone(store: RunStore, arms: Arms, run: RunIdentity, first_seed: int) -> GiveUp | None:
    """Where the candidate's first run may be given up, if the record's run of its seed is there by now."""
    if (run.recipe, run.seed) != (arms.candidate, first_seed):
        return None
    rule, record = store.track.rule, store.find(store.identify(arms.record, first_seed))
    if not isinstance(record, FinishedRun):
        return None
    steps = rule.milestone * record.training.steps
    point = min(record.training.curve, key=lambda point: abs(point.step - steps))
    return GiveUp(step=point.step, dev_loss_nats=point.dev_loss_nats + rule.milestone_deficit)


def _decide_runs(store: RunStore, arms: Arms, runs: Sequence[FinishedRun | FailedRun]) -> Contest:
    """What the rule says of the runs that there are."""
    records, candidates = ([run for run in runs if run.recipe == recipe] for recipe in (arms.record, arms.candidate))
    added = added_statements(store.project, arms)
    judged = decide_arms(records, candidates, store.track.rule, added_statements=added, lane=arms.lane)
    return Contest(arms, *judged)
