"""How a process starts, tells its events, and ends with whoever started it."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from harness.core.errors import LlmbenchError

if TYPE_CHECKING:
    from harness.player.job import Job


_PR_SET_PDEATHSIG = 1  # linux/prctl.h


Emit = Callable[[dict[str, Any]], None]


def fork(life: Callable[[], None]) -> int:
    """Process id of a fork of this process that does `life` and ends, with its parent at the latest.

    It ends with code 1 and a traceback on stderr where `life` raises. Call it while this process has one thread.
    """
    child = os.fork()
    if child != 0:
        return child
    code: Any = 1
    try:
        end_with_parent()
        life()
        code = 0
    except SystemExit as error:
        code = error.code
    except BaseException:  # noqa: BLE001  # nothing above may go on in the fork
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(code)  # torch takes its time to tidy up


def exit_code(child: int) -> int:
    """Wait for a forked process to end; its exit code, or minus the number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def close_all_but(*descriptors: int) -> None:
    """Close what a fork has inherited, except for stdin, stdout, stderr and `descriptors`."""
    kept = [2, *sorted(descriptors), os.sysconf("SC_OPEN_MAX")]
    for before, after in pairwise(kept):
        os.closerange(before + 1, after)


def end_with_parent() -> None:
    """Have the kernel end this process when its parent dies, however that comes about. Linux only.

    Elsewhere the closed pipe ends it at its next word.
    """
    import ctypes

    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def run_worker(work: Callable[[Job, Emit], None], job: Job) -> None:
    """Do the work, and turn an expected error into an event.

    The events' stream is kept apart: whatever else is printed in this process goes to stderr.
    """
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def emit(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")

    emit({"event": "started"})  # or end here: the parent may have died while this process began
    try:
        work(job, emit)
    except LlmbenchError as error:
        emit({"event": "refused", "message": str(error)})
        sys.exit(error.exit_code)
