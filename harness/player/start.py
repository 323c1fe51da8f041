"""How players' processes start: in clean memory, with nothing private, confined before anything of a variant is there.

On Linux the standard library's fork server imports torch once and forks every player: it runs no variant's code and
holds no tokens, so each player starts from the same clean memory. Elsewhere, and where LLMBENCH_START says `spawn`, a
player is a fresh interpreter, which takes some seconds longer.
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

PRELOADED = ["harness.player.start", "harness.player.play", "models.gpt", "harness.cli"]
"""What the fork server imports; a player imports the main module once more, which is the program of `llmbench`."""
LONGEST_LOG = 4 << 20  # bytes that the players of a run may print
LONGEST_OUTPUT = 1 << 30  # bytes of each file of one that compiles
PIPE_BYTES = 1 << 20
PREPARE_S = 600.0  # to import, build, compile and warm up; a compiler takes minutes
LOG_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC  # a log of its own: who writes to it sees its length
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
starting = threading.Lock()
"""Held while a process starts, and while one is waited for: starting reads the exit codes of those that end."""


class Cell(Strict):
    """What a player's process may reach, and what it may use."""

    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    programs: bool = False
    """Whether it may start programs, as a compiler does."""
    network: bool = False
    """Whether it may connect to other ranks."""
    cores: tuple[int, ...] = ()
    """Cores that it is pinned to; empty for all."""
    memory_bytes: Positive | None = None
    forked: bool = True
    """Whether it may come from the fork server. What compiles does not: its folder is not in the bubble."""
    silence_s: float = PREPARE_S
    """Longest time to answer a batch."""
    environment: dict[str, str] = Field(default_factory=dict)


def start_method() -> StartMethod:
    """How players start here. Raises LlmbenchError where LLMBENCH_START names no way."""
    asked = os.environ.get("LLMBENCH_START", "")
    if asked not in ("", "forkserver", "spawn"):
        raise LlmbenchError(f"LLMBENCH_START is '{asked[:80]}'; set it to forkserver or spawn, or unset it")
    default = "forkserver" if sys.platform == "linux" else "spawn"  # a fork is not safe where torch has threads
    return cast(StartMethod, asked or default)


def start_player(cell: Cell, log: Path) -> tuple[Any, Connection, Connection]:
    """A player's process, and the referee's ends of its pipes: requests and answers.

    Raises LlmbenchError where no process can be started.
    """
    method = start_method() if cell.forked else "spawn"
    context: Any = multiprocessing.get_context(method)  # its stubs know no Process
    theirs_in, requests = context.Pipe(duplex=False)
    answers, theirs_out = context.Pipe(duplex=False)
    with suppress(ImportError, AttributeError, OSError):  # fewer turns for large answers, where the system allows it
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
        raise LlmbenchError(f"no player process can be started ({error}); try LLMBENCH_START=spawn") from error
    return process, requests, answers


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


@contextmanager
def _environment() -> Iterator[None]:
    """What starts within is given nothing private: a process can read what it, or its fork server, started with."""
    before = dict(os.environ)
    paths = os.pathsep.join([str(CHECKOUT), *filter(None, [before.get("PYTHONPATH")])])
    # Threads that a library starts before a fork would not survive it, and before confinement are none of its.
    mine = {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": paths, "LLMBENCH_START": before.get("LLMBENCH_START", "")}
    try:
        os.environ.clear()
        os.environ.update(player_environment(before) | mine)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _start_server(cell: Cell) -> None:
    """Have the fork server run, in a bubble where that works; nothing where it does already."""
    from multiprocessing import forkserver  # not on Windows

    forkserver.set_forkserver_preload(PRELOADED)
    with bubble(map(Path, cell.devices)), _environment():
        forkserver.ensure_running()


def _opened(log: Path) -> Any:
    """The log as a player gets it: open, for in a bubble it has no path. On Windows its path."""
    if sys.platform == "win32":
        return str(log)
    return Connection(os.open(log, LOG_FLAGS, 0o644), readable=False)


def _live(cell: Cell, log: Connection | str, requests: Connection, answers: Connection) -> None:
    """A player's process: it gives up what it must not have, says so, and plays."""
    end_with_parent()
    if sys.platform != "win32":
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # forgets one that waits: the command alone decides
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    descriptor = os.open(log, LOG_FLAGS) if isinstance(log, str) else log.fileno()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what was printed outlives a kill
    if cell.forked and start_method() == "forkserver":
        close_all_but(requests.fileno(), answers.fileno())
    elif sys.platform != "win32":
        from multiprocessing import resource_tracker

        os.close(resource_tracker._resource_tracker._fd)  # type: ignore[attr-defined]  # who writes there unlinks names
    around = [os.environ[INSIDE]] if INSIDE in os.environ else []
    os.environ.clear()
    os.environ.update(cell.environment, OPENBLAS_NUM_THREADS="1")  # its threads would come before confinement
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
    # Ranks of GPUs may need more of a network than a bubble has: nobody has measured it.
    is_open = cell.network and (not around or bool(cell.devices))
    names = sorted([*around, *in_force, *([NETWORK_OPEN] if is_open else [])])
    answers.send_bytes(json.dumps({"in_force": names}).encode())
    with suppress(EOFError, BrokenPipeError):  # the referee has asked all
        play(requests, answers)


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
