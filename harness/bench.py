"""Runs on this machine: which are there, train the missing ones, resume the interrupted ones.

A run's folder is named by all that its numbers depend on, so what is found there can be reused:
`runs/TRACK/RECIPE/KEY/seed-N/` with `run.json`, the weights, the log, and a checkpoint while it trains.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from harness.catalog import recipe_sources
from harness.device import gpu_name
from harness.errors import InterruptedRunError, LlmbenchError
from harness.job import GiveUp, Job
from harness.project import Project, sha256
from harness.provenance import code_digest, collect_provenance
from harness.results import (
    Evaluation,
    FailedRun,
    FinishedRun,
    Provenance,
    RunIdentity,
    Training,
    load_run,
    save_run,
)
from harness.sources import VariantSource
from harness.track import Track, settings_of

RUN_FILE = "run.json"
# A crash may have had a passing cause, and a milestone belongs to one contest.
RETRIED = ("error", "hopeless", "interrupted")

INTERRUPTED = (
    "interrupted; finished runs are kept and started ones have a checkpoint, run the same command again to go on"
)

Observe = Callable[[RunIdentity, dict[str, Any]], None]
"""Called from the threads that watch the workers: a run and its newest event."""


def ignore_events(run: RunIdentity, event: dict[str, Any]) -> None:
    """The observer for whoever does not watch."""


@dataclass(frozen=True)
class Bench:
    """One track on one machine: makes runs, keeps them, finds them again."""

    project: Project
    track: Track
    jobs: int
    """Runs that train at the same time; it moves no result, each run has the track's threads."""
    timed_contest: str = ""
    """Names the contest whose times are to be compared: its runs are trained for it, next to each other."""
    observe: Observe = ignore_events
    checkpoint_every_s: float = 30.0
    provenance: Provenance = field(init=False)
    code_digest: str = field(init=False)

    def __post_init__(self) -> None:
        provenance = collect_provenance(
            self.project, threads=self.track.threads, jobs=self.jobs, gpu=gpu_name(self.track)
        )
        object.__setattr__(self, "provenance", provenance)
        object.__setattr__(self, "code_digest", code_digest(self.project))

    def identify(self, recipe: str, seed: int) -> RunIdentity:
        """The run of `recipe` with `seed`, as it would be made now. Raises LlmbenchError for a bad recipe."""
        sources = recipe_sources(self.project, recipe)
        return self._identity(recipe, sources, seed)

    def _identity(self, recipe: str, sources: dict[str, VariantSource], seed: int) -> RunIdentity:
        return RunIdentity(
            track=self.track.name,
            training_digest=self.track.training_digest,
            recipe=recipe,
            sources={name: source.digest for name, source in sources.items()},
            code_digest=self.code_digest,
            seed=seed,
            provenance=self.provenance,
        )

    def folder(self, run: RunIdentity) -> Path:
        """Where `run` lies: the key covers all that its numbers and times depend on."""
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
        if self.timed_contest:
            parts["contest"] = self.timed_contest
        key = sha256(json.dumps(parts, sort_keys=True).encode())[:12]
        return self.project.runs / run.track / run.recipe / key / f"seed-{run.seed}"

    def find(self, run: RunIdentity) -> FinishedRun | FailedRun | None:
        """The stored result of `run`. Raises LlmbenchError where the stored file is broken."""
        path = self.folder(run) / RUN_FILE
        if not path.exists():
            return None
        found = load_run(path)
        same = (found.training_digest, found.sources, found.code_digest, found.recipe, found.seed)
        if same != (run.training_digest, run.sources, run.code_digest, run.recipe, run.seed):
            raise LlmbenchError(f"{path} is not the run that its place names; delete it to train it again")
        return found

    def make(
        self, runs: Sequence[RunIdentity], milestone: Callable[[RunIdentity], GiveUp | None] = lambda run: None
    ) -> list[FinishedRun | FailedRun]:
        """The results of `runs`, in order: found where they are stored, trained where they are not.

        Once a run has failed, no further one is started: the list then ends early. `milestone` is
        asked when a run starts.

        Raises LlmbenchError where a run cannot start, InterruptedRunError on Ctrl-C or SIGTERM; what
        was finished by then is kept.
        """
        workers = _Workers()
        with workers.stopped_by_signals(), ThreadPoolExecutor(max_workers=self.jobs) as pool:
            futures = [pool.submit(self._make_one, run, workers, milestone) for run in runs]
            try:
                for future in as_completed(futures):
                    if not future.cancelled() and isinstance(future.result(), FailedRun):
                        _cancel(futures)
            except BaseException:
                _cancel(futures)
                workers.stop()
                raise
        return [future.result() for future in futures if not future.cancelled()]

    def _make_one(
        self, run: RunIdentity, workers: _Workers, milestone: Callable[[RunIdentity], GiveUp | None]
    ) -> FinishedRun | FailedRun:
        folder = self.folder(run)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(folder / ".lock")
            waiting = not _try_lock(lock, timeout=0)
            if waiting:
                self.observe(run, {"event": "waiting"})  # another llmbench trains this very run
            while waiting:
                workers.raise_if_stopped()
                waiting = not _try_lock(lock, timeout=0.5)
            try:
                workers.raise_if_stopped()
                found = self.find(run)
                reused = found is not None and found.status not in RETRIED
                result = (
                    found
                    if found is not None and reused
                    else self._train_and_evaluate(run, folder, workers, milestone(run))
                )
                self.observe(run, {"event": "done", "result": result, "reused": reused})
                return result
            finally:
                lock.release()
        except OSError as error:
            raise LlmbenchError(
                f"cannot write {folder}: {error.strerror}; free space or fix the permissions"
            ) from error

    def _train_and_evaluate(
        self, run: RunIdentity, folder: Path, workers: _Workers, give_up: GiveUp | None
    ) -> FinishedRun | FailedRun:
        job = Job(
            root=str(self.project.root),
            track=run.track,
            training_digest=run.training_digest,
            settings=settings_of(self.track),
            recipe=run.recipe,
            sources=run.sources,
            seed=run.seed,
            folder=str(folder),
            checkpoint_every_s=self.checkpoint_every_s,
            give_up=give_up,
        )
        for torn in folder.glob(".*.*"):  # by a worker that was killed while it wrote
            torn.unlink(missing_ok=True)
        answer = workers.ask("harness.train", job, folder, lambda event: self.observe(run, event))
        identity = {name: getattr(run, name) for name in RunIdentity.model_fields}
        result: FinishedRun | FailedRun
        if answer["event"] == "trained":
            training = Training.model_validate_json(answer["training"])
            self.observe(run, {"event": "evaluating"})
            job = job.model_copy(update={"final_dev_loss": training.curve[-1].dev_loss_nats})
            answer = workers.ask("harness.evaluate", job, folder, lambda event: self.observe(run, event))
        match answer["event"]:
            case "evaluated" if answer["weights_sha256"] != training.weights_sha256:
                raise LlmbenchError(
                    f"{folder} holds other weights than those that were trained; delete it and run again"
                )
            case "evaluated":
                evaluation = Evaluation.model_validate_json(answer["evaluation"])
                result = FinishedRun(**identity, training=training, evaluation=evaluation)
            case "diverged" | "hopeless" | "invalid" | "interrupted" | "error" as status:
                result = FailedRun(**identity, status=status, reason=answer["reason"])
            case "refused":
                raise LlmbenchError(answer["message"])
            case _:
                raise InterruptedRunError(INTERRUPTED)
        save_run(folder / RUN_FILE, result)
        if result.status not in RETRIED:
            (folder / "checkpoint.pt").unlink(missing_ok=True)
        return result


def _cancel(futures: Sequence[Future[Any]]) -> None:
    """Those that have not started yet."""
    for future in futures:
        future.cancel()


def _try_lock(lock: filelock.BaseFileLock, timeout: float) -> bool:
    try:
        lock.acquire(timeout=timeout)
    except filelock.Timeout:
        return False
    return True


class _Workers:
    """The processes that train and evaluate, so that all of them can be asked to stop."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._guard = threading.RLock()  # a signal may call stop() within stop()
        self._stopping = False

    def ask(self, module: str, job: Job, folder: Path, observe: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Run one worker to its end; its last event, or an `error` event with what the log ends with."""
        answer: dict[str, Any] = {}
        log_path = folder / f"{module.rpartition('.')[2]}.log"
        with log_path.open("w", encoding="utf-8") as log:
            with self._guard:
                if self._stopping:
                    return {"event": "stopped"}
                process = subprocess.Popen(
                    [sys.executable, "-m", module, job.model_dump_json()],
                    cwd=Path(__file__).resolve().parent.parent,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
                )
                self._running.add(process)
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:
                    if not line.endswith("\n"):
                        break  # killed in the middle of a word
                    answer = json.loads(line)
                    if answer["event"] == "step":
                        observe(answer)
            code = process.wait()
            with self._guard:
                self._running.discard(process)
        if answer.get("event") in ("trained", "evaluated", "diverged", "hopeless", "invalid", "stopped", "refused"):
            return answer
        if self._stopping:
            return {"event": "stopped"}
        if code < 0:
            return {"event": "interrupted", "reason": f"killed by signal {-code}, perhaps for want of memory"}
        last = [line for line in log_path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        reason = last[-1][:300] if last else f"the process ended with code {code} and no message"
        return {"event": "error", "reason": f"{reason} (full log: {log_path})"}

    def raise_if_stopped(self) -> None:
        """Raises InterruptedRunError once the workers were asked to stop."""
        if self._stopping:
            raise InterruptedRunError(INTERRUPTED)

    def stop(self) -> None:
        """Ask every worker to write its checkpoint and end."""
        with self._guard:
            self._stopping = True
            for process in self._running:
                process.send_signal(signal.SIGTERM)

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Within, SIGINT and SIGTERM stop the workers; then InterruptedRunError is raised."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        earlier = [signal.signal(number, lambda *_: self.stop()) for number in signals]
        try:
            yield
        finally:
            for number, handler in zip(signals, earlier, strict=True):
                signal.signal(number, handler)
