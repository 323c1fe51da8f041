"""An ablation: each variant of a recipe (a stack) is left out in turn, and the loss without it is measured.

All variants are compared with the same runs of the whole stack, on the track's public seeds. An ablation gives no
verdict. To take a variant out of the record, run the record without it as a candidate (`llmbench run candidate
--without NAME --lane simplicity`), and submit it.
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
"""Default number of runs of each recipe. Screens keep as many runs of the record, which can be reused. The half-width
of the interval is then 1.6 standard deviations of a pair's difference. It is 2.5 with three runs and 0.84 with eight.
Candidates that were accepted in the lane `loss` gained about two such deviations."""
INTERVAL_LEVEL = 0.025
"""Probability beyond each end of a 95 % interval."""
NEAR_ZERO = 0.5
"""A share of the track's loss tolerance. The lane `simplicity` requires evidence that the loss rises by less than the
tolerance. Eight pairs can give this evidence if the variant contributes at most half of the tolerance."""

RECORD, WITHOUT = "record", "without-"
"""How the names of the kept runs' files begin: for the whole stack, and for the stack without some variants."""

Worth = Literal["pays", "does not pay", "unclear", "not measured"]
Removed = tuple[str, ...]


class Interaction(Strict):
    """Interaction of two variants: their joint contribution minus the sum of their single ones, in nats per token."""

    sum_of_singles: float
    gain: float
    """The interaction. It is above zero if each variant partly replaces the other."""
    ci_low: float
    """Lower end of the 95 % interval of the interaction; `ci_high` is the upper end."""
    ci_high: float


class Contribution(Strict):
    """What one variant, or two together, contribute to a recipe. All losses are in nats per token."""

    removed: Removed
    recipe: str
    """The recipe without the removed variants."""
    worth: Worth
    """`pays` if the whole interval lies above the price, `does not pay` if it lies below, else `unclear`."""
    reason: Line | None = None
    """Why the contribution was not measured; None if it was."""
    runs: Count = 0
    """Number of pairs. A pair is a run with and a run without the variants on the same seed."""
    contribution: float | None = None
    """Val loss without the variants minus val loss with them, mean over the pairs; None if not measured."""
    ci_low: float | None = None
    """Lower end of the contribution's 95 % interval (Student's t of the paired differences); `ci_high` is the upper."""
    ci_high: float | None = None
    interaction: Interaction | None = None
    """Interaction of two variants; None for one variant, or if one of the two was not measured by itself."""
    added_statements: Count
    price: float
    """Statements times the track's `loss_per_statement`. A variant pays if its contribution exceeds its price."""
    added_params: int | None = None
    time_ratio: float | None = None
    """Training time with the variants divided by that without them: geometric mean over pairs without resumed runs. It
    is rough, because the runs of a pair are not made at the same time."""
    claim: Line | None = None
    """The command that judges the record without the variants in the lane `simplicity`; None if it has no chance."""


class Ablation(Strict):
    """A recipe and the contributions of its variants, the largest first. Variants that were not measured come last."""

    recipe: str
    runs: Positive
    """Number of runs of the whole recipe."""
    val_loss: float
    """Mean val loss of these runs, in nats per token."""
    num_params: Positive
    contributions: tuple[Contribution, ...]


# --- which runs --------------------------------------------------------------------------------------------------


def stack_to_ablate(project: Project, board: Board, track: Track, recipe: str | None) -> str:
    """The recipe to study: `recipe` or, if it is None, the record's recipe.

    Raises LlmbenchError if the recipe has no variant, or if the file of a variant is not valid.
    """
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
    """The sets of variants to leave out: each variant alone and, if `largest` is 2, each pair of variants."""
    names = parse_recipe(recipe)
    return [removed for size in range(1, largest + 1) for removed in combinations(names, size)]


def without(recipe: str, removed: Removed) -> str:
    """The recipe without the variants in `removed`."""
    return format_recipe(tuple(name for name in parse_recipe(recipe) if name not in removed))


# --- what the runs say -------------------------------------------------------------------------------------------


def measure(project: Project, board: Board, track: Track, recipe: str, runs: Mapping[str, Runs]) -> Ablation:
    """The report on an ablation. `runs` maps each recipe (the stack, and the stack without variants) to its runs."""
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
    """The measured fields of a contribution. A pair is a run of the stack and a run without the variants."""
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
    """Mean of `more` minus `less` over the pairs, and the ends of its 95 % interval.

    If all differences are equal, both ends equal the mean.
    """
    found = estimate(np.array(more), np.array(less), "paired")
    return float(found.gain), *map(float, bounds(found, INTERVAL_LEVEL))  # type: ignore[return-value]


def _interaction(removed: Removed, losses: Mapping[Removed, Sequence[float]]) -> Interaction | None:
    """Loss without both variants, minus the two losses without one variant, plus the loss with both."""
    singles = [losses.get((name,)) for name in removed]
    if len(removed) < 2 or removed not in losses or None in singles:
        return None
    both, stack = np.array(losses[removed]), np.array(losses[()])
    alone = sum(np.array(single) - stack for single in singles)
    mean, low, high = _interval(both - stack, alone)
    return Interaction(sum_of_singles=float(alone.mean()), gain=mean, ci_low=low, ci_high=high)


def _claim(board: Board, track: Track, recipe: str, found: Contribution) -> str | None:
    """The command that judges the record without these variants; None if it would hardly end with `accepted`.

    In the lane `simplicity`, a candidate is compared with the last record of the lanes `loss` and `speed`. Therefore
    the command also removes the variants that later records of the lane `simplicity` removed.
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
    """Folder of a kept ablation, with files such as `record-seed-0.json` and `without-A+B-seed-0.json`."""
    return project.root / "benchmarks" / "ablation" / track.name


def save_runs(project: Project, track: Track, recipe: str, runs: Mapping[str, Runs]) -> Path:
    """Save an ablation's runs, and delete those of the last ablation. Returns the folder of the runs."""
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
    """The stack of the kept ablation, and its runs by recipe.

    Raises LlmbenchError if no ablation is kept for this version of the track, or if a variant's file has changed since,
    because the price of the variant is computed from its present file.
    """
    folder, again = ablation_folder(project, track), f"run `llmbench ablate --save --track {track.name}`"
    found = defaultdict[str, list[FinishedRun | FailedRun]](list)
    stack = ""
    for path in sorted(folder.glob("*-seed-*.json"), key=lambda path: (len(path.name), path.name)):
        run = load_run(path)
        if run.training_digest != track.training_digest:
            raise LlmbenchError(f"the ablation in {folder} was made on another version of {track.name}; {again}")
        stack = run.recipe if path.name.startswith(RECORD) else stack
        found[run.recipe].append(run)
    if not stack:
        raise LlmbenchError(
            f"no ablation (runs of a recipe without each of its variants) is saved for {track.name}; {again}"
        )
    digests = source_digests(project, stack)
    if any(run.sources != {name: digests.get(name) for name in run.sources} for runs in found.values() for run in runs):
        raise LlmbenchError(f"a variant has changed since the ablation in {folder} was made with it; {again}")
    return stack, found
