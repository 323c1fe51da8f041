"""One run of a trainer: where it lies, what it said, and the number that it has, or why it has none."""

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
NOT_FOUND = (126, 127)  # of a shell: the command cannot be started, or is not there
FULL = "No space left on device"


class TrialFacts(Strict):
    """What every run says of itself."""

    arm: ArmName
    seed: Count
    began: str
    """UTC, ISO 8601."""
    wall_s: float
    cpu_s: float | None
    """Processor time of the command and what it waited for; None where the system does not tell."""
    tries: Positive
    """Times that it was run: a run without a number is made again by the next command."""
    session: str
    """Of the command that made it. Times are compared between the two runs of one session."""
    machine: Machine
    reading: Sha256
    """Digest of the settings that say how its number is read."""


class FinishedTrial(TrialFacts):
    """A run with a number."""

    status: Literal["finished"]
    value: Number
    also: dict[str, Number]
    """Further numbers, shown and not judged."""
    curve: tuple[tuple[Number, Number], ...]
    """(step, number)."""
    trace: Sha256
    """Digest of all its numbers. Two seeds of one arm that have the same are one run."""


class FailedTrial(TrialFacts):
    """A run without a number."""

    status: Literal["failed"]
    kind: Kind
    reason: Line
    tail: tuple[Line, ...]
    """The end of what it printed."""


Trial = Annotated[FinishedTrial | FailedTrial, Field(discriminator="status")]
TRIAL: TypeAdapter[FinishedTrial | FailedTrial] = TypeAdapter(Trial)


class Request(NamedTuple):
    """What a supervisor is asked for."""

    command: str
    cwd: Path
    environment: Mapping[str, str]
    log: Path
    cores: tuple[int, ...]
    timeout_s: float | None

    def line(self) -> str:
        """As the supervisor reads it."""
        content = self._asdict() | {"cwd": str(self.cwd), "log": str(self.log), "environment": dict(self.environment)}
        return json.dumps(content) + "\n"


class Ended(Strict):
    """What a supervisor says of a command that has ended."""

    code: int
    """Exit code, negative for a signal."""
    wall_s: float
    cpu_s: float | None
    timed_out: bool


class Supervised:
    """A command that runs under its supervisor, and ends with it."""

    def __init__(self, request: Request) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(SUPERVISOR)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for llmbench, which then ends the run
        )
        assert self._process.stdin is not None
        self._process.stdin.write(request.line())
        self._process.stdin.flush()

    def stop(self) -> None:
        """Have it end its command; `wait` then returns None."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self, poll_s: float | None = None) -> Ended | None:
        """What it says at its end, or None if it ended without a word. Raises TimeoutExpired after `poll_s`."""
        self._process.wait(poll_s)
        assert self._process.stdout is not None
        with self._process.stdout as said:
            line = said.read()
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        return Ended.model_validate_json(line) if line.strip() else None


def now() -> str:
    """UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
