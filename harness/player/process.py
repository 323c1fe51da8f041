"""The referee's side of a player's process: sends requests to it, enforces its limits, measures it from outside."""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, cast

import psutil
from pydantic import BaseModel, ValidationError

from harness.core.errors import InterruptedRunError, LlmbenchError
from harness.core.runs import RunFailedError
from harness.player.protocol import ANSWER, DONE, FAILED, LONGEST_REASON, LONGEST_WORD, REQUEST, Failure, Verb
from harness.player.start import PREPARE_S, Cell, start_method, start_player, starting

Record = TypeVar("Record", bound=BaseModel)

PATIENCE_S = 5.0  # time for a player to exit
STOP_S = 1.0  # time that a player has to answer when the run has to stop
WATCH_EVERY_S = 0.1
_SHORT, _LONG = struct.Struct("!i"), struct.Struct("!Q")  # lengths of messages, as in multiprocessing.connection
MOST_THREADS = 1000  # of a player; a machine allows some ten thousand in all
_KILLED_WITH_SERVER = 255  # multiprocessing's exit code if the fork server was killed
INTERRUPTED = "interrupted; finished runs and checkpoints of the others are kept, run the same command again to go on"


class Answered(NamedTuple):
    """A player's answer: its body, and the seconds that the player took for it."""

    body: bytes | memoryview
    """Valid until the player's next answer."""
    wall_s: float


class Player(AbstractContextManager["Player"]):
    """One player, as the referee uses it: starts the player's process, exchanges messages with it and ends it.

    A context manager. Every method that waits for the player raises RunFailedError if the player fails, LlmbenchError
    if it refuses to start, and InterruptedRunError if the run was stopped and the player gave no answer in time.
    """

    aliases: Mapping[str, str] = MappingProxyType({})
    """A variant's alias in the player -> its name, which replaces the alias in error messages."""

    def __init__(self, cell: Cell, log: Path, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Start the player, whose output goes to `log`. Raises LlmbenchError if no process can be started."""
        self.cell, self.log, self.should_stop = cell, log, should_stop
        self.is_built = False
        """Whether the player's model is built. Failures after that are failures of the run."""
        self._deadline: float | None = None
        self._memory = bytearray()
        self._cpu_s = 0.0
        self._killed_for: RunFailedError | InterruptedRunError | None = None
        self._ended = threading.Event()
        self._ended_for_memory = ended_for_memory()
        self._process, self._requests, self._answers = start_player(cell, log)
        self.started = time.perf_counter()
        self._outside: psutil.Process | None = None
        self._server: psutil.Process | None = None
        with suppress(psutil.Error):
            self._outside = psutil.Process(self.pid)
            self._server = self._outside.parent()
        with suppress(OSError):  # out of memory, Linux kills players before their referee
            Path(f"/proc/{self.pid}/oom_score_adj").write_text("1000")
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
        """Send a request, wait for its answer, and check the size of its body: `exactly` or `at_most` so many bytes."""
        self.tell(verb, body, rows=rows, columns=columns, number=number)
        return self.hear(exactly=exactly, at_most=at_most)

    def tell(self, verb: Verb, body: Any = b"", *, rows: int = 0, columns: int = 0, number: int = 0) -> None:
        """Send a request and return at once. Call `hear` to wait for the answer."""
        limit_s = PREPARE_S if verb in (Verb.BUILD, Verb.JOIN) else self.cell.silence_s
        self._asked = time.perf_counter()
        self._deadline = time.monotonic() + limit_s
        with suppress(OSError):  # then `hear` raises the cause
            self._requests.send_bytes(REQUEST.pack(verb, rows, columns, number))
            self._requests.send_bytes(body)

    def hear(self, *, exactly: int | None = None, at_most: int = LONGEST_WORD) -> Answered:
        """Wait for the answer to the request that `tell` sent last."""
        (kind,) = ANSWER.unpack(self._read(ANSWER.size, exact=True))
        if kind == FAILED:
            raise self._failure(bytes(self._read(LONGEST_WORD)))
        if kind != DONE:
            raise self._end_for(RunFailedError("error", "the run's process sent an invalid answer"))
        body = self._read(at_most if exactly is None else exactly, exact=exactly is not None)
        wall_s, self._deadline = time.perf_counter() - self._asked, None
        return Answered(body, wall_s)

    def read_json(self, kind: type[Record], answered: Answered) -> Record:
        """The JSON of an answer, as an object of the class `kind`. If the JSON is not valid, the player is ended."""
        try:
            return kind.model_validate_json(bytes(answered.body))
        except ValidationError as error:
            raise self._end_for(RunFailedError("error", "the run's process sent an invalid answer")) from error

    def cpu_s(self) -> float:
        """Processor seconds that the player used so far, measured from outside; after its end, the last value."""
        with suppress(OSError, psutil.Error):
            if sys.platform == "linux":
                self._cpu_s = time.clock_gettime(~self.pid << 3 | 2)  # the clock of another process: CPUCLOCK_SCHED
            elif self._outside is not None:
                times = self._outside.cpu_times()
                self._cpu_s = float(times.user + times.system)
        return self._cpu_s

    def freeze(self) -> None:
        """Suspend the player's process, so that it computes nothing while other players do."""
        with suppress(psutil.Error):
            if self._outside is not None:
                self._outside.suspend()

    def thaw(self) -> None:
        """Resume the player's process."""
        with suppress(psutil.Error):
            if self._outside is not None:
                self._outside.resume()

    def peak_memory_mib(self) -> int | None:
        """The player's largest resident memory so far, read from outside; None if the system does not report it."""
        with suppress(OSError, IndexError, ValueError):
            status = Path(f"/proc/{self.pid}/status").read_text()
            return max(1, int(status.partition("VmHWM:")[2].split()[0]) >> 10)
        return None

    def kill(self) -> None:
        """Kill the player's process and the programs that it started (none of them can leave its process group)."""
        with suppress(OSError):
            self._process.kill()
            if self.cell.programs and sys.platform != "win32":
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the player by killing its process. Nothing that it did after its last answer is used."""
        self._ended.set()
        with suppress(OSError):
            self._requests.close()
        self.kill()
        self._wait()
        self._answers.close()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _hear_confinement(self) -> tuple[str, ...]:
        """Names of the mechanisms that confine the player. It sends them first, before it gets a variant's code."""
        self._asked, self._deadline = time.perf_counter(), time.monotonic() + PREPARE_S
        try:
            said = json.loads(bytes(self._read(LONGEST_WORD)))
        except ValueError as error:
            raise self._end_for(RunFailedError("error", "the run's process sent an invalid answer")) from error
        self._deadline = None
        if "refused" in said:
            self.close()
            raise LlmbenchError(said["refused"])
        return (*said["in_force"],)

    def _read(self, num_bytes: int, *, exact: bool = False) -> bytes | memoryview:
        try:
            data = self._answers.recv_bytes(num_bytes) if sys.platform == "win32" else self._receive(num_bytes)
        except (EOFError, OSError) as error:  # the player ended, maybe within a message, or the message is too long
            too_long = self._answers.closed
            raise self._why_it_ended(too_long) from error
        if exact and len(data) != num_bytes:
            raise self._end_for(RunFailedError("error", "the run's process sent an answer of the wrong size"))
        return data

    def _receive(self, num_bytes: int) -> memoryview:
        """Read a message of at most `num_bytes`. The next message overwrites it, because a message may have 400 MB.

        A message begins with its length, as in multiprocessing's Connection: four bytes, or -1 in four bytes and then
        eight bytes for the length. Raises OSError if the message is longer than `num_bytes`.
        """
        (length,) = _SHORT.unpack(self._receive_exactly(bytearray(_SHORT.size)))
        if length == -1:
            (length,) = _LONG.unpack(self._receive_exactly(bytearray(_LONG.size)))
        if not 0 <= length <= num_bytes:
            self._answers.close()
            raise OSError("the message of the run's process is longer than allowed")
        if len(self._memory) < length:
            self._memory = bytearray(length)
        return self._receive_exactly(memoryview(self._memory)[:length])

    def _receive_exactly(self, into: bytearray | memoryview) -> memoryview:
        view, done = memoryview(into), 0
        while done < len(view):
            if not (count := os.readv(self._answers.fileno(), [view[done:]])):
                raise EOFError
            done += count
        return view

    def _failure(self, body: bytes) -> Exception:
        said = self.read_json(Failure, Answered(body, 0.0))
        reason = said.reason[:LONGEST_REASON]
        for alias, name in self.aliases.items():
            reason = reason.replace(f"'{alias}'", f"'{name}'")
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
        """The error that says why the player ended: by the referee, by itself, or by a signal from outside."""
        if too_long:
            return self._end_for(RunFailedError("error", "the run's process sent an answer that is too long"))
        code = self._wait()
        if self._killed_for is not None:
            return self._killed_for
        if self.should_stop():
            return InterruptedRunError(INTERRUPTED)
        if code == -signal.SIGKILL and ended_for_memory() != self._ended_for_memory:
            return RunFailedError(
                "error", "memory: the run's process was killed by signal 9 because no memory was left; use fewer --jobs"
            )
        if code == -signal.SIGKILL:  # no player can send this signal, not even to itself (confine.py)
            return RunFailedError(
                "interrupted", "the run's process was killed by signal 9 from outside, perhaps because memory ran out"
            )
        if code < 0:
            name = signal.Signals(-code).name if -code in [*signal.Signals] else f"signal {-code}"
            meaning = signal.strsignal(-code) or "unknown"
            return RunFailedError("error", f"the run's process crashed: {name} ({meaning.lower()})")
        return RunFailedError("error", f"the run's process ended with code {code} {self._last_line()}")

    def _last_line(self) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        lines = [line for line in text.splitlines() if line.strip()]
        return f"after: {lines[-1][:LONGEST_REASON]}" if lines else "and no message"

    def _wait(self) -> int:
        """The player's exit code, negative for a signal. A player that closed its pipe and does not exit is killed."""
        deadline = time.monotonic() + PATIENCE_S
        while self._is_alive():  # join() would wait for a pipe that the player may close
            if time.monotonic() > deadline:
                self._kill_for(RunFailedError("error", "the run's process closed its pipe and did not exit"))
                deadline += PATIENCE_S
            time.sleep(0.002)
        code = self._process.exitcode or 0
        return -signal.SIGKILL if code == _KILLED_WITH_SERVER and self._lost_its_server() else code

    def _is_alive(self) -> bool:
        with starting:
            return bool(self._process.is_alive())

    def _lost_its_server(self) -> bool:
        """Whether the fork server, which started the player, has ended, so that the player's exit code is unknown."""
        if start_method() != "forkserver" or not self.cell.forked or self._server is None:
            return False
        try:
            return self._server.status() == psutil.STATUS_ZOMBIE or not self._server.is_running()
        except psutil.Error:
            return True

    def _watch_over(self) -> None:
        """Kill the player if it is silent for too long or takes too much memory, or if the run has to stop."""
        stop_at: float | None = None
        while not self._ended.wait(WATCH_EVERY_S):
            now, deadline = time.monotonic(), self._deadline
            self.cpu_s()  # a recent reading, for a player that exits
            if self.should_stop():
                stop_at = stop_at or now + STOP_S
            if stop_at is not None and now > stop_at:
                self._kill_for(InterruptedRunError(INTERRUPTED))
            elif deadline is not None and now > deadline:
                limit = f"{self.cell.silence_s:.0f} s" if self.is_built else f"{PREPARE_S:.0f} s"
                self._kill_for(RunFailedError("error", f"silence: the run's process gave no answer for {limit}"))
            elif self.cell.memory_bytes is not None and self._resident_bytes() > self.cell.memory_bytes:
                gib = self.cell.memory_bytes / 2**30
                self._kill_for(RunFailedError("error", f"memory: the run's process took more than {gib:.1f} GiB"))
            elif self._num_threads() > MOST_THREADS:
                self._kill_for(RunFailedError("error", f"threads: the run's process started more than {MOST_THREADS}"))

    def _kill_for(self, error: RunFailedError | InterruptedRunError) -> None:
        if self._killed_for is None:
            self._killed_for = error
        self.kill()

    def _num_threads(self) -> int:
        with suppress(psutil.Error):
            if self._outside is not None:
                return int(self._outside.num_threads())
        return 0

    def _resident_bytes(self) -> int:
        with suppress(psutil.Error):
            if self._outside is not None:
                return int(self._outside.memory_info().rss)
        return 0


def ended_for_memory() -> int:
    """Number of processes that Linux killed because memory ran out, since this machine started."""
    with suppress(OSError, ValueError):
        return int(Path("/proc/vmstat").read_text().partition("\noom_kill ")[2].split("\n")[0])
    return 0
