"""One run of a trainer: the request for it, and its result, which is a number or the reason why there is none."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, TypeAdapter

from harness.compare.arms import ArmName
from harness.core.runs import Machine
from harness.core.schema import Count, Line, Positive, Sha256, Strict

SUPERVISOR = Path(__file__).with_name("supervise.py")
Number = Annotated[float, Field(ge=-1e100, le=1e100)]
Kind = Literal["crashed", "no_number", "timeout"]
NOT_FOUND = (126, 127)  # exit codes of a shell: the command cannot be started, or was not found
FULL = "No space left on device"


class TrialFacts(Strict):
    """The fields of every run, finished or failed."""

    arm: ArmName
    seed: Count
    began: str
    """Start of the run in UTC, as ISO 8601."""
    wall_s: float
    """Wall-clock time of the run in seconds."""
    cpu_s: float | None
    """Processor seconds of the command and of the children that it waited for; None if the system reports none."""
    tries: Positive
    """How often this run was made. The next llmbench command makes a failed run again."""
    session: str
    """Id of the llmbench command that made the run. Times are compared only between runs with the same id."""
    machine: Machine
    reading: Sha256
    """Digest of the settings that said how to read the run's number."""


class FinishedTrial(TrialFacts):
    """A run with a number."""

    status: Literal["finished"]
    value: Number
    also: dict[str, Number]
    """Further numbers, which are shown but not judged: name -> number."""
    curve: tuple[tuple[Number, Number], ...]
    """The points of the curve, each (step, number)."""
    trace: Sha256
    """Digest of all numbers of the run. If two seeds of an arm have the same digest, the trainer ignores its seed."""


class FailedTrial(TrialFacts):
    """A run without a number."""

    status: Literal["failed"]
    kind: Kind
    reason: Line
    tail: tuple[Line, ...]
    """The last lines of the run's output."""


Trial = Annotated[FinishedTrial | FailedTrial, Field(discriminator="status")]
TRIAL: TypeAdapter[FinishedTrial | FailedTrial] = TypeAdapter(Trial)


class Request(NamedTuple):
    """A command for a supervisor (supervise.py), and how to run it."""

    command: str
    cwd: Path
    environment: Mapping[str, str]
    log: Path
    cores: tuple[int, ...]
    timeout_s: float | None

    def line(self) -> str:
        """The JSON line that the supervisor reads."""
        content = self._asdict() | {"cwd": str(self.cwd), "log": str(self.log), "environment": dict(self.environment)}
        return json.dumps(content) + "\n"


class Ended(Strict):
    """A supervisor's report about a command that has ended."""

    code: int
    """Exit code; if a signal ended the command, minus the signal's number."""
    wall_s: float
    cpu_s: float | None
    timed_out: bool


class Supervised:
    """A command that runs under a supervisor (supervise.py). If llmbench ends, the supervisor ends the command."""

    def __init__(self, request: Request) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(SUPERVISOR)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches only llmbench, which then ends the run
        )
        assert self._process.stdin is not None
        self._process.stdin.write(request.line())
        self._process.stdin.flush()

    def stop(self) -> None:
        """Tell the supervisor to end its command."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self, poll_s: float | None = None) -> Ended | None:
        """Wait at most `poll_s` seconds, and return the supervisor's report; None if the supervisor ended without a
        report. Raises TimeoutExpired if the supervisor has not ended by then.
        """
        self._process.wait(poll_s)
        assert self._process.stdout is not None
        with self._process.stdout as said:
            line = said.read()
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        return Ended.model_validate_json(line) if line.strip() else None


def now() -> str:
    """The present time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
