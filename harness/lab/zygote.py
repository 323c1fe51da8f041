"""Workers without the wait for torch: one process imports it once and forks a worker for each job.

It runs no variant's code itself, so each worker starts from the same clean memory. Both ends of the pipe between it
and its executor are in this file: a request is a JSON line; the answer is the worker's events and, once it has ended,
its exit code.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.core.schema import Strict
from harness.player.job import Job
from harness.player.process import close_all_but, exit_code, fork, run_worker

PRELOADED = ("safetensors.torch", "harness.player.train", "harness.referee.evaluate")


STOP = b"stop\n"


class Request(Strict):
    """One worker to fork."""

    module: str
    """Its `work` is called with the job."""
    job: Job
    log: str
    """Where its stderr is appended."""
    environment: dict[str, str]


class Zygote:
    """The executor's end. One worker at a time."""

    def __init__(self, log: Path) -> None:
        """Start the process; what keeps it from starting is appended to `log`."""
        with log.open("a", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "harness.lab.zygote"],
                cwd=Path(__file__).resolve().parents[2],
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # threads started before a fork would not survive it
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C reaches the command alone, which passes it on
            )

    @property
    def alive(self) -> bool:
        """Whether it can fork another worker."""
        return self._process.poll() is None

    def start(self, request: Request) -> None:
        """Have a worker forked."""
        self._write(request.model_dump_json().encode() + b"\n")

    def events(self) -> Iterator[dict[str, Any]]:
        """What the worker says; the last event is `ended` with its exit code, negative for a signal."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                event = json.loads(line)
            except ValueError:  # a worker was killed in the middle of a word
                continue
            yield event
            if event["event"] == "ended":
                return
        yield {"event": "ended", "code": self._process.wait()}

    def stop(self) -> None:
        """Send the worker SIGTERM."""
        self._write(STOP)

    def close(self) -> None:
        """End the process, and with it what it still runs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then there is no answer either
            while line:
                line = line[os.write(self._process.stdin.fileno(), line) :]


_idle: list[Zygote] = []  # they outlive the executor that started them: the next look needs one again


@contextmanager
def zygote(log: Path) -> Iterator[Zygote]:
    """Lends an idle zygote, or a new one; one whose worker is left alone ends with it."""
    lent = _pop_idle() or Zygote(log)
    try:
        yield lent
    except BaseException:
        lent.close()
        raise
    _idle.append(lent)


def _pop_idle() -> Zygote | None:
    while _idle:
        with suppress(IndexError):  # another thread was faster
            found = _idle.pop()
            if found.alive:
                return found
            found.close()
    return None


@atexit.register
def close_idle() -> None:
    """End the zygotes that nobody uses."""
    while _idle:
        _idle.pop().close()


def main() -> None:
    """Fork a worker for each request until there are no more to come; then what still runs is killed."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole family they are for the worker
        signal.signal(number, signal.SIG_IGN)
    for name in PRELOADED:
        importlib.import_module(name)
    requests = b""
    while part := os.read(0, 1 << 16):
        requests += part
        while b"\n" in requests:
            line, requests = requests.split(b"\n", 1)
            if line + b"\n" != STOP:  # that came too late: its worker has ended
                requests = _run(Request.model_validate_json(line), requests)
    os._exit(0)  # torch takes its time to tidy up


def _run(request: Request, requests: bytes) -> bytes:
    """One worker from its fork to its end; returns what was read beyond it."""
    ended, told = os.pipe()  # the worker holds `told` until it dies
    worker = fork(lambda: _work(request, told))
    os.close(told)
    while ended not in select.select([0, ended], [], [])[0]:
        part = os.read(0, 1 << 16)
        if not part:  # the executor is gone
            os.kill(worker, signal.SIGKILL)
            os._exit(1)
        requests += part
        while requests.startswith(STOP):
            requests = requests[len(STOP) :]
            os.kill(worker, signal.SIGTERM)
    os.close(ended)
    os.write(1, b"\n" + json.dumps({"event": "ended", "code": exit_code(worker)}).encode() + b"\n")
    return requests


def _work(request: Request, told: int) -> None:
    """The worker's life, from a memory in which nothing but imports has happened."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(request.log, os.O_WRONLY | os.O_APPEND), 2)
    close_all_but(told)
    os.environ.clear()
    os.environ.update(request.environment)
    run_worker(importlib.import_module(request.module).work, request.job)


if __name__ == "__main__":
    main()
