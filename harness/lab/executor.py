"""Executors make single runs. The local one is the referee of each, whose players are processes of this machine.

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

import psutil

from harness.core.errors import InterruptedRunError
from harness.core.events import RunEvent
from harness.core.runs import FailedRun, FinishedRun, RunIdentity
from harness.core.track import Track
from harness.lab.cores import reserve_cores
from harness.lab.provenance import default_jobs
from harness.player.process import INTERRUPTED
from harness.player.protocol import Built
from harness.referee.casting import Casting
from harness.referee.job import Job
from harness.referee.run import make_run, rehearse

ExecutorName = Literal["local", "ray"]
EXECUTORS: tuple[ExecutorName, ...] = ("local", "ray")
Watch = Callable[[RunEvent], None]
"""Called with each event of one run: `Step`, `Evaluating`, or `Lost` where it starts again."""
MEMORY_SHARE = 0.9
"""Of the machine's memory that the runs on it may take together; each has an equal part."""


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
    """The referee of each run, in a thread; its players are processes of this machine."""

    name = "local"

    def __init__(self, track: Track, jobs: int, gpus: Sequence[str] | None = None) -> None:
        """Each process of a run has one of `gpus`; default: this machine's on a CUDA track, else none."""
        super().__init__(track, jobs)
        if gpus is None:
            gpus = alike_gpus() if track.device == "cuda" else ()
        places = share_out(gpus, track)
        self._gpus: queue.SimpleQueue[str] = queue.SimpleQueue()
        for place in range(jobs if places else 0):  # more runs than GPUs share them evenly
            self._gpus.put(places[place % len(places)])

    @staticmethod
    def room(track: Track) -> int:
        return len(share_out(alike_gpus(), track)) if track.device == "cuda" else default_jobs(track)

    @contextmanager
    def device(self) -> Iterator[dict[str, str]]:
        """Reserves GPUs for a run; yields what they add to its players' environment, nothing on a CPU track."""
        if self.track.device == "cpu":
            yield {}
            return
        gpus = self._gpus.get()
        try:
            yield {"CUDA_VISIBLE_DEVICES": gpus}
        finally:
            self._gpus.put(gpus)

    @contextmanager
    def casting(self, job: Job) -> Iterator[Casting]:
        """A place for one run: its cores or GPUs, and its part of the memory."""
        memory_bytes = int(MEMORY_SHARE * psutil.virtual_memory().total / self.jobs)
        with self.device() as environment, reserve_cores(self.track.num_threads) as cores:
            yield Casting(
                self.track,
                job,
                should_stop=lambda: self.stopping,
                cores=cores,
                memory_bytes=memory_bytes,
                environment=environment,
            )

    def make(self, run: RunIdentity, job: Job, watch: Watch) -> FinishedRun | FailedRun:
        for torn in Path(job.folder).glob(".*.*"):  # by a command that was killed while it wrote
            torn.unlink(missing_ok=True)
        with self.casting(job) as casting:
            return make_run(casting, run, watch)

    def rehearse(self, job: Job) -> Built:
        """Have a run's players get ready for their first step; what they built. Nothing is kept.

        Raises RunFailedError or LlmbenchError where training would fail.
        """
        with self.casting(job) as casting:
            return rehearse(casting)
