"""How worker processes start, tell their events, and end with whoever started them.

On Linux the standard library's fork server imports torch once and forks every worker: it runs no variant's code, so
each worker starts from the same clean memory. Elsewhere, and where LLMBENCH_START says `spawn`, a worker is a fresh
interpreter, which takes some seconds longer.
"""

from __future__ import annotations

import multiprocessing
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import BaseModel, ValidationError

from harness.core.errors import LlmbenchError
from harness.core.events import WORKER_EVENT, Failed, Refused, WorkerEvent
from harness.core.project import CHECKOUT
from harness.player.bubble import bubble
from harness.player.confine import player_environment

if TYPE_CHECKING:
    from harness.player.job import Job

Emit = Callable[[WorkerEvent], None]
Work = Callable[["Job", Emit], None]
"""What a worker does: the job, then how it tells an event."""
StartMethod = Literal["forkserver", "spawn"]

PRELOADED = ["safetensors.torch", "harness.player.train", "harness.referee.evaluate", "harness.cli"]
"""What the fork server imports, as strings: some lie above this room. A worker imports the main module once more."""
PATIENCE_S = 10.0  # for the end of a worker that has said all
LONGEST_EVENT = 1 << 24  # bytes; a run's record has some kilobytes
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_KILLED_WITH_SERVER = 255  # what multiprocessing says of a worker whose fork server was killed

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_starting = threading.Lock()  # starting reads the exit codes of workers that others wait for


def start_method() -> StartMethod:
    """How workers start here. Raises LlmbenchError where LLMBENCH_START names no way."""
    asked = os.environ.get("LLMBENCH_START", "")
    if asked not in ("", "forkserver", "spawn"):
        raise LlmbenchError(f"LLMBENCH_START is '{asked[:80]}'; set it to forkserver or spawn, or unset it")
    default = "forkserver" if sys.platform == "linux" else "spawn"  # a fork is not safe where torch has threads
    return cast(StartMethod, asked or default)


class Worker(AbstractContextManager["Worker"]):
    """One process that does one job; a context manager that leaves no process behind."""

    def __init__(self, entry: str, job: Job, log: Path, environment: dict[str, str]) -> None:
        """Start it. `entry` is the `module:function` of its work, `log` gets all that it prints.

        Raises LlmbenchError where no process can be started.
        """
        context: Any = multiprocessing.get_context(start_method())  # its stubs know no Process
        self._events, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_live, args=(entry, job, str(log), environment, theirs))
        try:
            with _starting, _without_interrupts(), theirs:
                if start_method() == "forkserver":
                    _start_server()
                self._process.start()
        except (OSError, EOFError) as error:
            raise LlmbenchError(f"no worker process can be started ({error}); try LLMBENCH_START=spawn") from error

    def events(self) -> Iterator[WorkerEvent]:
        """What the worker says, until it ends. What is no event is the failure of its run."""
        while True:
            try:
                event = WORKER_EVENT.validate_json(self._events.recv_bytes(LONGEST_EVENT))
            except (EOFError, OSError, ValidationError) as error:  # it ended, maybe in the middle of a message
                if isinstance(error, ValidationError) or self._events.closed:  # closed: the message is too long
                    self._process.kill()
                    yield Failed(status="error", reason="its process sent something that is no event")
                return
            yield event

    def stop(self) -> None:
        """Ask it to write its checkpoint and end: SIGTERM. Windows ends it at once."""
        self._process.terminate()

    def wait(self) -> int:
        """Its exit code, negative for a signal. A worker that has said all and does not end is killed."""
        with _starting:
            self._process.join(PATIENCE_S)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
        code = self._process.exitcode or 0
        if code == _KILLED_WITH_SERVER and start_method() == "forkserver":
            return -signal.SIGKILL
        return code

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self._process.kill()
        self.wait()
        self._events.close()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """What starts within holds back SIGINT and SIGTERM sent to the whole family: the command passes them on."""
    if sys.platform == "win32":
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # first, for where it starts it ends with all signals let through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_server() -> tuple[str, ...]:
    """Have the fork server run, in an environment of its own and in a bubble where that works: the bubble's name.

    A process can read what the one that it was forked from was started with, so nothing private is in it.
    """
    from multiprocessing import forkserver  # not on Windows

    forkserver.set_forkserver_preload(PRELOADED)
    before = dict(os.environ)
    paths = os.pathsep.join([str(CHECKOUT), *filter(None, [before.get("PYTHONPATH")])])
    mine = {name: value for name, value in before.items() if name.startswith("LLMBENCH_")}
    # Threads that a library starts before a fork would not survive it.
    mine |= {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": paths}
    with bubble() as surroundings:
        try:
            os.environ.clear()
            os.environ.update(player_environment(before) | mine)
            forkserver.ensure_running()
        finally:
            os.environ.clear()
            os.environ.update(before)
    return surroundings


def _live(entry: str, job: Job, log: str, environment: dict[str, str], events: Connection) -> None:
    """A worker's life."""
    end_with_parent()
    if sys.platform != "win32":
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # forgets one that waits; a SIGTERM that waits is for this worker
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if start_method() == "forkserver":
        close_all_but(events.fileno())
    os.environ.clear()
    os.environ.update(environment)
    answer(pkgutil.resolve_name(entry), job, lambda event: events.send_bytes(event.model_dump_json().encode()))
    sys.stdout.flush()


def answer(work: Work, job: Job, emit: Emit) -> None:
    """Do the work, and turn an expected error into an event."""
    try:
        work(job, emit)
    except LlmbenchError as error:
        emit(Refused(message=str(error)))


def close_all_but(*descriptors: int) -> None:
    """Close what a fork has inherited, except for stdin, stdout, stderr and `descriptors`."""
    kept = [2, *sorted(descriptors), os.sysconf("SC_OPEN_MAX")]
    for before, after in pairwise(kept):
        os.closerange(before + 1, after)


def end_with_parent() -> None:
    """Have Linux kill this process when its parent dies; elsewhere the closed pipe ends it at its next event.

    Called before this process closes what it inherited: so long the fork server lives.
    """
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)


def emit_lines() -> Callable[[BaseModel], Any]:
    """Sends events as JSON lines on stdout; whatever else this process prints goes to stderr from here on."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return lambda event: lines.write(event.model_dump_json() + "\n")
