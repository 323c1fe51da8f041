"""A script that supervises one run: it starts the command, measures its time, and ends it if it exceeds its time limit.

The script imports nothing from llmbench, so that its text can be sent to a machine of a cluster. It reads a JSON line
with the keys command, cwd, environment, log, cores and timeout_s from stdin, and writes a JSON line with the keys code,
wall_s, cpu_s and timed_out to stdout. If stdin closes, the caller has ended or was killed, and the script ends the
command's processes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
PATIENCE_S = 5.0
"""Seconds between SIGTERM and SIGKILL."""


try:
    import psutil
except ImportError:  # a machine of a cluster may lack psutil; then only the command's process group is ended
    psutil = None


def adopt_orphans() -> None:
    """On Linux, become the parent of processes whose own parent ends, so that `family` finds all of them."""
    if psutil is not None:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def family() -> list[Any]:
    """All descendants of this process, also those in a session of their own, such as torchrun's workers."""
    return psutil.Process().children(recursive=True) if psutil else []


def reap(leader: int) -> None:
    """Collect child processes that have ended, so that they do not remain as zombies; `leader` is left out."""
    for child in psutil.Process().children() if psutil else []:
        if child.pid != leader:  # the main thread collects the exit code of `leader`
            with contextlib.suppress(OSError):
                os.waitpid(child.pid, os.WNOHANG)


def lives(member: Any) -> bool:
    try:
        return bool(member.is_running() and member.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def end(process: subprocess.Popen[bytes], *, whole: bool) -> None:
    """End a command's processes with SIGTERM and, if they have not ended after some seconds, with SIGKILL.

    These are all its descendants if `whole` is true, else only the processes in its process group.
    """
    for number, patience_s in ((signal.SIGTERM, PATIENCE_S), (getattr(signal, "SIGKILL", signal.SIGTERM), 0)):
        members = family() if whole else []
        try:
            os.killpg(process.pid, number)
        except (OSError, AttributeError):
            if process.returncode is None:
                process.kill()
        for member in members:
            try:
                member.send_signal(number)
            except psutil.Error:  # the process has ended
                continue
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and (is_group(process.pid) or any(map(lives, members))):
            time.sleep(0.05)
            reap(process.pid)


def is_group(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except (OSError, AttributeError):
        return False
    return True


def main() -> None:
    adopt_orphans()
    request = json.loads(sys.stdin.readline())
    if request["cores"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request["cores"])
    with open(request["log"], "wb") as log:
        begun = time.monotonic()
        process = subprocess.Popen(
            request["command"],
            shell=True,
            cwd=request["cwd"],
            env={**os.environ, **request["environment"]},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    why: list[str] = []

    def watch() -> None:
        sys.stdin.read()
        why.append("gone")
        end(process, whole=True)

    def stop() -> None:
        why.append("time")
        end(process, whole=True)

    threading.Thread(target=watch, daemon=True).start()
    timer = threading.Timer(request["timeout_s"] or threading.TIMEOUT_MAX, stop)
    timer.daemon = True
    timer.start()
    if hasattr(os, "wait4"):
        _, status, used = os.wait4(process.pid, 0)
        code, cpu_s = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        process.returncode = code
    else:
        code, cpu_s = process.wait(), None
    wall_s = time.monotonic() - begun
    timer.cancel()
    end(process, whole="time" in why or "gone" in why)  # the command may have left processes in its group
    said = {"code": code, "wall_s": wall_s, "cpu_s": cpu_s, "timed_out": "time" in why}
    with contextlib.suppress(BrokenPipeError):  # the caller is gone
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
    os._exit(0)  # the thread that reads stdin does not end by itself


if __name__ == "__main__":
    main()
