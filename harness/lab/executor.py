"""Executors make single runs. The local one uses two worker processes a run: one trains, one evaluates.

`harness.lab.ray.cluster` makes runs on a cluster, with the local executor on the machine where a run lands.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from harness.core.errors import InterruptedRunError, LlmbenchError
from harness.core.events import Answer, Evaluated, Evaluating, Failed, Refused, RunEvent, Step, Stopped, Trained
from harness.core.runs import FailedRun, FinishedRun, RunIdentity
from harness.core.track import Track
from harness.lab.provenance import default_jobs
from harness.player.job import Job
from harness.player.process import Worker

INTERRUPTED = (
    "interrupted; finished runs are kept and started ones have a checkpoint, run the same command again to go on"
)
ExecutorName = Literal["local", "ray"]
EXECUTORS: tuple[ExecutorName, ...] = ("local", "ray")
Watch = Callable[[RunEvent], None]
"""Called with each event of one run: `Step`, `Evaluating`, or `Lost` where it starts again."""
Task = Literal["rehearse", "train", "evaluate"]
"""What a worker is asked for; the name of its log."""
ENTRIES: dict[Task, str] = {
    "rehearse": "harness.player.train:rehearse",
    "train": "harness.player.train:work",
    "evaluate": "harness.referee.evaluate:work",
}


class Executor(ABC):
    """Makes single runs; called from one thread a run."""

    name: ExecutorName

    def __init__(self, track: Track, jobs: int) -> None:
        """For at most `jobs` runs of `track` at a time."""
        self.track, self.jobs = track, jobs
        self.stopping = False
        self._stops: set[Callable[[], None]] = set()
        self._guard = threading.RLock()  # a signal may call stop() within stop()

    @staticmethod
    @abstractmethod
    def room(track: Track) -> int:
        """Runs of `track` at a time that leave each the track's threads, or a GPU of its own.

        Raises LlmbenchError where there is no place for one.
        """

    @abstractmethod
    def make(self, run: RunIdentity, job: Job, watch: Watch) -> FinishedRun | FailedRun:
        """Train and evaluate `run`, which `job` describes; its weights lie in the job's folder then.

        Raises LlmbenchError where it cannot start, InterruptedRunError once the executor was stopped.
        """

    def stop(self) -> None:
        """Ask every run to write its checkpoint and end."""
        with self._guard:
            self.stopping = True
            for stop in self._stops:
                stop()

    @contextmanager
    def stopping_by(self, stop: Callable[[], None]) -> Iterator[None]:
        """Within, `stop()` is what ends the run; called at once where the runs were asked to stop before."""
        with self._guard:
            self._stops.add(stop)
            if self.stopping:
                stop()
        try:
            yield
        finally:
            with self._guard:
                self._stops.discard(stop)

    def raise_if_stopped(self) -> None:
        """Raises InterruptedRunError once the runs were asked to stop."""
        if self.stopping:
            raise InterruptedRunError(INTERRUPTED)

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Within, SIGINT and SIGTERM stop the runs; then InterruptedRunError is raised."""
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


def alike_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs of the first one's kind, without any the one asked for in vain."""
    import torch

    # Pairs on two kinds are not comparable.
    kinds = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(index) for index in range(len(kinds))]
    return [name for name, kind in zip(names, kinds, strict=False) if kind == kinds[0]] or ["0"]


def share_out(gpus: Sequence[str], track: Track) -> list[str]:
    """CUDA_VISIBLE_DEVICES for each run that fits at a time; for one run where none fits."""
    size = track.num_processes
    places = [",".join(gpus[i : i + size]) for i in range(0, len(gpus) - size + 1, size)]
    return places or [",".join(gpus)] * bool(gpus)


class LocalExecutor(Executor):
    """Worker processes of this machine."""

    name = "local"

    def __init__(self, track: Track, jobs: int, gpus: Sequence[str] | None = None) -> None:
        """Each process of a run has one of `gpus`; default: this machine's on a CUDA track, else none."""
        super().__init__(track, jobs)
        if gpus is None:
            gpus = alike_gpus() if track.device == "cuda" else ()
        self.entries = dict(ENTRIES)
        """Task -> the function that does it, in a worker."""
        if track.num_processes > 1:
            self.entries["train"] = "harness.lab.torchrun:work"
        places = share_out(gpus, track)
        self._gpus: queue.SimpleQueue[str] = queue.SimpleQueue()
        for place in range(jobs if places else 0):  # more runs than GPUs share them evenly
            self._gpus.put(places[place % len(places)])

    @staticmethod
    def room(track: Track) -> int:
        return len(share_out(alike_gpus(), track)) if track.device == "cuda" else default_jobs(track)

    @contextmanager
    def device(self) -> Iterator[dict[str, str]]:
        """Reserves GPUs for a run; yields what they add to a worker's environment, nothing on a CPU track."""
        if self.track.device == "cpu":
            yield {}
            return
        gpus = self._gpus.get()
        try:
            yield {"CUDA_VISIBLE_DEVICES": gpus}
        finally:
            self._gpus.put(gpus)

    def make(self, run: RunIdentity, job: Job, watch: Watch) -> FinishedRun | FailedRun:
        for torn in Path(job.folder).glob(".*.*"):  # by a worker that was killed while it wrote
            torn.unlink(missing_ok=True)
        with self.device() as environment:
            answer = self.ask("train", job, watch, environment)
            if isinstance(answer, Trained):
                training = answer.training
                watch(Evaluating())
                job = job.model_copy(update={"final_dev_loss": training.curve[-1].dev_loss_nats})
                answer = self.ask("evaluate", job, watch, environment)
        match answer:
            case Evaluated() if answer.weights_sha256 != training.weights_sha256:
                raise LlmbenchError(f"{job.folder} holds other weights than were trained; delete it and run again")
            case Evaluated():
                return FinishedRun(**dict(run), training=training, evaluation=answer.evaluation)
            case Failed():
                return FailedRun(**dict(run), status=answer.status, reason=answer.reason)
            case Refused():
                raise LlmbenchError(answer.message)
            case _:
                raise InterruptedRunError(INTERRUPTED)

    def ask(self, task: Task, job: Job, watch: Watch, environment: dict[str, str] | None = None) -> Answer:
        """Run one worker to its end; its answer, or a `Failed` with the log's last line where it gave none."""
        folder = Path(job.folder)
        log, answer = folder / f"{task}.log", None
        log.write_text("")
        # torch makes this folder where it first imports its compiler: too late, a confined worker may not.
        variables = {"TORCHINDUCTOR_CACHE_DIR": str(folder), **os.environ, **(environment or {})}
        with Worker(self.entries[task], job, log, variables) as worker, self.stopping_by(worker.stop):
            for event in worker.events():
                if isinstance(event, Step):
                    watch(event)
                else:
                    answer = event
            code = worker.wait()
        if answer is not None:
            return answer
        if self.stopping:
            return Stopped()
        if code < 0:
            return Failed(status="interrupted", reason=f"killed by signal {-code}, perhaps for want of memory")
        last = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        reason = last[-1][:300] if last else f"the process ended with code {code} and no message"
        return Failed(status="error", reason=f"{reason} (full log: {log})")
