"""Trains several recipes on the same seeds, for ablations and ladders.

The other recipes are compared with the first one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from harness.core.errors import InterruptedRunError, LlmbenchError, without_log
from harness.core.events import Done
from harness.core.runs import FailedRun, FinishedRun, RunIdentity, finished, require_finished
from harness.lab.store import Result, RunStore
from harness.rule.comparable import comparability_problems

Runs = Sequence[FinishedRun | FailedRun]


def make_series(store: RunStore, recipes: Sequence[str], seeds: Sequence[int]) -> Mapping[str, Runs]:
    """Recipe -> its runs in the order of `seeds`, or a single failed run that says why the recipe failed.

    All recipes are trained on one seed before the next seed, so that an interrupted study has runs of all recipes on
    the same seeds. If a recipe fails, the other recipes are still trained. But if the first recipe fails, this raises
    LlmbenchError, because all other recipes are compared with it. Raises InterruptedRunError on Ctrl-C or SIGTERM.
    """
    waiting = deque(store.identify(one, seed) for seed in seeds for one in recipes)
    made: dict[str, dict[int, FinishedRun]] = {one: {} for one in recipes}
    failed = dict[str, FailedRun]()

    def take() -> RunIdentity | None:
        while waiting and waiting[0].recipe in failed:
            waiting.popleft()
        return waiting.popleft() if waiting else None

    def keep(run: RunIdentity, result: Result) -> None:
        found = _result(store, run, result)
        if isinstance(found, FinishedRun):
            made[run.recipe][run.seed] = found
            return
        if run.recipe == recipes[0]:
            require_finished([found])
        failed.setdefault(run.recipe, found.model_copy(update={"reason": without_log(found.reason)}))

    store.feed(take, keep)
    return {
        one: [failed[one]] if one in failed else [runs[seed] for seed in sorted(runs, key=seeds.index)]
        for one, runs in made.items()
    }


def _result(store: RunStore, run: RunIdentity, result: Result) -> FinishedRun | FailedRun:
    """The result of a run.

    If its recipe cannot be built, for example because a variant needs another variant that is missing, this is a failed
    run with the status `invalid`.
    """
    try:
        return result.result()
    except InterruptedRunError:
        raise
    except LlmbenchError as error:
        failed = FailedRun(**dict(run), status="invalid", reason=without_log(str(error)))
        store.observe(run, Done(result=failed, reused=False))
        return failed


def pairing_problem(stack: Sequence[FinishedRun], runs: Runs) -> str | None:
    """Why `runs` cannot be compared with `stack`, the runs of the first recipe; None if they can be compared.

    The reason is that a run failed, or that the runs differ in more than the recipe.
    """
    for run in runs:
        if isinstance(run, FailedRun):
            return run.reason if run.status == "invalid" else f"{run.status}: {run.reason}"
    if len(stack) != len(runs):
        return f"it has {len(runs)} runs with a score, but the recipe that it is compared with has {len(stack)}"
    problems = comparability_problems(stack, finished(runs), timed=False)
    return next((f"{code}: {detail}" for code, detail in problems.items()), None)
