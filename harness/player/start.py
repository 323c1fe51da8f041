"""Starts the players' processes, without private data, and confined before they get a variant's code.

On Linux every player is a fork of one process, the fork server of Python's multiprocessing, which imports torch once.
The fork server runs no variant's code and reads no tokens, so the memory of its forks contains neither. On other
systems, and with LLMBENCH_START=spawn, a player is a new Python process, whose start takes some seconds longer.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, Field

from harness.core.errors import LlmbenchError
from harness.core.project import CHECKOUT
from harness.core.runs import NETWORK_OPEN
from harness.core.schema import Positive, Strict
from harness.player.bubble import INSIDE, bubble
from harness.player.confine import confine, limit_resources, player_environment

StartMethod = Literal["forkserver", "spawn"]

PRELOADED = ["harness.player.start", "harness.player.play", "models.seams", "harness.cli"]
"""What the fork server imports. A confined player cannot list `models/`, so it can import nothing from there once that
folder has changed; `models.seams` imports all of it. `harness.cli` saves time: a player imports the main module, the
program `llmbench`."""
LONGEST_LOG = 4 << 20  # bytes of a player's log
LONGEST_OUTPUT = 1 << 30  # bytes of each file of a player that compiles
PIPE_BYTES = 1 << 20
PREPARE_S = 600.0  # to import, build, compile and warm up; a compiler takes minutes
LOG_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC  # the length of a shared log could carry messages
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
starting = threading.Lock()
"""A lock for starting processes and for waiting for their ends, because starting one collects exit codes of others."""


class Cell(Strict):
    """Permissions and limits of a player's process."""

    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    programs: bool = False
    """Whether the player may start programs, as a compiler does."""
    network: bool = False
    """Whether the player may connect to other ranks (processes of its run)."""
    cores: tuple[int, ...] = ()
    """Processor cores that the player is pinned to; empty for all."""
    memory_bytes: Positive | None = None
    forked: bool = True
    """Whether the fork server starts the player. It does not if the model is compiled, because bubblewrap would hide
    the folder of the compiled files."""
    silence_s: float = PREPARE_S
    """Longest time to answer a request, seconds."""
    environment: dict[str, str] = Field(default_factory=dict)


def start_method() -> StartMethod:
    """How players are started on this machine. Raises LlmbenchError if LLMBENCH_START is invalid."""
    asked = os.environ.get("LLMBENCH_START", "")
    if asked not in ("", "forkserver", "spawn"):
        raise LlmbenchError(f"LLMBENCH_START is '{asked[:80]}'; set it to forkserver or spawn, or unset it")
    default = "forkserver" if sys.platform == "linux" else "spawn"  # a fork is not safe while torch has threads
    return cast(StartMethod, asked or default)


def start_player(cell: Cell, log: Path) -> tuple[Any, Connection, Connection]:
    """A player's new process, and the referee's ends of its two pipes, for requests and for answers.

    Raises LlmbenchError if no process can be started.
    """
    method = start_method() if cell.forked else "spawn"
    context: Any = multiprocessing.get_context(method)  # its stubs lack Process
    theirs_in, requests = context.Pipe(duplex=False)
    answers, theirs_out = context.Pipe(duplex=False)
    with suppress(ImportError, AttributeError, OSError):  # fewer reads for large answers, where the system allows it
        import fcntl

        fcntl.fcntl(answers.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    process = context.Process(target=_live, args=(cell, _opened(log), theirs_in, theirs_out))
    try:
        with starting, _without_interrupts(), theirs_in, theirs_out:
            if method == "forkserver":
                _start_server(cell)
                process.start()
            else:
                with _environment():
                    process.start()
    except (OSError, EOFError) as error:
        raise LlmbenchError(f"no process for a run can be started ({error}); try LLMBENCH_START=spawn") from error
    return process, requests, answers


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """A context in which processes start with SIGINT and SIGTERM blocked, because the command handles both for all."""
    if sys.platform == "win32":
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # first, because its start unblocks all signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment() -> Iterator[None]:
    """A context without private environment variables, because a started process can read all of its variables."""
    before = dict(os.environ)
    paths = os.pathsep.join([str(CHECKOUT), *filter(None, [before.get("PYTHONPATH")])])
    # OpenBLAS must not start threads yet: a fork would lose them, and confinement would not cover them.
    mine = {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": paths, "LLMBENCH_START": before.get("LLMBENCH_START", "")}
    try:
        os.environ.clear()
        os.environ.update(player_environment(before) | mine)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _start_server(cell: Cell) -> None:
    """Start the fork server, in bubblewrap if that works, unless it runs already."""
    from multiprocessing import forkserver  # not on Windows

    forkserver.set_forkserver_preload(PRELOADED)
    with bubble(map(Path, cell.devices)), _environment():
        forkserver.ensure_running()


def _opened(log: Path) -> Any:
    """What a player gets as its log: an open file, because bubblewrap hides the path, but on Windows the path."""
    if sys.platform == "win32":
        return str(log)
    return Connection(os.open(log, LOG_FLAGS, 0o644), readable=False)


def _live(cell: Cell, log: Connection | str, requests: Connection, answers: Connection) -> None:
    """Main function of a player's process: confine the process, report the active mechanisms, answer requests."""
    end_with_parent()
    if sys.platform != "win32":
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # drops a pending signal: only the command handles it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    descriptor = os.open(log, LOG_FLAGS) if isinstance(log, str) else log.fileno()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a kill loses no output
    if cell.forked and start_method() == "forkserver":
        close_all_but(requests.fileno(), answers.fileno())
    elif sys.platform != "win32":
        from multiprocessing import resource_tracker

        os.close(resource_tracker._resource_tracker._fd)  # type: ignore[attr-defined]  # writing there can unlink names
    around = [os.environ[INSIDE]] if INSIDE in os.environ else []
    os.environ.clear()
    os.environ.update(cell.environment, OPENBLAS_NUM_THREADS="1")  # its threads would start before confinement
    import models.seams  # noqa: F401  # before confinement, as in PRELOADED
    from harness.player.play import play  # preloaded where players are forked

    if cell.cores and sys.platform == "linux":
        os.sched_setaffinity(0, cell.cores)
    try:
        limit_resources(cell.memory_bytes, file_bytes=LONGEST_OUTPUT if cell.writable else LONGEST_LOG)
        in_force = confine(
            *([Path(path) for path in paths] for paths in (cell.readable, cell.writable, cell.devices)),
            programs=cell.programs,
            network=cell.network,
        )
    except LlmbenchError as error:
        answers.send_bytes(json.dumps({"refused": str(error)}).encode())
        return
    # Recorded as open for GPUs even in bubblewrap: whether their ranks can connect inside it is not measured.
    is_open = cell.network and (not around or bool(cell.devices))
    names = sorted([*around, *in_force, *([NETWORK_OPEN] if is_open else [])])
    answers.send_bytes(json.dumps({"in_force": names}).encode())
    with suppress(EOFError, BrokenPipeError):  # the referee closed the pipe
        play(requests, answers)


def close_all_but(*descriptors: int) -> None:
    """Close all files that a forked process has inherited, except stdin, stdout, stderr and `descriptors`."""
    kept = [2, *sorted(descriptors), os.sysconf("SC_OPEN_MAX")]
    for before, after in pairwise(kept):
        os.closerange(before + 1, after)


def end_with_parent() -> None:
    """Make Linux kill this process when its parent ends. Elsewhere the closed pipe ends it at its next message.

    Call this before `close_all_but`: until then the parent, which is the fork server, cannot have ended.
    """
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)


def emit_lines() -> Callable[[BaseModel], Any]:
    """A function that writes events to stdout as JSON lines. All other output goes to stderr from now on."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return lambda event: lines.write(event.model_dump_json() + "\n")
