"""How players start, what the referee asks of them, and how they end.

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
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

import psutil
from pydantic import BaseModel, Field, ValidationError

from harness.core.errors import InterruptedRunError, LlmbenchError
from harness.core.project import CHECKOUT
from harness.core.runs import NETWORK_OPEN, RunFailedError
from harness.core.schema import Positive, Strict
from harness.player.bubble import INSIDE, bubble
from harness.player.confine import confine, limit_resources, player_environment
from harness.player.protocol import ANSWER, DONE, FAILED, LONGEST_REASON, LONGEST_WORD, REQUEST, Failure, Verb

StartMethod = Literal["forkserver", "spawn"]
Record = TypeVar("Record", bound=BaseModel)

PRELOADED = ["harness.player.play", "models.gpt"]
"""What the fork server imports. A player imports the main module once more."""
LONGEST_LOG = 4 << 20  # bytes that the players of a run may print
LONGEST_OUTPUT = 1 << 30  # bytes of each file of one that compiles
PREPARE_S = 600.0  # to import, build, compile and warm up; a compiler takes minutes
PATIENCE_S = 5.0  # for the end of a player that was told to end
STOP_S = 1.0  # for a player's answer once the run is to stop
WATCH_EVERY_S = 0.1
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_KILLED_WITH_SERVER = 255  # what multiprocessing says of a process whose fork server was killed

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_starting = threading.Lock()  # starting reads the exit codes of processes that others wait for


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


class Answered(NamedTuple):
    """A player's answer: its body, and the seconds that it took."""

    body: bytes
    wall_s: float


class Player(AbstractContextManager["Player"]):
    """The referee's end of one player; a context manager that leaves no process behind.

    Every method that waits for the player raises RunFailedError where it fails, LlmbenchError where it refuses to
    start, and InterruptedRunError where the run was stopped and it gave no answer in time.
    """

    def __init__(self, cell: Cell, log: Path, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Start it. `log` gets all that it prints. Raises LlmbenchError where no process can be started."""
        self.cell, self.log, self.should_stop = cell, log, should_stop
        self.is_built = False
        """Whether its model stands: what it says from then on is of the run."""
        self._deadline: float | None = None
        self._killed_for: RunFailedError | InterruptedRunError | None = None
        self._ended = threading.Event()
        method = start_method() if cell.forked else "spawn"
        context: Any = multiprocessing.get_context(method)  # its stubs know no Process
        theirs_in, self._requests = context.Pipe(duplex=False)
        self._answers, theirs_out = context.Pipe(duplex=False)
        self._process = context.Process(target=_live, args=(cell, _opened(log), theirs_in, theirs_out))
        try:
            with _starting, _without_interrupts(), theirs_in, theirs_out:
                if method == "forkserver":
                    _start_server(cell)
                with _environment():
                    self._process.start()
        except (OSError, EOFError) as error:
            raise LlmbenchError(f"no player process can be started ({error}); try LLMBENCH_START=spawn") from error
        self.started = time.perf_counter()
        self._outside: psutil.Process | None = None
        with suppress(psutil.NoSuchProcess):
            self._outside = psutil.Process(self.pid)
        self._watch = threading.Thread(target=self._watch_over, daemon=True)
        self._watch.start()
        self.confinement = self._hear_confinement()

    @property
    def pid(self) -> int:
        return cast(int, self._process.pid)

    def ask(
        self,
        verb: Verb,
        body: Any = b"",
        *,
        rows: int = 0,
        columns: int = 0,
        number: int = 0,
        exactly: int | None = None,
        at_most: int = LONGEST_WORD,
    ) -> Answered:
        """Ask, and wait for the answer, whose body has `exactly` so many bytes, or `at_most`."""
        self.tell(verb, body, rows=rows, columns=columns, number=number)
        return self.hear(exactly=exactly, at_most=at_most)

    def tell(self, verb: Verb, body: Any = b"", *, rows: int = 0, columns: int = 0, number: int = 0) -> None:
        """Ask without waiting: `hear` does."""
        limit_s = PREPARE_S if verb in (Verb.BUILD, Verb.JOIN) else self.cell.silence_s
        self._asked = time.perf_counter()
        self._deadline = time.monotonic() + limit_s
        with suppress(OSError):  # then hearing says why
            self._requests.send_bytes(REQUEST.pack(verb, rows, columns, number))
            self._requests.send_bytes(body)

    def hear(self, *, exactly: int | None = None, at_most: int = LONGEST_WORD) -> Answered:
        """The answer to what was told last."""
        (kind,) = ANSWER.unpack(self._read(ANSWER.size, exact=True))
        if kind == FAILED:
            raise self._failure(self._read(LONGEST_WORD))
        if kind != DONE:
            raise self._end_for(RunFailedError("error", "its process sent something that is no answer"))
        body = self._read(at_most if exactly is None else exactly, exact=exactly is not None)
        wall_s, self._deadline = time.perf_counter() - self._asked, None
        return Answered(body, wall_s)

    def read_json(self, kind: type[Record], answered: Answered) -> Record:
        """The record in an answer; what is none ends the player."""
        try:
            return kind.model_validate_json(answered.body)
        except ValidationError as error:
            raise self._end_for(RunFailedError("error", "its process sent something that is no answer")) from error

    def cpu_s(self) -> float:
        """Processor time of all that the player runs so far, read from outside."""
        if sys.platform == "linux":
            with suppress(OSError):
                return time.clock_gettime(~self.pid << 3 | 2)  # the clock of another process: CPUCLOCK_SCHED
        with suppress(psutil.Error):
            if self._outside is not None:
                times = self._outside.cpu_times()
                return float(times.user + times.system)
        return 0.0

    def freeze(self) -> None:
        """Stop its process where it is: what it does while others are asked is nothing."""
        with suppress(psutil.Error):
            if self._outside is not None:
                self._outside.suspend()

    def thaw(self) -> None:
        """Let its process go on."""
        with suppress(psutil.Error):
            if self._outside is not None:
                self._outside.resume()

    def peak_memory_mib(self) -> int | None:
        """Its largest resident memory so far, read from outside; None where the system does not tell."""
        with suppress(OSError, IndexError, ValueError):
            status = Path(f"/proc/{self.pid}/status").read_text()
            return max(1, int(status.partition("VmHWM:")[2].split()[0]) >> 10)
        return None

    def kill(self) -> None:
        """End its process at once, and the programs that it started: none can leave its group."""
        with suppress(OSError):
            self._process.kill()
            if self.cell.programs and sys.platform != "win32":
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """End it: what it does after the last answer counts for nothing."""
        self._ended.set()
        with suppress(OSError):
            self._requests.close()
        self.kill()
        self._wait()
        self._answers.close()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _hear_confinement(self) -> tuple[str, ...]:
        """The first message, sent before anything of a variant is there: what is in force."""
        self._asked, self._deadline = time.perf_counter(), time.monotonic() + PREPARE_S
        try:
            said = json.loads(self._read(LONGEST_WORD))
        except ValueError as error:
            raise self._end_for(RunFailedError("error", "its process sent something that is no answer")) from error
        self._deadline = None
        if "refused" in said:
            self.close()
            raise LlmbenchError(said["refused"])
        return (*said["in_force"],)

    def _read(self, num_bytes: int, *, exact: bool = False) -> bytes:
        try:
            data = self._answers.recv_bytes(num_bytes)
        except (EOFError, OSError) as error:  # it ended, maybe within a message, or the message is too long
            too_long = self._answers.closed
            raise self._why_it_ended(too_long) from error
        if exact and len(data) != num_bytes:
            raise self._end_for(RunFailedError("error", "its process sent an answer of another size than asked for"))
        return data

    def _failure(self, body: bytes) -> Exception:
        said = self.read_json(Failure, Answered(body, 0.0))
        reason = said.reason[:LONGEST_REASON]
        self.close()
        if said.status == "refused":
            return LlmbenchError(reason) if not self.is_built else RunFailedError("error", reason)
        if said.status == "error":
            reason = f"{reason} (full log: {self.log})"
        return RunFailedError(said.status, reason)

    def _end_for(self, error: RunFailedError) -> RunFailedError:
        self.close()
        return error

    def _why_it_ended(self, too_long: bool) -> Exception:
        """What ended the player: the referee, itself, or somebody else."""
        if too_long:
            return self._end_for(RunFailedError("error", "its process sent a longer answer than it may"))
        code = self._wait()
        if self._killed_for is not None:
            return self._killed_for
        if self.should_stop():
            return InterruptedRunError(INTERRUPTED)
        if code == -signal.SIGKILL:  # no player can send it, not even to itself (confine.py)
            return RunFailedError("interrupted", "killed by signal 9 from outside, perhaps for want of memory")
        if code < 0:
            name = signal.Signals(-code).name if -code in [*signal.Signals] else f"signal {-code}"
            meaning = signal.strsignal(-code) or "unknown"
            return RunFailedError("error", f"its process crashed: {name} ({meaning.lower()})")
        return RunFailedError("error", f"its process ended with code {code} {self._last_line()}")

    def _last_line(self) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        lines = [line for line in text.splitlines() if line.strip()]
        return f"after: {lines[-1][:LONGEST_REASON]}" if lines else "and no message"

    def _wait(self) -> int:
        """Its exit code, negative for a signal. A player that has ended its answers and lives on is killed."""
        with _starting:
            self._process.join(PATIENCE_S)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
        code = self._process.exitcode or 0
        if code == _KILLED_WITH_SERVER and start_method() == "forkserver":
            return -signal.SIGKILL
        return code

    def _watch_over(self) -> None:
        """Kill the player where it is silent for too long, takes too much memory, or the run is to stop."""
        stop_at: float | None = None
        while not self._ended.wait(WATCH_EVERY_S):
            now, deadline = time.monotonic(), self._deadline
            if self.should_stop():
                stop_at = stop_at or now + STOP_S
            if stop_at is not None and now > stop_at:
                self._kill_for(InterruptedRunError(INTERRUPTED))
            elif deadline is not None and now > deadline:
                limit = f"{self.cell.silence_s:.0f} s" if self.is_built else f"{PREPARE_S:.0f} s"
                self._kill_for(RunFailedError("error", f"silence: its process gave no answer for {limit}"))
            elif self.cell.memory_bytes is not None and self._resident_bytes() > self.cell.memory_bytes:
                gib = self.cell.memory_bytes / 2**30
                self._kill_for(RunFailedError("error", f"memory: its process took more than {gib:.1f} GiB"))

    def _kill_for(self, error: RunFailedError | InterruptedRunError) -> None:
        if self._killed_for is None:
            self._killed_for = error
        self.kill()

    def _resident_bytes(self) -> int:
        with suppress(psutil.Error):
            if self._outside is not None:
                return int(self._outside.memory_info().rss)
        return 0


INTERRUPTED = (
    "interrupted; finished runs are kept and started ones have a checkpoint, run the same command again to go on"
)


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
    return Connection(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), readable=False)


def _live(cell: Cell, log: Connection | str, requests: Connection, answers: Connection) -> None:
    """A player's process: it gives up what it must not have, says so, and plays."""
    end_with_parent()
    if sys.platform != "win32":
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # forgets one that waits: the command alone decides
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if isinstance(log, str) else log.fileno()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what was printed outlives a kill
    if cell.forked and start_method() == "forkserver":
        close_all_but(requests.fileno(), answers.fileno())
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
