"""A contest judges one candidate against the record. It uses the runs kept in `runs/`, and trains the missing ones.

Its first stage is a screen (a cheap test on few seeds), its second a confirmation, which decides. In both stages, an
*arm* is one side of the comparison: the record's runs, or the candidate's runs. A *look* is a number of pairs, such as
3 or 4, after which the rule may decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from harness.core.runs import FailedRun, FinishedRun, RunFailedError, RunIdentity
from harness.lab.arms import Arms, contest_seeds
from harness.lab.executor import LocalExecutor
from harness.lab.store import RunStore
from harness.referee.job import GiveUp
from harness.rule.forecast import filled
from harness.rule.verdict import Stage, Verdict, decide_arms
from harness.variants.recipe import recipe_cost, recipe_sources


@dataclass(frozen=True)
class Contest:
    """The runs of the last stage that was reached (the screen or the confirmation), and the verdict on these runs."""

    arms: Arms
    records: tuple[FinishedRun, ...]
    candidates: tuple[FinishedRun, ...]
    failed: tuple[FailedRun, ...]
    verdict: Verdict
    screen: Verdict | None = None
    """The screen's verdict, if `verdict` is from a confirmation that followed a screen; else None."""

    @property
    def used(self) -> tuple[tuple[FinishedRun, ...], tuple[FinishedRun, ...]]:
        """(record's runs, candidate's runs): the runs from which the verdict is computed."""
        return self.verdict.used(self.records, self.candidates)

    @property
    def failures(self) -> tuple[str, ...]:
        """A line for each failed run: its recipe and seed, how it failed, and why."""
        return tuple(f"{run.recipe} seed {run.seed}: {run.status}: {run.reason}" for run in self.failed)

    @property
    def passed(self) -> bool:
        """Whether this is a screen that the candidate has passed."""
        return "screen_passed" in self.verdict.reasons


Announce = Callable[[Contest, int], None]
"""Called before more runs are made. Takes the contest so far, and the number of pairs that the next decision needs."""


def run_contest(
    store: RunStore,
    arms: Arms,
    *,
    stages: Sequence[Stage] = ("screen", "confirmation"),
    max_pairs: int | None = None,
    announce: Announce = lambda contest, look: None,
    screened: Callable[[Contest], None] = lambda contest: None,
) -> Contest:
    """Run the screen and, if the candidate passes, the confirmation. Returns runs and verdict of the last stage run.

    The confirmation ends when there is a verdict, or after `max_pairs` pairs. Only the stages in `stages` are run. If
    the lane or the track has no screen, there is only the confirmation. After a passed screen, `screened` is called
    with it before the confirmation starts. If the candidate's code cannot start, the candidate is rejected before the
    record is trained.
    """
    contest = None
    if "screen" in stages and arms.has_screen(store.track.rule):
        contest = run_stage(store, arms, "screen", announce=announce)
        if not contest.passed or "confirmation" not in stages:
            return contest
        screened(contest)
    found = run_stage(store, arms, "confirmation", max_pairs=max_pairs, announce=announce)
    return replace(found, screen=contest.verdict if contest else None)


def run_stage(
    store: RunStore,
    arms: Arms,
    stage: Stage,
    *,
    seeds: Sequence[int] | None = None,
    max_pairs: int | None = None,
    announce: Announce = lambda contest, look: None,
) -> Contest:
    """Run the screen or the confirmation: train runs and judge them, until the verdict is final.

    `seeds` replaces the seeds that the rule gives to this stage, for example when the runs of a submission are trained
    again.
    """
    rule = store.track.rule
    seeds = contest_seeds(store.project, store.track, arms, stage) if seeds is None else seeds
    looks = rule.screen_looks if stage == "screen" else rule.looks
    contest, first = _decide(store, arms, stage, ()), store.identify(arms.candidate, seeds[0])
    records = [store.find(run) for run in record_runs(store, arms, stage, seeds[: looks[0]])]
    untried = stage == "screen" or not arms.has_screen(rule)
    if untried and None in records and store.find(first) is None and not _starts(store, arms.candidate):
        contest = _decide(store, arms, stage, store.make([first]))
        if contest.failed:
            return contest
    for look in looks:
        if max_pairs is not None and look > max_pairs:
            break
        announce(contest, look)
        count = min(filled(rule, stage, look, store.jobs), max_pairs or len(seeds), len(seeds))
        order = training_order(store, arms, stage, seeds[:count])
        runs = store.make(order, lambda run: milestone_of(store, arms, run, seeds[0]) if stage == "screen" else None)
        contest = _decide(store, arms, stage, runs)
        if contest.failed or contest.verdict.next_look is None:
            break
    return contest


def _starts(store: RunStore, recipe: str) -> bool:
    """Whether a run of the recipe reaches its first training step. On a cluster this is not tried; returns True."""
    try:
        if store.executor is LocalExecutor:
            store.rehearse(recipe)
    except RunFailedError:
        return False
    return True


def decide_stored(store: RunStore, arms: Arms, stage: Stage, seeds: Sequence[int]) -> Contest:
    """Judge a candidate by the kept runs of a stage, in the order of `seeds`, up to the first missing run.

    Trains nothing.
    """
    runs: list[FinishedRun | FailedRun] = []
    for pair in _pairs(store, arms, stage, seeds):
        found = [store.find(run) for run in pair]
        runs += [run for run in found if run is not None]
        if None in found:
            break
    return _decide(store, arms, stage, runs)


def decide_trained(store: RunStore, arms: Arms) -> Contest:
    """Judge a candidate by the kept runs of its confirmation; if none are kept, by those of its screen.

    Runs that the verdict does not use are left out of the result, because a submission holds only the used runs.
    """
    stages: tuple[Stage, ...] = ("confirmation", "screen") if arms.has_screen(store.track.rule) else ("confirmation",)
    for stage in stages:
        seeds = contest_seeds(store.project, store.track, arms, stage)
        contest = decide_stored(store, arms, stage, seeds)
        if contest.candidates or contest.failed:
            break
    if 0 < contest.verdict.pairs < len(contest.candidates):
        contest = decide_stored(store, arms, stage, seeds[: contest.verdict.pairs])
    return contest


def has_passed_screen(store: RunStore, arms: Arms) -> bool:
    """Whether the candidate passes the screen, judged by the runs that are kept."""
    return decide_stored(store, arms, "screen", contest_seeds(store.project, store.track, arms, "screen")).passed


def record_runs(store: RunStore, arms: Arms, stage: Stage, seeds: Sequence[int]) -> list[RunIdentity]:
    """The record's runs with which the candidate's runs on `seeds` are compared.

    In a confirmation on a track with stored runs of the record, these stored runs are returned. Otherwise the record's
    runs have the same seeds as the candidate's runs.
    """
    stored = store.track.rule.stored_runs if stage == "confirmation" else None
    own = seeds if stored is None else store.track.seeds[:stored]
    return [store.identify(arms.record, seed) for seed in own]


def _pairs(store: RunStore, arms: Arms, stage: Stage, seeds: Sequence[int]) -> list[tuple[RunIdentity, ...]]:
    """The two runs of each pair, in the order of `seeds`.

    In a confirmation with stored runs of the record there are no pairs: the first item holds all stored runs, and each
    further item holds one run of the candidate.
    """
    records, candidates = (
        record_runs(store, arms, stage, seeds),
        [store.identify(arms.candidate, seed) for seed in seeds],
    )
    if stage == "confirmation" and store.track.rule.design == "stored":
        return [tuple(records), *((run,) for run in candidates)]
    return list(zip(records, candidates, strict=True))


def training_order(store: RunStore, arms: Arms, stage: Stage, seeds: Sequence[int]) -> list[RunIdentity]:
    """The runs in the order in which they are trained.

    A confirmation trains one pair after the other. Record and candidate take turns in being first in a pair, so that
    their times are comparable. A screen begins with the record's runs: most of these are kept already, and the
    candidate's first run is stopped early if its loss is far above the loss of the record's first run.
    """
    pairs = _pairs(store, arms, stage, seeds)
    if stage == "screen":
        return [*chain(*zip(*pairs, strict=True))]
    return [run for place, pair in enumerate(pairs) for run in (reversed(pair) if place % 2 else pair)]


def milestone_of(store: RunStore, arms: Arms, run: RunIdentity, first_seed: int) -> GiveUp | None:
    """When to stop the candidate's first run early: at which evaluation, and above which dev loss.

    None for any other run, or if the record has no finished run on `first_seed`.
    """
    if (run.recipe, run.seed) != (arms.candidate, first_seed):
        return None
    rule, record = store.track.rule, store.find(store.identify(arms.record, first_seed))
    if not isinstance(record, FinishedRun):
        return None
    curve, tokens = record.training.curve, rule.milestone * record.training.tokens
    place = min(range(len(curve)), key=lambda place: abs(record.training.tokens_at(curve[place].step) - tokens))
    return GiveUp(evaluation=place + 1, dev_loss_nats=curve[place].dev_loss_nats + rule.milestone_deficit)


def _decide(store: RunStore, arms: Arms, stage: Stage, runs: Sequence[FinishedRun | FailedRun]) -> Contest:
    """Judge `runs`, and return them with the verdict."""
    records, candidates = ([run for run in runs if run.recipe == recipe] for recipe in (arms.record, arms.candidate))
    costs = [recipe_cost(recipe_sources(store.project, recipe)) for recipe in (arms.record, arms.candidate)]
    added, rule = costs[1] - costs[0], store.track.rule
    decided = decide_arms(records, candidates, rule, added_statements=added, lane=arms.lane, stage=stage)
    return Contest(arms, *decided)
