"""One contest, look by look: train what is missing of both arms, judge, stop when the verdict is in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.bench import Bench
from harness.catalog import format_recipe, parse_recipe, recipe_cost, recipe_sources
from harness.errors import LlmbenchError
from harness.job import GiveUp
from harness.leaderboard import Board
from harness.project import Project, write_atomic
from harness.results import FailedRun, FinishedRun, Pair
from harness.submission import confirmation_seeds
from harness.track import Strict, Track
from harness.verdict import Lane, Verdict, failed_verdict, judge


@dataclass(frozen=True)
class Arms:
    """What is compared: two recipes."""

    record: str
    candidate: str
    remark: str = ""
    """Why these two, where that is not obvious."""


@dataclass(frozen=True)
class Contest:
    """The pairs so far and what the rule says of them."""

    arms: Arms
    pairs: tuple[Pair, ...]
    failed: tuple[FailedRun, ...]
    verdict: Verdict


def record_recipe(board: Board, track: Track) -> str:
    """The recipe that holds the track; `base` where nobody opened it."""
    holder = board.holder(track)
    return holder.candidate.recipe if holder else format_recipe(())


def choose_arms(board: Board, track: Track, variants: Sequence[str]) -> Arms:
    """The record holder, and the same recipe with `variants` added.

    A variant that is part of the record already is measured again: the record against itself without it.
    """
    record = record_recipe(board, track)
    held = parse_recipe(record)
    again = [variant for variant in variants if variant in held]
    if not variants or len(set(variants)) != len(variants):
        raise LlmbenchError("name each variant once, for example `--variant token_smear`")
    if not again:
        return Arms(record, format_recipe((*held, *variants)))
    if len(again) != len(variants):
        raise LlmbenchError(f"'{again[0]}' is part of the record {record} already; name only the new variants")
    without = format_recipe(tuple(variant for variant in held if variant not in again))
    names = " and ".join(again)
    return Arms(without, record, f"{names} is part of the record {record}: measured again, against {without}.")


def check_record_sources(project: Project, board: Board, track: Track) -> None:
    """Raises LlmbenchError where a variant of the record is no longer the file that earned it."""
    holder = board.holder(track)
    if holder is None:
        return
    for name, source in recipe_sources(project, holder.candidate.recipe).items():
        if source.digest != holder.candidate.sources[name]:
            raise LlmbenchError(
                f"models/variants/{name}.py is not the file that holds the record ({holder.folder_name}); "
                f"restore it, or put your change into a variant of its own"
            )


def contest_seeds(project: Project, track: Track, arms: Arms, *, confirm: bool) -> list[int]:
    """The public seeds for exploring; for confirming, seeds that the candidate's source decides."""
    if not confirm:
        return list(track.seeds)
    digests = {name: source.digest for name, source in recipe_sources(project, arms.candidate).items()}
    return confirmation_seeds(track.digest, digests, track.rule.looks[-1])


def added_statements(project: Project, arms: Arms) -> int:
    """Cost of the candidate beyond the record's."""
    cost = {recipe: recipe_cost(recipe_sources(project, recipe)) for recipe in (arms.record, arms.candidate)}
    return cost[arms.candidate] - cost[arms.record]


def run_contest(
    bench: Bench,
    arms: Arms,
    *,
    seeds: Sequence[int],
    max_pairs: int,
    lane: Lane = "loss",
    announce: Callable[[Sequence[Pair], int], None] = lambda pairs, look: None,
) -> Contest:
    """Train pairs up to each look and judge there, until the verdict is in or `max_pairs` is reached.

    `announce(pairs, look)` is called before each look with the pairs that there are and the number it needs.
    A candidate whose run fails is rejected at once.
    """
    track, added = bench.track, added_statements(bench.project, arms)
    contest = judge_stored(bench, arms, (), lane=lane)
    for look in track.rule.looks:
        if look > max_pairs or (look > track.rule.looks[0] and contest.verdict.next_look is None):
            break
        announce(contest.pairs, look)
        wanted = [bench.identify(recipe, seed) for seed in seeds[:look] for recipe in (arms.record, arms.candidate)]
        contest = _judge_runs(bench, arms, bench.make(wanted, _milestones(bench, arms, seeds[0])), added, lane)
        if contest.failed:
            break
    return contest


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


def judge_stored(bench: Bench, arms: Arms, seeds: Sequence[int], *, lane: Lane = "loss") -> Contest:
    """What the rule says of the pairs that are trained already; nothing is trained."""
    runs: list[FinishedRun | FailedRun] = []
    for seed in seeds:
        found = [bench.find(bench.identify(recipe, seed)) for recipe in (arms.record, arms.candidate)]
        if any(run is None for run in found):
            break
        runs.extend(run for run in found if run is not None)
    return _judge_runs(bench, arms, runs, added_statements(bench.project, arms), lane)


def _judge_runs(bench: Bench, arms: Arms, runs: Sequence[FinishedRun | FailedRun], added: int, lane: Lane) -> Contest:
    pairs = []
    for record, candidate in zip(runs[::2], runs[1::2], strict=False):
        if not isinstance(record, FinishedRun) or not isinstance(candidate, FinishedRun):
            break
        pairs.append(Pair(record, candidate))
    verdict = judge(pairs, bench.track.rule, added_statements=added, lane=lane)
    failed = tuple(run for run in runs if isinstance(run, FailedRun))
    if verdict.decision != "undecided":  # a verdict once fallen stays, whatever became of later runs
        return Contest(arms, tuple(pairs), (), verdict)
    if failed:
        code: Literal["candidate_failed", "hopeless_start", "record_failed"] = "candidate_failed"
        if failed[0].recipe == arms.record:
            code = "record_failed"
        elif failed[0].status == "hopeless":
            code = "hopeless_start"
        verdict = failed_verdict(code, failed[0].reason, bench.track.rule, added_statements=added, lane=lane)
    return Contest(arms, tuple(pairs), failed, verdict)


class LastCandidate(Strict):
    """What `submit` means when it is not told."""

    variants: tuple[str, ...]
    confirm: bool


def remember_candidate(project: Project, track: Track, last: LastCandidate) -> None:
    """Note the candidate that was run last on this track."""
    write_atomic(_last_candidate(project, track), last.model_dump_json() + "\n")


def recall_candidate(project: Project, track: Track) -> LastCandidate:
    """The last `run candidate` on this track; no variants where there was none."""
    path = _last_candidate(project, track)
    if not path.exists():
        return LastCandidate(variants=(), confirm=False)
    try:
        return LastCandidate.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LlmbenchError(f"{path} is broken; delete it and name the candidate with --variant") from error


def _last_candidate(project: Project, track: Track) -> Path:
    return project.runs / track.name / "last-candidate.json"
