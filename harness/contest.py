"""One contest, look by look: train what is missing of both arms, judge, stop when the verdict is in."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.bench import Bench
from harness.catalog import format_recipe, parse_recipe, recipe_cost, recipe_sources
from harness.errors import LlmbenchError
from harness.leaderboard import Board
from harness.project import Project, write_atomic
from harness.results import FailedRun, FinishedRun, Pair
from harness.submission import ArmName
from harness.track import Track
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


def added_statements(project: Project, arms: Arms) -> int:
    """Cost of the candidate beyond the record's."""
    cost = {recipe: recipe_cost(recipe_sources(project, recipe)) for recipe in (arms.record, arms.candidate)}
    return cost[arms.candidate] - cost[arms.record]


def run_contest(
    bench: Bench,
    arms: Arms,
    *,
    max_pairs: int,
    lane: Lane = "loss",
    announce: Callable[[int, int], None] = lambda have, want: None,
) -> Contest:
    """Train pairs up to each look and judge there, until the verdict is in or `max_pairs` is reached.

    `announce(have, want)` is called before each look with the pairs that are judged and will be trained.
    A candidate whose run fails is rejected at once.
    """
    track, added = bench.track, added_statements(bench.project, arms)
    contest = judge_stored(bench, arms, max_pairs=0, lane=lane)
    for look in track.rule.looks:
        if look > max_pairs or (look > track.rule.looks[0] and contest.verdict.next_look is None):
            break
        announce(len(contest.pairs), look)
        wanted = [
            bench.identify(recipe, seed) for seed in track.seeds[:look] for recipe in (arms.record, arms.candidate)
        ]
        contest = _judge_runs(bench, arms, bench.make(wanted), added, lane)
        if contest.failed:
            break
    return contest


def judge_stored(bench: Bench, arms: Arms, *, max_pairs: int, lane: Lane = "loss") -> Contest:
    """What the rule says of the pairs that are trained already; nothing is trained."""
    runs: list[FinishedRun | FailedRun] = []
    for seed in bench.track.seeds[:max_pairs]:
        found = [bench.find(bench.identify(recipe, seed)) for recipe in (arms.record, arms.candidate)]
        if any(run is None for run in found):
            break
        runs.extend(run for run in found if run is not None)
    return _judge_runs(bench, arms, runs, added_statements(bench.project, arms), lane)


def _judge_runs(bench: Bench, arms: Arms, runs: Sequence[FinishedRun | FailedRun], added: int, lane: Lane) -> Contest:
    finished = [run for run in runs if isinstance(run, FinishedRun)]
    failed = tuple(run for run in runs if isinstance(run, FailedRun))
    pairs = [] if failed else [Pair(*pair) for pair in zip(finished[::2], finished[1::2], strict=True)]
    if failed:
        arm: ArmName = "record" if failed[0].recipe == arms.record else "candidate"
        verdict = failed_verdict(arm, failed[0].reason, bench.track.rule, added_statements=added, lane=lane)
    else:
        verdict = judge(pairs, bench.track.rule, added_statements=added, lane=lane)
    return Contest(arms, tuple(pairs), failed, verdict)


def remember_candidate(project: Project, track: Track, variants: Sequence[str]) -> None:
    """Note what `submit` means when it is not told."""
    write_atomic(project.runs / track.name / "last-candidate.json", json.dumps({"variants": list(variants)}) + "\n")


def recall_candidate(project: Project, track: Track) -> list[str]:
    """The variants of the last `run candidate` on this track; empty where there was none."""
    path = project.runs / track.name / "last-candidate.json"
    if not path.exists():
        return []
    try:
        variants = json.loads(path.read_text(encoding="utf-8"))["variants"]
        return [str(variant) for variant in variants]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LlmbenchError(f"{path} is broken; delete it and name the candidate with --variant") from error
