"""Runs on the machines of a running Ray cluster: `--executor ray`, see docs/ray.md.

Each run is one Ray task, for which Ray reserves the track's threads and GPUs. A machine receives this checkout's
sources, makes a local run with them, and sends back the run's result and weights. If the machine is lost, the run is
started again.
"""

from __future__ import annotations

import io
import logging
import os
import socket
import sys
import zipfile
from functools import partial
from typing import Any

from harness.core.errors import InterruptedRunError, LlmbenchError
from harness.core.events import NODE_EVENT, Ended, Evaluating, Lost, Made, Refused, Step, Waiting
from harness.core.project import CHECKOUT, Project, sha256, write_atomic
from harness.core.runs import FailedRun, FinishedRun, RunIdentity
from harness.core.track import Track
from harness.lab.executor import Executor, Watch
from harness.lab.ray.node import run_on_node
from harness.lab.ray.remote_run import NodeRequest
from harness.player import code_digest
from harness.player.process import INTERRUPTED
from harness.referee.job import Job

MOST_LOSSES = 3
"""Most times that one run is started again because Ray lost its process or its machine."""
SHIPPED = ("harness", "models", "tracks")


def connect() -> Any:
    """The module `ray`, connected to the running cluster. Raises LlmbenchError if Ray or a cluster is missing."""
    try:
        import ray
    except ImportError as error:
        raise LlmbenchError('Ray is not installed; run `pip install -e ".[ray]"` in the checkout') from error
    if not ray.is_initialized():
        host, _, port = os.environ.get("RAY_ADDRESS", "").rpartition(":")
        try:
            if port.isdigit() and "/" not in host:  # if nothing answers, Ray itself would wait for minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise LlmbenchError(
                f"no Ray cluster can be reached; start one (`ray start --head`) or set RAY_ADDRESS: "
                f"{str(error).partition(chr(10))[0]}"
            ) from error
    return ray


def resources(track: Track) -> dict[str, int]:
    """The cores and GPUs that one run needs, under the names that Ray uses."""
    return {"num_cpus": track.num_threads, "num_gpus": track.num_processes if track.device == "cuda" else 0}


def pack(project: Project) -> bytes:
    """A zip of the sources that runs depend on. The same sources give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in SHIPPED:
            for path in sorted((project.root / folder).rglob("*")):
                if path.is_file() and path.suffix in (".py", ".toml"):
                    entry = zipfile.ZipInfo(
                        path.relative_to(project.root).as_posix()
                    )  # all files get this date, so that equal sources give equal bytes
                    archive.writestr(entry, path.read_bytes())
    return buffer.getvalue()


class RayExecutor(Executor):
    """Makes each run as a task on a Ray cluster."""

    name = "ray"

    def __init__(self, track: Track, jobs: int) -> None:
        super().__init__(track, jobs)
        self._ray = connect()
        project = Project(CHECKOUT)
        archive = pack(project)
        self._archive, self._digest, self._code = self._ray.put(archive), sha256(archive), code_digest(project)
        # Send the function's code itself, because the machines may have another version of llmbench.
        self._ray.cloudpickle.register_pickle_by_value(sys.modules[run_on_node.__module__])
        self._task = self._ray.remote(run_on_node).options(**resources(track), num_returns="streaming", max_retries=0)

    @staticmethod
    def room(track: Track) -> int:
        need = resources(track)
        have = [machine["Resources"] for machine in connect().nodes() if machine["Alive"]]
        keys = {"num_cpus": "CPU", "num_gpus": "GPU"}
        room = sum(int(min(one.get(keys[key], 0) // count for key, count in need.items() if count)) for one in have)
        if room < 1:
            wanted = " and ".join(f"{count} {keys[key]}" for key, count in need.items() if count)
            raise LlmbenchError(
                f"no machine of the Ray cluster has {wanted}, which a run of {track.name} needs; add such a machine"
            )
        return room

    def make(self, run: RunIdentity, job: Job, watch: Watch) -> FinishedRun | FailedRun:
        request = NodeRequest(
            job=job,
            code_digest=self._code,
            revision=run.provenance.revision,
            dirty=run.provenance.dirty,
            occasion=job.folder,
        ).model_dump_json()
        reason = ""
        for loss in range(MOST_LOSSES + 1):
            if loss:
                watch(Lost(reason=reason))
            answer, files = self._ask(request, watch)
            match answer:
                case Made(run=FailedRun(status="interrupted") as lost):
                    reason = lost.reason
                case Made():
                    made = answer.run
                    for name, content in files.items():  # as in a local run
                        if name == job.weights.name or name.endswith(".log"):
                            write_atomic(job.weights.with_name(name), content)
                    digest = sha256(files.get(job.weights.name, b""))
                    if isinstance(made, FinishedRun) and digest != made.training.weights_sha256:
                        raise LlmbenchError(
                            f"the weights of {job.recipe} seed {job.seed} were damaged on the way from the cluster; "
                            f"run the command again"
                        )
                    return made
                case Refused():
                    raise LlmbenchError(answer.message)
                case Ended() if answer.code >= 0:  # a bug, which would happen again
                    raise LlmbenchError(f"a machine of the cluster failed: {answer.log or 'it printed nothing'}")
                case Ended():
                    reason = f"killed by signal {-answer.code}, perhaps for lack of memory"
                case Lost():
                    reason = answer.reason
        reason = f"its machine or process was lost {MOST_LOSSES + 1} times, the last time: {reason}"
        return FailedRun(**dict(run), status="interrupted", reason=reason)

    def _ask(self, request: str, watch: Watch) -> tuple[Made | Refused | Ended | Lost, dict[str, bytes]]:
        """Send the request once.

        Returns the answer, or `Lost` if no answer came, and the run's files (name -> content).
        """
        errors = self._ray.exceptions
        self.raise_if_stopped()
        events = self._task.remote(self._archive, self._digest, request)
        answer: Made | Refused | Ended | Lost = Lost(reason="it printed nothing")
        found: dict[str, bytes] = {}
        try:
            with self.stopping_by(partial(self._ray.cancel, events)):
                for reference in events:
                    line, files = self._ray.get(reference)
                    event = NODE_EVENT.validate_json(line)
                    if isinstance(event, Step | Evaluating):
                        watch(event)
                    elif not isinstance(event, Waiting) and not isinstance(answer, Made | Refused):
                        answer, found = event, files
        except errors.TaskCancelledError as error:
            raise InterruptedRunError(INTERRUPTED) from error
        except errors.RayTaskError as error:
            self.raise_if_stopped()
            raise LlmbenchError(f"a machine of the cluster failed: {error.cause}") from error
        except errors.RayError as error:
            self.raise_if_stopped()
            answer = Lost(reason=str(error).strip().partition("\n")[0].partition(". ")[0])
        self.raise_if_stopped()
        return answer, found
