"""Finds reasons why runs cannot be compared: they differ in more than the recipe, or their times are not comparable."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from harness.core.runs import FinishedRun
from harness.rule.stats import seed_problems, value_problems

SHORTEST_S = 1e-6  # a shorter training time means that the time was not measured


def comparability_problems(
    records: Sequence[FinishedRun],
    candidates: Sequence[FinishedRun],
    *,
    timed: bool,
    paired: bool = True,
    loads: bool = True,
) -> dict[str, str]:
    """The reasons why these runs cannot be compared, as reason code -> what differs; empty if they can be.

    `timed`: the verdict depends on times, so each run must have been alone on the machine, and the two runs of a pair
    must have been trained one right after the other. `paired`: runs at the same position are a pair. `loads`: the two
    runs of a pair (all runs, if there are no pairs) must have shared the machine with equally many other runs.
    """
    runs = [*records, *candidates]
    problems: dict[str, str] = {}
    for code, key in _SAME_EVERYWHERE.items():
        _note_difference(problems, code, [key(run) for run in runs])
    for arm in (records, candidates):
        _note_difference(problems, "mixed_recipes", [(run.recipe, tuple(sorted(run.sources.items()))) for run in arm])
    if loads:
        for group in zip(records, candidates, strict=True) if paired else (runs,):
            _note_difference(problems, "mixed_load", [run.provenance.jobs for run in group])
    seeds = [run.seed for run in records], [run.seed for run in candidates]
    for code in seed_problems(*seeds, paired=paired):
        problems[code] = f"the record has the seeds {seeds[0]}, the candidate {seeds[1]}"
    if timed:
        if any(run.provenance.jobs != 1 for run in runs):
            problems["shared_machine"] = f"runs at the same time: {sorted({run.provenance.jobs for run in runs})}"
        if parted := _parted_pair(runs):
            seeds_of = " and ".join(str(run.seed) for run in parted)
            problems["not_interleaved"] = f"two runs that ended one after the other have the seeds {seeds_of}"
    if any(run.training.train_s < SHORTEST_S for run in runs):
        problems["no_time"] = f"a training time is below {SHORTEST_S} s"
    if value_problems([run.evaluation.val_loss for run in runs], [run.training.train_s for run in runs]):
        problems["not_finite"] = "a val loss or a training time is above 1e100 or not a number"
    return problems


def _parted_pair(runs: Sequence[FinishedRun]) -> tuple[FinishedRun, FinishedRun] | None:
    """Two runs of different pairs, of which one ended between the two runs of a pair; None if there are none.

    If several runs ended in the same second, every order of them is accepted.
    """
    alone: FinishedRun | None = None
    for _, group in itertools.groupby(sorted(runs, key=_ended), key=_ended):  # ISO times sort as text
        together = [*([alone] if alone else []), *group]
        odd: dict[int, FinishedRun] = {}
        for run in together:
            if odd.pop(run.seed, None) is None:
                odd[run.seed] = run
        if len(odd) > 1 or (alone and alone.seed in odd):
            one = next(iter(odd.values()))
            others = [run for run in together if run.seed != one.seed]  # none if a seed was used several times
            return (one, others[0]) if others else None
        alone = next(iter(odd.values()), None)
    return None


def _ended(run: FinishedRun) -> str:
    return run.training.ended


_SAME_EVERYWHERE: dict[str, Callable[[FinishedRun], Any]] = {
    "mixed_tracks": lambda run: (run.track, run.training_digest),
    "mixed_code": lambda run: run.code_digest,
    "mixed_machines": lambda run: run.provenance.machine,
    "mixed_threads": lambda run: run.provenance.threads,
    "mixed_packages": lambda run: run.provenance.packages,
    "mixed_clocks": lambda run: "not measured" if run.evaluation.eval_cpu_s is None else "measured",
}


def _note_difference(problems: dict[str, str], code: str, values: Sequence[Any]) -> None:
    """If the values differ, add to `problems`, under `code`, the first value and the first that is not equal to it."""
    for value in values:
        if value != values[0]:
            one, other = values[0], value
            if isinstance(one, dict):  # packages: name only those that differ
                one, other = (sorted(a.items() - b.items()) for a, b in ((one, other), (other, one)))
            problems.setdefault(code, f"{one} and {other}")
            return
