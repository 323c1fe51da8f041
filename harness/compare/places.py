"""Places where runs are made: this machine, where each run gets its own cores or a GPU, or a Ray cluster."""

from __future__ import annotations

import os
import queue
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

from harness.compare.trial import SUPERVISOR, Ended, Request, Supervised
from harness.core.errors import InterruptedRunError, LlmbenchError
from harness.core.runs import Machine
from harness.lab.cores import reserve_cores
from harness.lab.provenance import available_cores, this_machine

POLL_S = 0.1
Run = Callable[[Request], Ended]


class Places(ABC):
    """Runs commands, at most `jobs` at a time. Each call of `run` comes from a thread of its own."""

    executor: Literal["local", "ray"]
    machine: Machine
    jobs: int

    def __init__(self) -> None:
        self.stopping = threading.Event()

    @abstractmethod
    def run(self, request: Request) -> Ended:
        """Run one command, and return how it ended. Raises InterruptedRunError as soon as `stopping` is set."""


class LocalPlaces(Places):
    """Runs commands on this machine. Each run gets a GPU or, if there is none, an equal share of the cores."""

    executor = "local"

    def __init__(self, jobs: int | None = None) -> None:
        super().__init__()
        gpus = visible_gpus()
        self.jobs = jobs or (len(gpus) if gpus else min(2, available_cores()))
        self.machine = this_machine(_gpu_name() if gpus else None)
        self._cores = max(1, available_cores() // self.jobs)
        self._gpus: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for place in range(self.jobs):
            self._gpus.put(gpus[place % len(gpus)] if gpus else None)

    @contextmanager
    def _place(self) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
        gpu = self._gpus.get()
        try:
            with reserve_cores(self._cores) as cores:
                yield {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}, cores
        finally:
            self._gpus.put(gpu)

    def run(self, request: Request) -> Ended:
        with self._place() as (environment, cores):
            if self.stopping.is_set():
                raise InterruptedRunError("interrupted")
            own = request._replace(environment={**request.environment, **environment}, cores=cores)
            supervised = Supervised(own)
            while True:
                with suppress(subprocess.TimeoutExpired):
                    ended = supervised.wait(POLL_S)
                    break
                if self.stopping.is_set():
                    supervised.stop()
                    supervised.wait()
                    raise InterruptedRunError("interrupted")
        if ended is None:
            raise LlmbenchError("the process that supervises a run was killed from outside; run the same command again")
        return ended


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs that runs may use, each by its name for CUDA_VISIBLE_DEVICES."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    return [str(place) for place in range(len(_nvidia_smi("--list-gpus")))]


def _gpu_name() -> str | None:
    return next(iter(_nvidia_smi("--query-gpu=name", "--format=csv,noheader")), None)


def _nvidia_smi(*options: str) -> list[str]:
    try:
        done = subprocess.run(["nvidia-smi", *options], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


class RayPlaces(Places):
    """Runs commands as tasks on a running Ray cluster.

    All machines of the cluster must have this folder and the worktrees under the same paths.
    """

    executor = "ray"

    def __init__(self, jobs: int | None = None) -> None:
        super().__init__()
        from harness.lab.ray.cluster import connect

        self._ray = connect()
        alive = [machine["Resources"] for machine in self._ray.nodes() if machine["Alive"]]
        gpus, cores = (sum(int(one.get(key, 0)) for one in alive) for key in ("GPU", "CPU"))
        self.jobs = jobs or gpus or max(1, min(cores, 2 * len(alive)))
        self.machine = this_machine()
        share = {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_cpus": max(1, cores // self.jobs)}
        self._task = self._ray.remote(_supervise_there).options(max_retries=0, **share)
        self._script = SUPERVISOR.read_text(encoding="utf-8")

    def run(self, request: Request) -> Ended:
        if self.stopping.is_set():
            raise InterruptedRunError("interrupted")
        task = self._task.remote(self._script, request.line())
        while True:
            done, _ = self._ray.wait([task], timeout=POLL_S)
            if done:
                break
            if self.stopping.is_set():
                self._ray.cancel(task, force=True)
                raise InterruptedRunError("interrupted")
        try:
            return Ended.model_validate_json(self._ray.get(task))
        except self._ray.exceptions.RayError as error:
            raise LlmbenchError(
                f"a machine of the Ray cluster lost a run ({str(error).strip().partition(chr(10))[0]}); run the same "
                f"command again, finished runs are kept"
            ) from error


def _supervise_there(script: str, line: str) -> str:
    """Run `script`, the text of supervise.py, with the request `line`, and return what it prints.

    Ray sends this function's code to a machine of the cluster, so it must import all that it needs.
    """
    import subprocess as there
    import sys

    process: Any = there.Popen(
        [sys.executable, "-P", "-c", script], stdin=there.PIPE, stdout=there.PIPE, text=True, start_new_session=True
    )
    process.stdin.write(line)
    process.stdin.flush()
    said: str = process.stdout.read()
    process.wait()
    return said
