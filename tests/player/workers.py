"""Workers that do something else than a run, for the tests of how workers start, speak and end."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from harness.core.events import Failed, Step
from harness.player.process import Emit


def pipe_of(emit: Emit) -> Any:
    """What a worker that does not keep to events would speak through."""
    return next(cell.cell_contents for cell in emit.__closure__ or ())  # type: ignore[attr-defined]


def tell(job: Any, emit: Emit) -> None:
    """Say what this process finds, and leave a mark in it."""
    found = {
        "process": os.getpid(),
        "preloaded": "harness.player.train" in sys.modules,
        "marked": hasattr(json, "mark"),
        "variable": os.environ.get("VARIABLE"),
        "descriptors": sum(os.path.exists(f"/proc/self/fd/{number}") for number in range(3, 64)),
        "session": os.getsid(0) == os.getpid(),
    }
    json.mark = True  # type: ignore[attr-defined]
    sys.stdout.write("printed\n")
    emit(Failed(status="error", reason=json.dumps(found)))


def wait(job: Any, emit: Emit) -> None:
    """Say the process's number, wait for SIGTERM, and end with code 5 then."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
    emit(Step(step=os.getpid(), loss_nats=0.0, train_s=0.0))
    time.sleep(60)


def gpu(job: Any, emit: Emit) -> None:
    emit(Failed(status="error", reason=os.environ["CUDA_VISIBLE_DEVICES"]))


def torn(job: Any, emit: Emit) -> None:
    """Killed in the middle of a message."""
    emit(Step(step=1, loss_nats=1.0, train_s=1.0))
    os.write(pipe_of(emit).fileno(), b"\0\0\1\0{")
    os.kill(os.getpid(), signal.SIGKILL)


def gibberish(job: Any, emit: Emit) -> None:
    pipe_of(emit).send_bytes(b'{"event": "trained", "training": "as well as any"}')
    time.sleep(60)


def endless(job: Any, emit: Emit) -> None:
    """A message that says that it has a gigabyte."""
    os.write(pipe_of(emit).fileno(), (1 << 30).to_bytes(4, "big"))
    time.sleep(60)
