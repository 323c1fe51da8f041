"""Where single runs are made: in two processes each, one that trains and one that evaluates, on this machine.

`harness.lab.ray.cluster` makes them elsewhere, by this very executor on the machine where a run lands.
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
from typing import Any, Literal

from harness.core.errors import InterruptedRunError, LlmbenchError
from harness.core.runs import Evaluation, FailedRun, FinishedRun, RunIdentity, Training
from harness.core.track import Track
from harness.lab.provenance import default_jobs
from harness.lab.zygote import Request, Zygote, zygote
from harness.player.job import Job

INTERRUPTED = (
    "interrupted; finished runs are kept and started ones have a checkpoint, run the same command again to go on"
)


FINAL_EVENTS = ("rehearsed", "trained", "evaluated", "diverged", "hopeless", "invalid", "stopped", "refused")


ExecutorName = Literal["local", "ray"]


EXECUTORS: tuple[ExecutorName, ...] = ("local", "ray")


Watch = Callable[[dict[str, Any]], None]
"""Called with each event of one run: `step`, `evaluating`, or `lost` where it starts again."""


class Executor(ABC):
    """Makes single runs, each asked for from a thread of its own."""

    name: ExecutorName

    def __init__(self, track: Track, jobs: int) -> None:
        """For at most `jobs` runs of `track` at a time."""
        self.track, self.jobs = track, jobs
        self.stopping = False

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
        self.stopping = True

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
    """What CUDA_VISIBLE_DEVICES calls the GPUs of the first one's kind: pairs on two kinds are not comparable.

    Of a machine without any, the one that a run will ask for in vain.
    """
    import torch

    kinds = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(index) for index in range(len(kinds))]
    return [name for name, kind in zip(names, kinds, strict=False) if kind == kinds[0]] or ["0"]


def share_out(gpus: Sequence[str], track: Track) -> list[str]:
    """What CUDA_VISIBLE_DEVICES says of the GPUs of each run that has room at a time; of one run where none has."""
    size = track.num_processes
    places = [",".join(gpus[i : i + size]) for i in range(0, len(gpus) - size + 1, size)]
    return places or [",".join(gpus)] * bool(gpus)


class LocalExecutor(Executor):
    """Worker processes of this machine."""

    name = "local"

    def __init__(self, track: Track, jobs: int, gpus: Sequence[str] | None = None) -> None:
        """Each run has one of `gpus` a process to itself; default: those of this machine on a CUDA track, else none."""
        super().__init__(track, jobs)
        if gpus is None:
            gpus = alike_gpus() if track.device == "cuda" else ()
        places = share_out(gpus, track)
        self._gpus: queue.SimpleQueue[str] = queue.SimpleQueue()
        for place in range(jobs if places else 0):  # more runs than GPUs share them evenly
            self._gpus.put(places[place % len(places)])
        self._running: set[Zygote] = set()
        self._guard = threading.RLock()  # a signal may call stop() within stop()

    @staticmethod
    def room(track: Track) -> int:
        return len(share_out(alike_gpus(), track)) if track.device == "cuda" else default_jobs(track)

    def make(self, run: RunIdentity, job: Job, watch: Watch) -> FinishedRun | FailedRun:
        with self.device() as environment:
            return self._train_and_evaluate(run, job, watch, environment)

    @contextmanager
    def device(self) -> Iterator[dict[str, str]]:
        """Lends a run its GPUs: what a worker's environment says of it; nothing on a CPU track."""
        if self.track.device == "cpu":
            yield {}
            return
        gpus = self._gpus.get()
        try:
            yield {"CUDA_VISIBLE_DEVICES": gpus}
        finally:
            self._gpus.put(gpus)

    def _train_and_evaluate(
        self, run: RunIdentity, job: Job, watch: Watch, environment: dict[str, str]
    ) -> FinishedRun | FailedRun:
        folder = Path(job.folder)
        for torn in folder.glob(".*.*"):  # by a worker that was killed while it wrote
            torn.unlink(missing_ok=True)
        trainer = "harness.player.train" if self.track.num_processes == 1 else "harness.lab.torchrun"
        answer = self.ask(trainer, job, folder, watch, environment)
        identity = {name: getattr(run, name) for name in RunIdentity.model_fields}
        if answer["event"] == "trained":
            training = Training.model_validate_json(answer["training"])
            watch({"event": "evaluating"})
            job = job.model_copy(update={"final_dev_loss": training.curve[-1].dev_loss_nats})
            answer = self.ask("harness.referee.evaluate", job, folder, watch, environment)
        match answer["event"]:
            case "evaluated" if answer["weights_sha256"] != training.weights_sha256:
                raise LlmbenchError(
                    f"{folder} holds other weights than those that were trained; delete it and run again"
                )
            case "evaluated":
                evaluation = Evaluation.model_validate_json(answer["evaluation"])
                return FinishedRun(**identity, training=training, evaluation=evaluation)
            case "diverged" | "hopeless" | "invalid" | "interrupted" | "error" as status:
                return FailedRun(**identity, status=status, reason=answer["reason"])
            case "refused":
                raise LlmbenchError(answer["message"])
            case _:
                raise InterruptedRunError(INTERRUPTED)

    def ask(
        self, module: str, job: Job, folder: Path, observe: Watch, environment: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Run one worker to its end; its last event, or an `error` event with what the log ends with."""
        log_path, answer = folder / f"{module.rpartition('.')[2]}.log", {"event": ""}
        log_path.write_text("")
        # torch makes this folder where it first imports its compiler: too late, a confined worker may not.
        variables = {"TORCHINDUCTOR_CACHE_DIR": str(folder), **os.environ, **(environment or {})}
        with zygote(log_path) as parent:
            with self._guard:
                if self.stopping:
                    return {"event": "stopped"}
                parent.start(Request(module=module, job=job, log=str(log_path), environment=variables))
                self._running.add(parent)
            try:
                for event in parent.events():
                    if event["event"] == "ended":
                        code = event["code"]
                        break
                    answer = event
                    if event["event"] == "step":
                        observe(event)
            finally:
                with self._guard:
                    self._running.discard(parent)
        if answer["event"] in FINAL_EVENTS:
            return answer
        if self.stopping:
            return {"event": "stopped"}
        if code < 0:
            return {"event": "interrupted", "reason": f"killed by signal {-code}, perhaps for want of memory"}
        last = [line for line in log_path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        reason = last[-1][:300] if last else f"the process ended with code {code} and no message"
        return {"event": "error", "reason": f"{reason} (full log: {log_path})"}

    def stop(self) -> None:
        with self._guard:
            super().stop()
            for parent in self._running:
                parent.stop()
