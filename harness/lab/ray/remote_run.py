"""Makes one run on a machine of a cluster.

Reads a request from stdin, and writes events to stdout as JSON lines; the last line holds the result. The run is a
local run in a copy of the user's checkout. Its provenance names the machine of the cluster.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from harness.core.errors import LlmbenchError
from harness.core.events import Done, Made, NodeEvent, Refused, RunEvent, Step
from harness.core.project import CHECKOUT, Project
from harness.core.runs import FailedRun, FinishedRun, RunIdentity
from harness.core.schema import Sha256, Strict
from harness.core.track import load_track
from harness.data.cache import with_found_pins
from harness.data.prepare import prepare
from harness.lab.executor import LocalExecutor
from harness.lab.store import RunStore
from harness.player.device import require_device
from harness.player.start import emit_lines, end_with_parent
from harness.referee.job import Job

REPORT_EVERY_S = 0.5
"""Least number of seconds between two reported steps."""


class NodeRequest(Strict):
    """A request to a machine of the cluster to make one run."""

    job: Job
    """The referee's instructions. Their root and folder are paths on the user's machine."""
    code_digest: Sha256
    revision: str | None
    dirty: bool
    """Whether the user's checkout had uncommitted changes; `revision` is the git revision of that checkout."""
    occasion: str
    """A name for the request. A kept run is reused only for a request with the same name."""


def make(request: NodeRequest, emit: Callable[[NodeEvent], None]) -> tuple[FinishedRun | FailedRun, Path]:
    """Make the run. Returns the run, and its folder on this machine.

    Raises LlmbenchError if the run cannot start here.
    """
    project, job = Project(CHECKOUT), request.job
    track = load_track(project, job.track, job.settings)
    require_device(track)
    prepare(track)
    track = with_found_pins(track)

    told_s = 0.0

    def observe(run: RunIdentity, event: RunEvent) -> None:
        nonlocal told_s
        if isinstance(event, Done) or (isinstance(event, Step) and time.monotonic() - told_s < REPORT_EVERY_S):
            return
        told_s = time.monotonic()
        emit(event)

    store = RunStore(
        project,
        track,
        jobs=LocalExecutor.room(track),
        occasion=request.occasion,
        observe=observe,
        checkpoint_every_s=job.checkpoint_every_s,
    )
    run = store.identify(job.recipe, job.seed)
    asked = (job.training_digest, job.sources, request.code_digest)
    if (run.training_digest, run.sources, run.code_digest) != asked:
        raise LlmbenchError(
            "the sources or tokens on the cluster's machine differ from those on your machine; run the command again"
        )
    (made,) = store.make([run], lambda run: job.give_up)
    provenance = made.provenance.model_copy(update={"revision": request.revision, "dirty": request.dirty})
    return made.model_copy(update={"provenance": provenance}), store.folder(run)


def main() -> None:
    """Read the request and make the run. If the run is refused (LlmbenchError), the reason is written as an event."""
    end_with_parent()
    emit = emit_lines()
    try:
        made, folder = make(NodeRequest.model_validate_json(sys.stdin.read()), emit)
    except PackageNotFoundError as error:
        emit(Refused(message=f"a machine of the cluster lacks the package {error.name}; install llmbench on it"))
    except LlmbenchError as error:
        emit(Refused(message=str(error)))
        sys.exit(error.exit_code)
    else:
        emit(Made(run=made, folder=str(folder)))


if __name__ == "__main__":
    main()
