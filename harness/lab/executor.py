"""Executors make single runs (one recipe with one seed), on this machine or on a cluster.

The local executor starts the players (processes that run a variant's code) on this machine, and acts as their referee.
`harness.lab.ray.cluster` sends runs to a cluster. A machine of the cluster that gets a run makes it with the local
executor.
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
"""Called with each event of one run: `Step`, `Evaluating`, or `Lost` if the run has to start again."""
MEMORY_SHARE = 0.9
"""Share of the machine's memory that all runs together may use; each gets an equal part."""


class Executor(ABC):
    """Makes single runs. `make` is called in a separate thread for each run."""

    name: ExecutorName

    def __init__(self, track: Track, jobs: int) -> None:
        """Prepare to make at most `jobs` runs of `track` at a time."""
        self.track, self.jobs = track, jobs
        self.stopping = False
        self._stops: set[Callable[[], None]] = set()
        self._guard = threading.RLock()  # a signal may call stop() while stop() is running

    @staticmethod
    @abstractmethod
    def room(track: Track) -> int:
        """How many runs of `track` can train at the same time, each on cores or GPUs that no other run uses.

        Raises LlmbenchError if no machine of the cluster can train a run.
        """

    @abstractmethod
    def make(self, run: RunIdentity, job: Job, watch: Watch) -> FinishedRun | FailedRun:
        """Train and evaluate `run`, as `job` describes it, and leave its weights in the job's folder.

        Raises LlmbenchError if the run cannot start, InterruptedRunError if `stop` was called.
        """

    def stop(self) -> None:
        """Ask every run to write a checkpoint and end."""
        with self._guard:
            self.stopping = True
            for stop in self._stops:
                stop()

    @contextmanager
    def stopping_by(self, stop: Callable[[], None]) -> Iterator[None]:
        """While this context is open, a request to stop the runs calls `stop`.

        If the request came before, `stop` is called at once.
        """
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
        """Raises InterruptedRunError if the runs were asked to stop."""
        if self.stopping:
            raise InterruptedRunError(INTERRUPTED)

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """While this context is open, SIGINT and SIGTERM ask the runs to stop.

        Stopped runs raise InterruptedRunError.
        """
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
    """Names, as in CUDA_VISIBLE_DEVICES, of all GPUs of the same kind as the first GPU; `0` if there is no GPU."""
    import torch

    # Runs on two kinds of GPU cannot be compared.
    kinds = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(index) for index in range(len(kinds))]
    return [name for name, kind in zip(names, kinds, strict=False) if kind == kinds[0]] or ["0"]


def share_out(gpus: Sequence[str], track: Track) -> list[str]:
    """One value of CUDA_VISIBLE_DEVICES for each run that can train at the same time.

    If there are too few GPUs for one run, the list has one value with all GPUs. Without GPUs the list is empty.
    """
    size = track.num_processes
    places = [",".join(gpus[i : i + size]) for i in range(0, len(gpus) - size + 1, size)]
    return places or [",".join(gpus)] * bool(gpus)


class LocalExecutor(Executor):
    """Makes runs on this machine. The referee of a run is a thread, its players are processes."""

    name = "local"

    def __init__(self, track: Track, jobs: int, gpus: Sequence[str] | None = None) -> None:
        """Prepare to make runs with `gpus`: each process of a run gets one of them.

        By default these are the GPUs of this machine on a CUDA track, and no GPU on a CPU track.
        """
        super().__init__(track, jobs)
        if gpus is None:
            gpus = alike_gpus() if track.device == "cuda" else ()
        places = share_out(gpus, track)
        self._gpus: queue.SimpleQueue[str] = queue.SimpleQueue()
        for place in range(jobs if places else 0):  # if there are more runs than GPUs, the runs share the GPUs evenly
            self._gpus.put(places[place % len(places)])

    @staticmethod
    def room(track: Track) -> int:
        return len(share_out(alike_gpus(), track)) if track.device == "cuda" else default_jobs(track)

    @contextmanager
    def device(self) -> Iterator[dict[str, str]]:
        """Reserve GPUs for a run. Yields the environment variables that give these GPUs to the run's players."""
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
        """Reserve cores or GPUs and a part of the memory for one run. Yields what the run's players need to start."""
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
        for torn in Path(job.folder).glob(".*.*"):  # left by a command that was killed while it wrote
            torn.unlink(missing_ok=True)
        with self.casting(job) as casting:
            return make_run(casting, run, watch)

    def rehearse(self, job: Job) -> Built:
        """Start a run's players, up to their first training step. Returns facts on the built model; saves nothing.

        Raises RunFailedError or LlmbenchError if training would fail.
        """
        with self.casting(job) as casting:
            return rehearse(casting)
