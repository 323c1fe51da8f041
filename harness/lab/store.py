"""The runs of this machine: finds kept runs, trains missing ones, and resumes interrupted ones.

A run's folder is `runs/TRACK/RECIPE/KEY/seed-N/`. It holds `run.json`, the weights, the log, and a checkpoint while the
run trains. KEY is a digest of everything that the numbers depend on, so a run that is found in this folder can be
reused.
"""

from __future__ import annotations

import json
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import filelock

from harness.core.errors import LlmbenchError
from harness.core.events import Done, RunEvent, Waiting
from harness.core.project import Project, exists, sha256
from harness.core.runs import FailedRun, FinishedRun, Provenance, RunIdentity, load_run, save_run
from harness.core.track import Track, settings_of
from harness.lab.executor import Executor, LocalExecutor
from harness.lab.provenance import collect_provenance
from harness.player import code_digest
from harness.player.device import gpu_name
from harness.player.protocol import Built
from harness.referee.job import GiveUp, Job
from harness.variants.recipe import recipe_sources

RUN_FILE = "run.json"
# A run that was killed from outside is made again. So is a run that was stopped early because it was far behind another
# record than the present one. A run that failed by itself is a result, and is not made again.
RETRIED = ("hopeless", "interrupted")
Result = Future[FinishedRun | FailedRun]
"""The result of a run, or the exception that was raised if it could not start."""
Observe = Callable[[RunIdentity, RunEvent], None]
"""Called with a run and its newest event, in the threads that make the runs."""


@contextmanager
def only_one(lock_file: Path, waiting: Callable[[], None], check: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let only one process at a time be inside a context with the same `lock_file`.

    A process that has to wait calls `waiting()` once, then `check()` repeatedly. Raises LlmbenchError if a file cannot
    be written while the context is open. If `check` raises an exception, the wait ends.
    """
    lock = filelock.FileLock(lock_file)
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        with suppress(filelock.Timeout):
            lock.acquire(timeout=0)
        if not lock.is_locked:
            waiting()
        while not lock.is_locked:
            check()
            with suppress(filelock.Timeout):
                lock.acquire(timeout=0.5)
        yield
    except OSError as error:
        raise LlmbenchError(
            f"cannot write {lock_file.parent}: {error.strerror}; free space or fix the permissions"
        ) from error
    finally:
        lock.release()


@dataclass(frozen=True)
class RunStore:
    """Makes, keeps and finds the runs of one track on this machine or on a cluster."""

    project: Project
    track: Track
    jobs: int
    """Number of runs at a time. It affects times but not losses, because each run has the track's threads."""
    occasion: str = ""
    """A name, such as that of a challenge, or empty. With a new name, runs are trained again although they are kept."""
    observe: Observe = lambda run, event: None
    checkpoint_every_s: float = 30.0
    executor: type[Executor] = LocalExecutor

    @cached_property
    def provenance(self) -> Provenance:
        """Provenance of the runs that this store makes."""
        gpu = gpu_name(self.track) if self.executor is LocalExecutor else None
        return collect_provenance(self.project, self.track, jobs=self.jobs, gpu=gpu)

    @cached_property
    def code_digest(self) -> str:
        """Digest of the code that makes the runs."""
        return code_digest(self.project)

    def identify(self, recipe: str, seed: int) -> RunIdentity:
        """Identity of the run of `recipe` with `seed` and the present code.

        Raises LlmbenchError for an invalid recipe.
        """
        return RunIdentity(
            track=self.track.name,
            training_digest=self.track.training_digest,
            recipe=recipe,
            sources={name: source.digest for name, source in recipe_sources(self.project, recipe).items()},
            code_digest=self.code_digest,
            seed=seed,
            provenance=self.provenance,
        )

    def folder(self, run: RunIdentity) -> Path:
        """Folder of `run`. The key in its path is a digest of everything that the run's numbers and times depend on."""
        provenance = run.provenance
        parts = {
            "training": run.training_digest,
            "sources": run.sources,
            "code": run.code_digest,
            "packages": provenance.packages,
            "machine": provenance.machine.model_dump(),
            "threads": provenance.threads,
            "jobs": provenance.jobs,
        }
        # It is not known in advance which machine of a cluster makes a run, so the key names the executor instead.
        # Runs of different machines are refused when they are compared.
        if self.executor is not LocalExecutor:
            del parts["machine"], parts["jobs"]
            parts["executor"] = self.executor.name
        if self.occasion:
            parts["contest"] = self.occasion
        key = sha256(json.dumps(parts, sort_keys=True).encode())[:12]
        return self.project.runs / run.track / run.recipe / key / f"seed-{run.seed}"

    def find(self, run: RunIdentity) -> FinishedRun | FailedRun | None:
        """The stored result of `run`; None if no result is stored.

        Raises LlmbenchError if the file is not valid, or contains another run.
        """
        path = self.folder(run) / RUN_FILE
        if not exists(path):
            return None
        found = load_run(path)
        same = (found.training_digest, found.sources, found.code_digest, found.recipe, found.seed)
        if same != (run.training_digest, run.sources, run.code_digest, run.recipe, run.seed):
            raise LlmbenchError(
                f"{path} contains a run of another recipe, code, track or seed than expected; delete this file, and "
                f"the expected run is trained"
            )
        return found

    def make(
        self, runs: Sequence[RunIdentity], milestone: Callable[[RunIdentity], GiveUp | None] = lambda run: None
    ) -> list[FinishedRun | FailedRun]:
        """Find the kept runs among `runs`, train the others, and return the results in the order of `runs`.

        After a failed run no further run is started, so results may be missing at the end. `milestone` is called when a
        run starts, and returns the condition for stopping the run early. Raises LlmbenchError if a run cannot start,
        InterruptedRunError on Ctrl-C or SIGTERM. Finished runs are kept.
        """
        waiting, made = deque(runs), dict[tuple[str, int], FinishedRun | FailedRun]()

        def keep(run: RunIdentity, result: Result) -> None:
            made[run.recipe, run.seed] = result.result()
            if isinstance(result.result(), FailedRun):
                waiting.clear()

        self.feed(lambda: waiting.popleft() if waiting else None, keep, milestone)
        return [made[key] for key in ((run.recipe, run.seed) for run in runs) if key in made]

    def feed(
        self,
        take: Callable[[], RunIdentity | None],
        keep: Callable[[RunIdentity, Result], None],
        milestone: Callable[[RunIdentity], GiveUp | None] = lambda run: None,
    ) -> None:
        """Make runs, `jobs` at a time, until `take` returns None and all runs have ended.

        `take` is called whenever another run can start, and returns that run. `keep` is called with each run and its
        result, or the exception that the run raised. Both functions are called in this thread. If `take` or `keep`
        raises an exception, the unfinished runs are stopped. Raises InterruptedRunError on Ctrl-C or SIGTERM. Finished
        runs are kept.
        """
        executor = self.executor(self.track, self.jobs)
        with executor.stopped_by_signals(), ThreadPoolExecutor(max_workers=self.jobs) as pool:
            under_way = dict[Result, RunIdentity]()
            try:
                while True:
                    executor.raise_if_stopped()
                    while len(under_way) < self.jobs and (run := take()) is not None:
                        under_way[pool.submit(self._make_one, run, executor, milestone)] = run
                    if not under_way:
                        return
                    done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                    for result in [one for one in under_way if one in done]:
                        keep(under_way.pop(result), result)
            except BaseException:
                executor.stop()
                raise

    def _make_one(
        self, run: RunIdentity, executor: Executor, milestone: Callable[[RunIdentity], GiveUp | None]
    ) -> FinishedRun | FailedRun:
        lock = self.folder(run) / ".lock"
        with only_one(lock, lambda: self.observe(run, Waiting()), executor.raise_if_stopped):
            executor.raise_if_stopped()
            found = self.find(run)
            if found is not None and found.status not in RETRIED:
                self.observe(run, Done(result=found, reused=True))
                return found
            job = self.job(run, milestone(run))
            result = executor.make(run, job, lambda event: self.observe(run, event))
            save_run(lock.with_name(RUN_FILE), result)
            if result.status not in RETRIED:
                for leftover in (job.checkpoint, job.trained):
                    leftover.unlink(missing_ok=True)
            self.observe(run, Done(result=result, reused=False))
            return result

    def rehearse(self, recipe: str) -> Built:
        """Start a run of `recipe`, and end it at the first training step. Takes seconds, and saves nothing.

        Raises RunFailedError or LlmbenchError if the run cannot start, InterruptedRunError on Ctrl-C or SIGTERM.
        """
        executor = LocalExecutor(self.track, 1)
        with tempfile.TemporaryDirectory() as folder, executor.stopped_by_signals():
            return executor.rehearse(self.job(self.identify(recipe, 0)).model_copy(update={"folder": folder}))

    def job(self, run: RunIdentity, give_up: GiveUp | None = None) -> Job:
        """The instructions for `run` that the referee gets."""
        return Job(
            **run.model_dump(include={"track", "training_digest", "recipe", "sources", "seed"}),
            root=str(self.project.root),
            settings=settings_of(self.track),
            folder=str(self.folder(run)),
            checkpoint_every_s=self.checkpoint_every_s,
            give_up=give_up,
            usual_step_s=self._usual_step_s(),
        )

    def _usual_step_s(self) -> float | None:
        """Seconds per step of this track's newest finished run on this machine; None if there is no such run."""
        paths = self.project.runs.glob(f"{self.track.name}/*/*/seed-*/{RUN_FILE}")
        for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
            with suppress(LlmbenchError):  # a file that is not valid is reported by the command that needs its numbers
                run = load_run(path)
                if isinstance(run, FinishedRun) and run.training_digest == self.track.training_digest:
                    return run.training.train_s / run.training.steps
        return None
