"""One contest, look by look: train what is missing of both arms, apply the rule, stop at the verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from harness.core.runs import FailedRun, FinishedRun, Pair, RunFailedError, RunIdentity
from harness.lab.arms import Arms
from harness.lab.executor import LocalExecutor
from harness.lab.store import RunStore
from harness.referee.job import GiveUp
from harness.rule.verdict import Verdict, decide_arms
from harness.variants.recipe import recipe_cost, recipe_sources


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
    """Train pairs up to each look and apply the rule there, until there is a verdict or `max_pairs` is reached.

    `announce(pairs, look, verdict)` is called before each look with the pairs so far, the number that the look needs,
    and the verdict of the look before. A candidate whose run fails is rejected at once; one that cannot even start is
    rejected before the record is trained.
    """
    looks, first_seed = store.track.rule.looks, seeds[0]
    contest, first = decide_stored(store, arms, ()), store.identify(arms.candidate, first_seed)
    records = [store.find(store.identify(arms.record, seed)) for seed in seeds[: looks[0]]]
    if None in records and store.find(first) is None and not _starts(store, arms.candidate):  # else records train
        contest = _decide(store, arms, store.make([first]))
        if contest.failed:
            return contest
    for look in [look for look in looks if look <= max_pairs]:
        announce(contest.pairs, look, contest.verdict)
        order = _training_order(store, arms, seeds[:look])
        contest = _decide(store, arms, store.make(order, lambda run: _milestone(store, arms, run, first_seed)))
        if contest.failed or contest.verdict.next_look is None:
            break
    return contest


def _starts(store: RunStore, recipe: str) -> bool:
    """Whether a run of the recipe gets as far as its first step; on a cluster, whose machines differ, nobody asks."""
    try:
        if store.executor is LocalExecutor:
            store.rehearse(recipe)
    except RunFailedError:
        return False
    return True


def decide_stored(store: RunStore, arms: Arms, seeds: Sequence[int]) -> Contest:
    """The verdict on the pairs that are trained already, up to the first missing run; nothing is trained."""
    runs: list[FinishedRun | FailedRun] = []
    for seed in seeds:
        found = [store.find(store.identify(recipe, seed)) for recipe in (arms.record, arms.candidate)]
        runs += [run for run in found if run is not None]
        if None in found:
            break
    return _decide(store, arms, runs)


def _training_order(store: RunStore, arms: Arms, seeds: Sequence[int]) -> list[RunIdentity]:
    """The record's runs first: most are there already, and they tell where a candidate's first run may be given up.

    Where times are compared, pair by pair, and which arm goes first alternates.
    """
    pairs = [[store.identify(recipe, seed) for recipe in (arms.record, arms.candidate)] for seed in seeds]
    if arms.lane == "loss":
        return [*chain(*zip(*pairs, strict=True))]
    return [run for place, pair in enumerate(pairs) for run in (reversed(pair) if place % 2 else pair)]


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


def _decide(store: RunStore, arms: Arms, runs: Sequence[FinishedRun | FailedRun]) -> Contest:
    """The verdict on these runs."""
    records, candidates = ([run for run in runs if run.recipe == recipe] for recipe in (arms.record, arms.candidate))
    costs = [recipe_cost(recipe_sources(store.project, recipe)) for recipe in (arms.record, arms.candidate)]
    added, rule = costs[1] - costs[0], store.track.rule
    return Contest(arms, *decide_arms(records, candidates, rule, added_statements=added, lane=arms.lane))
