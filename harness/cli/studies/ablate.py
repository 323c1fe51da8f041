"""The command that measures what each variant of a recipe contributes, and whether that exceeds the variant's price."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from statistics import fmean
from typing import Annotated

from rich.console import Console

from harness.board.curves import to_png
from harness.board.leaderboard import check_record_sources, read_board
from harness.board.readme import plural
from harness.cli.options import (
    ExecutorName,
    Jobs,
    Json,
    TrackName,
    flag,
    log,
    open_track,
    option,
    show,
    show_json,
)
from harness.cli.training import about_time, watched_store
from harness.core.errors import LlmbenchError
from harness.core.events import Done, RunEvent
from harness.core.project import DEFAULT_TRACK, write_atomic
from harness.core.runs import FinishedRun, RunIdentity
from harness.core.terminal import stderr_console
from harness.lab.studies.ablation import (
    DEFAULT_RUNS,
    FEWEST_RUNS,
    Removed,
    ablation_folder,
    kept_runs,
    measure,
    removals,
    save_runs,
    stack_to_ablate,
    without,
)
from harness.lab.studies.series import make_series
from harness.show.documents import AblateDocument
from harness.show.live import LiveRuns
from harness.show.report import duration
from harness.show.studies.ablation import ablation_lines, ablation_page, ablation_table, draw_ablation

PICTURE = "contributions.png"


def ablate(
    track: TrackName = DEFAULT_TRACK,
    pairs: Annotated[
        int, option("N", "With 2, also leave out every two variants together. Default: 1, one by one.", min=1, max=2)
    ] = 1,
    runs: Annotated[
        int | None, option("N", f"Number of seeds of each recipe. Default: {DEFAULT_RUNS}.", min=FEWEST_RUNS)
    ] = None,
    recipe: Annotated[
        str | None, option("RECIPE", "The recipe to take apart, such as base+A+B. Default: the record's.")
    ] = None,
    save: Annotated[bool, flag("--save", "Save runs, table and picture under benchmarks/ablation/.")] = False,
    stored: Annotated[bool, flag("--stored", "Train nothing; report on the runs that --save saved.")] = False,
    jobs: Jobs = None,
    executor: ExecutorName = "local",
    as_json: Json = False,
) -> None:
    """Train the record without each of its variants in turn, to measure what each variant contributes.

    A variant is worth keeping if its contribution exceeds the price of its code. If a variant is not worth keeping, the
    output shows the command that tries to make a record without this variant (`--lane simplicity`). The ablation itself
    is no verdict, because it uses the track's public seeds.
    """
    project, contest_track = open_track(track)
    board = read_board(project)
    if stored:
        stack, made = kept_runs(project, contest_track)
    else:
        check_record_sources(project, board.holder(contest_track))
        stack = stack_to_ablate(project, board, contest_track, recipe)
        seeds, left_out = contest_track.seeds[: runs or DEFAULT_RUNS], removals(stack, pairs)
        if (runs or 0) > len(seeds):
            raise LlmbenchError(
                f"each run of a recipe needs its own public seed, and the track {track} has {len(seeds)} of them; "
                f"give --runs {len(seeds)} or less"
            )
        follow = _Follower(stack, left_out, len(seeds))
        live = LiveRuns(stderr_console(), contest_track, stack=stack)
        with watched_store(project, contest_track, jobs, also=follow, executor=executor, live=live) as store:
            recipes = (stack, *(without(stack, removed) for removed in left_out))
            about = about_time(store, [store.identify(one, seed) for one in recipes for seed in seeds])
            log(
                f"{stack} on {track}, with and without each{' and each two' if pairs == 2 else ''} of its variants: "
                f"{1 + len(left_out)} recipes with {len(seeds)} seeds each, "
                f"{plural(store.jobs, 'run')} at a time{about}"
            )
            made = make_series(store, [stack, *(without(stack, removed) for removed in left_out)], seeds)
    found = measure(project, board, contest_track, stack, made)
    if save:
        folder = ablation_folder(project, contest_track)
        if not stored:
            save_runs(project, contest_track, stack, made)
        write_atomic(folder / "README.md", ablation_page(found, contest_track, PICTURE))
        if any(one.contribution is not None for one in found.contributions):
            write_atomic(folder / PICTURE, to_png(lambda: draw_ablation(found)))
        log(f"saved under {folder}; to show it again: `llmbench ablate --stored --track {track}`")
    if as_json:
        show_json(AblateDocument(track=track, **dict(found)))
    else:
        show(ablation_table(found, contest_track, Console().width), "", *ablation_lines(found, contest_track))


class _Follower:
    """After each run, logs the contributions so far, the number of finished runs, and the time left."""

    def __init__(self, stack: str, left_out: Sequence[Removed], num_seeds: int) -> None:
        self.stack, self.num_seeds = stack, num_seeds
        self.names = {without(stack, removed): " and ".join(removed) for removed in left_out}
        self._losses: dict[str, dict[int, float]] = {recipe: {} for recipe in (stack, *self.names)}
        """Recipe -> seed -> val loss; recipes with a failed run are removed."""
        self._trained, self._begun, self._guard = 0, 0.0, threading.Lock()

    def __call__(self, run: RunIdentity, event: RunEvent) -> None:
        """Takes one event of a run. It is called from several threads. If the study starts again after a failure, it is
        called again for the same runs."""
        self._begun = self._begun or time.monotonic()
        if not isinstance(event, Done):
            return
        with self._guard:
            result, known = event.result, self._losses.get(run.recipe, {})
            if run.seed in known:
                return
            if not isinstance(result, FinishedRun):
                self._losses.pop(run.recipe, None)
                return
            self._trained += not event.reused
            known[run.seed] = result.evaluation.val_loss
            self._log_contributions(run)
            done, total = sum(map(len, self._losses.values())), self.num_seeds * len(self._losses)
            if self._trained and done < total:
                rest_s = (time.monotonic() - self._begun) / self._trained * (total - done)
                log(f"{done} of {total} runs finished, about {duration(rest_s)} left")

    def _log_contributions(self, run: RunIdentity) -> None:
        """Log each contribution that can be updated now, because `run` completes a pair of runs with the same seed."""
        whole = self._losses.get(self.stack, {})
        for recipe, name in self.names.items():
            rest = self._losses.get(recipe, {})
            if run.recipe in (recipe, self.stack) and run.seed in rest and run.seed in whole:
                gains = [rest[seed] - whole[seed] for seed in rest if seed in whole]
                log(
                    f"contribution of {name} so far: {fmean(gains):+.4f} nats per token, "
                    f"{len(gains)} of {self.num_seeds} pairs"
                )
