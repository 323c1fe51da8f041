"""An ablation: each variant of a recipe (a stack) is left out in turn, and the loss without it is measured.

All rows share the runs of the whole stack, on the track's public seeds. An ablation explains a record and makes none. A
variant that is not worth its code can be claimed away in the lane `simplicity`, whose confirmation decides.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.board.leaderboard import Board
from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.runs import FailedRun, FinishedRun, finished, load_run, save_run
from harness.core.schema import Count, Line, Positive, Strict
from harness.core.track import Track
from harness.lab.arms import Entry, choose_arms, record_recipe, run_command, source_digests
from harness.lab.studies.series import Runs, pairing_problem
from harness.rule.criteria import training_seconds
from harness.rule.stats import bounds, estimate
from harness.rule.verdict import losses_of
from harness.variants.recipe import format_recipe, parse_recipe, recipe_sources

FEWEST_RUNS = 2
DEFAULT_RUNS = 4
"""As many runs of the record are kept by screens. The interval is then +-1.6 paired deviations: 2.5 with three runs,
0.84 with eight. Candidates that were accepted in the lane `loss` gained about two."""
INTERVAL_LEVEL = 0.025
"""One-sided level of each end, for a 95 % interval."""
NEAR_ZERO = 0.5
"""Share of the track's loss tolerance. The lane `simplicity` demands a loss that is shown to be within the tolerance;
eight pairs can show this of a variant that contributes at most half of it."""

RECORD, WITHOUT = "record", "without-"
"""Prefixes of the kept runs' files: for the whole stack, and for the stack without some variants."""

Worth = Literal["pays", "does not pay", "unclear", "not measured"]
Removed = tuple[str, ...]


class Interaction(Strict):
    """Interaction of two variants: joint contribution compared with the sum of both, in nats per token."""

    sum_of_singles: float
    gain: float
    """Joint contribution minus that sum; above zero if each partly replaces the other."""
    ci_low: float
    """Ends of its 95 % interval."""
    ci_high: float


class Contribution(Strict):
    """What one variant, or two together, contribute to a stack. Losses are in nats per token."""

    removed: Removed
    recipe: str
    """The stack without the removed variants."""
    worth: Worth
    """`pays` if the whole interval is above the price, `does not pay` if it is below, else `unclear`."""
    reason: Line | None = None
    """Why it was not measured; None if it was."""
    runs: Count = 0
    """Number of pairs: runs with and without them on the same seed."""
    contribution: float | None = None
    """Val loss without them minus val loss with them, mean over the pairs; None if not measured."""
    ci_low: float | None = None
    """Ends of its 95 % interval, by Student's t of the paired differences."""
    ci_high: float | None = None
    interaction: Interaction | None = None
    """For two variants that were also measured one by one."""
    added_statements: Count
    price: float
    """Statements times the track's `loss_per_statement`, which the contribution must exceed."""
    added_params: int | None = None
    time_ratio: float | None = None
    """Training time with / without: geometric mean over pairs without resumed runs. Rough, as pairs are not side by
    side."""
    claim: Line | None = None
    """The command that claims the stack without them in the lane `simplicity`, if that could be accepted."""


class Ablation(Strict):
    """A stack and the contributions of its variants, the largest first, unmeasured ones last."""

    recipe: str
    runs: Positive
    """Number of runs of the whole stack."""
    val_loss: float
    """Their mean val loss, in nats per token."""
    num_params: Positive
    contributions: tuple[Contribution, ...]


# --- which runs --------------------------------------------------------------------------------------------------


def stack_to_ablate(project: Project, board: Board, track: Track, recipe: str | None) -> str:
    """`recipe`, or the record's recipe. Raises LlmbenchError where it has no variant or a file is broken."""
    found = record_recipe(board, track) if recipe is None else recipe
    recipe_sources(project, found)
    if not parse_recipe(found):
        raise LlmbenchError(
            f"the record of {track.name} is {found}, which has no variant to leave out; name a recipe with "
            f"--recipe base+NAME"
            if recipe is None
            else f"{found} has no variant to leave out; name a recipe such as --recipe base+NAME"
        )
    return found


def removals(recipe: str, largest: int) -> list[Removed]:
    """Each variant of a recipe; with `largest` 2 then also each two of them; in the order of the recipe."""
    names = parse_recipe(recipe)
    return [removed for size in range(1, largest + 1) for removed in combinations(names, size)]


def without(recipe: str, removed: Removed) -> str:
    """The recipe without some of its variants."""
    return format_recipe(tuple(name for name in parse_recipe(recipe) if name not in removed))


# --- what they say -----------------------------------------------------------------------------------------------


def measure(project: Project, board: Board, track: Track, recipe: str, runs: Mapping[str, Runs]) -> Ablation:
    """The report on the runs of a stack, and of the stack without some variants, by recipe."""
    stack, names = finished(runs[recipe]), parse_recipe(recipe)
    costs = {name: source.cost for name, source in recipe_sources(project, recipe).items()}
    losses: dict[Removed, list[float]] = {(): losses_of(stack)}
    found = []
    for rest, own in runs.items():
        removed = tuple(name for name in names if name not in parse_recipe(rest))
        if not removed:
            continue
        cost = sum(costs[name] for name in removed)
        one = Contribution(
            removed=removed,
            recipe=rest,
            worth="not measured",
            reason=pairing_problem(stack, own),
            added_statements=cost,
            price=cost * track.rule.loss_per_statement,
        )
        if one.reason is None:
            losses[removed] = losses_of(finished(own))
            one = one.model_copy(update=_numbers(stack, finished(own), one.price))
            one = one.model_copy(update={"claim": _claim(board, track, recipe, one)})
        found.append(one)
    found = [one.model_copy(update={"interaction": _interaction(one.removed, losses)}) for one in found]
    found.sort(key=lambda one: (len(one.removed), math.inf if one.contribution is None else -one.contribution))
    return Ablation(
        recipe=recipe,
        runs=len(stack),
        val_loss=statistics.fmean(losses[()]),
        num_params=stack[0].training.num_params,
        contributions=tuple(found),
    )


def _numbers(stack: Sequence[FinishedRun], runs: Sequence[FinishedRun], price: float) -> dict[str, Any]:
    """The measured fields of a contribution, from pairs with and without the variants."""
    mean, low, high = _interval(losses_of(runs), losses_of(stack))
    pairs = [pair for pair in zip(stack, runs, strict=True) if not any(run.training.resumed for run in pair)]
    times = [math.log(training_seconds(one) / training_seconds(other)) for one, other in pairs]
    return {
        "runs": len(runs),
        "contribution": mean,
        "ci_low": low,
        "ci_high": high,
        "worth": "pays" if low > price else "does not pay" if high < price else "unclear",
        "added_params": stack[0].training.num_params - runs[0].training.num_params,
        "time_ratio": math.exp(statistics.fmean(times)) if times else None,
    }


def _interval(more: Sequence[float], less: Sequence[float]) -> tuple[float, float, float]:
    """Mean of the paired differences and ends of its 95 % interval; all equal if there is no spread."""
    found = estimate(np.array(more), np.array(less), "paired")
    return float(found.gain), *map(float, bounds(found, INTERVAL_LEVEL))  # type: ignore[return-value]


def _interaction(removed: Removed, losses: Mapping[Removed, Sequence[float]]) -> Interaction | None:
    """Loss without both, minus without each, plus with both: zero if the contributions add up."""
    singles = [losses.get((name,)) for name in removed]
    if len(removed) < 2 or removed not in losses or None in singles:
        return None
    both, stack = np.array(losses[removed]), np.array(losses[()])
    alone = sum(np.array(single) - stack for single in singles)
    mean, low, high = _interval(both - stack, alone)
    return Interaction(sum_of_singles=float(alone.mean()), gain=mean, ci_low=low, ci_high=high)


def _claim(board: Board, track: Track, recipe: str, found: Contribution) -> str | None:
    """The command that claims the record without these variants; None if it could hardly be accepted.

    The lane compares with the last record by loss or speed, so variants that later records removed are named too.
    """
    standing, contribution = board.standing(track, "simplicity"), found.contribution or 0.0
    if found.worth == "pays" or contribution > NEAR_ZERO * track.rule.loss_tolerance:
        return None
    if standing is None or recipe != record_recipe(board, track) or track.rule.design == "stored":
        return None
    kept = parse_recipe(found.recipe)
    removed = tuple(name for name in parse_recipe(standing.candidate.recipe) if name not in kept)
    entry = Entry(removed=removed, lane="simplicity")
    choose_arms(board, track, entry)  # raises if the lane does not allow it
    return run_command(track, entry)


# --- the kept study ----------------------------------------------------------------------------------------------


def ablation_folder(project: Project, track: Track) -> Path:
    """Folder of a track's kept ablation: `record-seed-N.json`, `without-A-seed-N.json`, `without-A+B-seed-N.json`."""
    return project.root / "benchmarks" / "ablation" / track.name


def save_runs(project: Project, track: Track, recipe: str, runs: Mapping[str, Runs]) -> Path:
    """Keep an ablation's runs in place of the older ones; returns their folder."""
    folder, kept = ablation_folder(project, track), set()
    for one, own in runs.items():
        removed = "+".join(name for name in parse_recipe(recipe) if name not in parse_recipe(one))
        for run in own:
            path = folder / f"{WITHOUT + removed if removed else RECORD}-seed-{run.seed}.json"
            save_run(path, run)
            kept.add(path)
    for path in folder.glob("*-seed-*.json"):
        if path not in kept:
            path.unlink()
    return folder


def kept_runs(project: Project, track: Track) -> tuple[str, Mapping[str, Runs]]:
    """The stack of the kept ablation and its runs by recipe. Raises LlmbenchError without one of this edition.

    Also raises if a variant has changed since, because its statements are counted again.
    """
    folder, again = ablation_folder(project, track), f"make one: `llmbench ablate --save --track {track.name}`"
    found = defaultdict[str, list[FinishedRun | FailedRun]](list)
    stack = ""
    for path in sorted(folder.glob("*-seed-*.json"), key=lambda path: (len(path.name), path.name)):
        run = load_run(path)
        if run.training_digest != track.training_digest:
            raise LlmbenchError(f"{path} is of another edition of {track.name}; {again}")
        stack = run.recipe if path.name.startswith(RECORD) else stack
        found[run.recipe].append(run)
    if not stack:
        raise LlmbenchError(f"{track.name} has no kept ablation; {again}")
    digests = source_digests(project, stack)
    if any(run.sources != {name: digests.get(name) for name in run.sources} for runs in found.values() for run in runs):
        raise LlmbenchError(f"{folder} holds runs of other files than those in models/variants; {again}")
    return stack, found
