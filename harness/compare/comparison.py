"""Computes the verdict of a comparison, and reads and checks its file, which holds all that the verdict needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from harness.compare.arms import Arm, ArmName, seeds_of
from harness.compare.settings import TIME_LEVEL, Declared, Settings
from harness.compare.trial import FailedTrial, FinishedTrial, Trial
from harness.core.errors import LlmbenchError
from harness.core.project import read_text
from harness.core.schema import Count, Strict
from harness.core.track import explain_validation
from harness.rule.sequential import Criterion
from harness.rule.stats import value_problems
from harness.rule.verdict import Decision, Verdict, weigh

NAME = "comparison.json"
SHORTEST_S = 1e-3
SAME_LEVEL = 1e-3  # relative tolerance; significance levels computed on another machine differ slightly
FINE_DIGITS = 6
CHANCE_RUNS = 3
"""If at least this many runs have the same number, that is no chance, even if the number has few digits."""
REPORTED = "reported by the trainer"
"""Where all numbers of a comparison come from: the trainer measured its own score, on its own data."""


class Comparison(Strict):
    """A comparison of two versions of a user's own trainer: the settings, all runs, and the verdict.

    History of `schema_version`:
    1 (2026-11): first version.
    """

    schema_version: Literal[1] = 1
    numbers: Literal["reported by the trainer"] = "reported by the trainer"
    """The trainer measured its own scores. llmbench did not check them; it only ran the statistical test."""
    llmbench: str
    """Version of llmbench that made the comparison."""
    date: str
    """Time at which the verdict was written, in UTC."""
    settings: Settings
    declared: Declared
    """The numbers of pairs after which the test may decide, and the significance level at each, fixed before the first
    run."""
    record: Arm
    candidate: Arm
    added_statements: int | None
    """The candidate's Python statements minus the record's; None for commands, or if a file cannot be parsed."""
    jobs: Count
    """Largest number of runs at the same time."""
    executor: Literal["local", "ray"]
    record_seeds: tuple[Count, ...]
    candidate_seeds: tuple[Count, ...]
    runs: tuple[Trial, ...]
    """The record's runs, then the candidate's, each in the order of seeds. Runs that were still going when the verdict
    was reached are left out."""
    verdict: Verdict

    @property
    def seeds(self) -> dict[ArmName, tuple[int, ...]]:
        return {"record": self.record_seeds, "candidate": self.candidate_seeds}

    def arm(self, name: ArmName) -> list[FinishedTrial]:
        """The finished runs of an arm, in the order of its seeds."""
        found = {run.seed: run for run in self.runs if run.arm == name and isinstance(run, FinishedTrial)}
        return [found[seed] for seed in self.seeds[name] if seed in found]


def decide_trials(
    settings: Settings,
    declared: Declared,
    seeds: Mapping[ArmName, Sequence[int]],
    trials: Sequence[FinishedTrial | FailedTrial],
    added_statements: int | None,
) -> Verdict:
    """The verdict on the runs so far. `declared` says after how many pairs the test may decide.

    The pairs are used in the order of their seeds, not in the order in which their runs ended. If a run failed, the
    pairs before it may still decide. If these pairs do not decide, a failed run of the candidate rejects the candidate,
    and a failed run of the record leaves the comparison undecided. If two seeds of an arm give the same numbers, the
    trainer ignores its seed, and the comparison is undecided.
    """
    added = added_statements or 0
    verdict: Callable[..., Verdict] = partial(
        Verdict,
        lane="loss",
        stage="confirmation",
        pairs=0,
        look=0,
        next_look=None,
        design=declared.design,
        margin=settings.margin + settings.price * max(0, added),
        alpha=declared.alpha,
        added_statements=added,
    )
    by_seed = {(run.arm, run.seed): run for run in trials}
    arms: dict[ArmName, list[FinishedTrial | FailedTrial]] = {"record": [], "candidate": []}
    for name, own in arms.items():
        for seed in seeds[name]:
            if (name, seed) not in by_seed:
                break
            own.append(by_seed[name, seed])
    if repeated := _repeated([run for run in trials if isinstance(run, FinishedTrial)]):
        return verdict(decision="undecided", reasons=("seed_ignored",), details=(repeated,))
    records, candidates = (_up_to_a_failure(arms[name]) for name in arms)
    if declared.design == "paired":
        count = min(len(records), len(candidates))
        records, candidates = records[:count], candidates[:count]
        same = [one.trace == other.trace for one, other in zip(records, candidates, strict=True)]
        if same and ((same[0] and _is_fine(records[0])) or (all(same) and count >= CHANCE_RUNS)):
            return verdict(decision="rejected", reasons=("identical",), pairs=count)
    found = _weigh(settings, declared, records, candidates, verdict)
    failed = _first_failure(declared, arms)
    if failed is not None and found.decision == "undecided":
        candidate = failed.arm == "candidate"
        return verdict(
            decision="rejected" if candidate else "undecided",
            reasons=("candidate_failed" if candidate else "record_failed",),
            details=(f"{failed.arm} seed {failed.seed}: {failed.reason}",),
        )
    return found


def _weigh(
    settings: Settings,
    declared: Declared,
    records: Sequence[FinishedTrial],
    candidates: Sequence[FinishedTrial],
    verdict: Callable[..., Verdict],
) -> Verdict:
    """The verdict on finished runs only; `decide_trials` looks at failed runs."""
    enough_records = declared.design == "paired" or len(records) >= settings.stored_runs
    if len(candidates) < declared.looks[0] or not enough_records:
        return verdict(decision="undecided", reasons=("too_few_pairs",), next_look=declared.looks[0])
    sign = 1.0 if settings.lower_is_better else -1.0
    values = [[sign * run.value for run in arm] for arm in (records, candidates)]
    if problems := value_problems(*values):
        return verdict(decision="undecided", reasons=problems)
    criteria = [
        Criterion(
            quantity="loss",
            record=np.array(values[0]),
            candidate=np.array(values[1]),
            margin=float(verdict(decision="undecided", reasons=("too_few_pairs",)).margin),
            design=declared.design,
            missed="not_shown",
            hopeless="hopeless",
        )
    ]
    times = [np.log([max(run.wall_s, SHORTEST_S) for run in arm]) for arm in (records, candidates)]
    together = [True] * len(candidates)
    if declared.design == "paired":
        together = [one.session == other.session for one, other in zip(records, candidates, strict=True)]
    if settings.max_slowdown is not None:
        guard: dict[str, Any] = {"missed": "too_slow", "hopeless": "too_slow", "unclear": "time_unclear"}
        criteria.append(
            Criterion(
                quantity="time",
                record=times[0],
                candidate=times[1],
                margin=-math.log1p(settings.max_slowdown),
                design=declared.design,
                level=TIME_LEVEL,
                counts=None if all(together) else np.array(together),
                **guard,
            )
        )
    found = weigh(criteria, declared, verdict, *values)
    if found.time_ratio is None and any(together[: found.pairs]):
        used = np.array(together[: found.pairs])
        own = times[1][: found.pairs][used].mean()
        theirs = times[0][: found.pairs][used].mean() if declared.design == "paired" else times[0].mean()
        found = found.model_copy(update={"time_ratio": float(np.exp(own - theirs))})
    return found


class Compared(Strict):
    """Summary of a kept comparison, for `llmbench history`."""

    date: str
    record: str
    candidate: str
    decision: Decision
    reasons: tuple[str, ...]
    gain: float | None
    pairs: Count
    metric: str
    alpha: float
    """False-accept rate. It is listed because the same runs may be judged again with another rate."""
    path: str
    """Path of its comparison.json."""


def kept_comparisons(store: Path) -> list[Compared]:
    """The comparisons in a folder `.llmbench`, newest first. Files that cannot be read are skipped."""
    found = []
    for path in store.glob(f"comparisons/*/{NAME}"):
        try:
            one = Comparison.model_validate_json(read_text(path))
        except ValidationError:
            continue
        verdict = one.verdict
        found.append(
            Compared(
                date=one.date,
                record=one.record.name,
                candidate=one.candidate.name,
                decision=verdict.decision,
                reasons=verdict.reasons,
                gain=verdict.gain,
                pairs=verdict.pairs,
                metric=one.settings.metric,
                alpha=one.declared.alpha,
                path=str(path),
            )
        )
    return sorted(found, key=lambda one: one.date, reverse=True)


def _up_to_a_failure(runs: Sequence[FinishedTrial | FailedTrial]) -> list[FinishedTrial]:
    found: list[FinishedTrial] = []
    for run in runs:
        if not isinstance(run, FinishedTrial):
            break
        found.append(run)
    return found


def _first_failure(
    declared: Declared, arms: Mapping[ArmName, Sequence[FinishedTrial | FailedTrial]]
) -> FailedTrial | None:
    """The first failed run in the order of the seeds; within a pair, the record's run comes first; None if no run
    failed.

    Only pairs of which both runs have ended are searched.
    """
    count = None if declared.design == "stored" else min(map(len, arms.values()))
    for pair in zip_longest(*(own[:count] for own in arms.values())):
        for run in pair:
            if isinstance(run, FailedTrial):
                return run
    return None


def _is_fine(run: FinishedTrial) -> bool:
    """Whether a run's number has so many digits that two runs rarely have the same number by chance (0.85 has too
    few)."""
    return len(repr(run.value).partition("e")[0].replace(".", "").strip("-0")) >= FINE_DIGITS


def _repeated(runs: Sequence[FinishedTrial]) -> str | None:
    """A sentence that names two seeds of an arm whose numbers are exactly the same; None if there are none.

    Numbers with few digits may be the same by chance. They are reported only if an arm has at least CHANCE_RUNS runs,
    and all of them have the same number.
    """
    seen: dict[tuple[str, str], list[FinishedTrial]] = {}
    for run in runs:
        seen.setdefault((run.arm, run.trace), []).append(run)
    for (arm, _), same in seen.items():
        number = sum(run.arm == arm for run in runs)
        if len(same) > 1 and (_is_fine(same[0]) or len(same) == number >= CHANCE_RUNS):
            return f"the {arm} gave {same[0].value!r} with seed {same[0].seed} and with seed {same[1].seed}"
    return None


def check_comparison(path: Path) -> tuple[Comparison, list[str]]:
    """Read and check a comparison's file. Returns the comparison, and one sentence for each problem.

    Raises LlmbenchError if the file cannot be read.
    """
    try:
        found = Comparison.model_validate_json(read_text(path))
    except ValidationError as error:
        raise LlmbenchError(f"{path}: {explain_validation(error)}") from error
    problems = []
    settings, declared = found.settings, found.declared
    theirs = settings.declared()
    if declared.model_copy(update={"levels": theirs.levels}) != theirs or not np.allclose(
        declared.levels, theirs.levels, rtol=SAME_LEVEL, atol=0
    ):
        problems.append("declared: the looks, their levels or the design are not those that the settings give")
        declared = theirs
    if found.seeds != seeds_of(settings, found.record, found.candidate):
        problems.append("seeds: they are not those that the settings and the two arms give")
    commands = (settings.run or settings.record, settings.run or settings.candidate)
    if (found.record.command, found.candidate.command) != commands:
        problems.append("record, candidate: their commands are not those of the settings")
    if any(run.reading != settings.reading for run in found.runs if run.status == "finished"):
        problems.append(
            "runs: their numbers were read with another metric, metric_file, also or curve than the settings have"
        )
    asked = {(arm, seed) for arm, seeds in found.seeds.items() for seed in seeds}
    made = [(run.arm, run.seed) for run in found.runs]
    if len(set(made)) != len(made) or not set(made) <= asked:
        problems.append("runs: a run occurs twice, or has a seed that is not one of the comparison's seeds")
    if len({run.machine for run in found.runs if found.executor == "local"}) > 1:
        problems.append("runs: they come from different machines")
    again = decide_trials(settings, declared, found.seeds, found.runs, found.added_statements)
    if again != found.verdict:
        problems.append(
            f"verdict: it is {found.verdict.decision}, but the runs give {again.decision} ({', '.join(again.reasons)})"
        )
        if again.decision == found.verdict.decision:
            problems[-1] = "verdict: its numbers are not those that the runs give"
    return found, problems
