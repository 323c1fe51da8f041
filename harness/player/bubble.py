"""Runs the fork server (the process that starts the players) in bubblewrap, a sandbox that hides most files.

This is done in addition to `confine`, if bwrap (github.com/containers/bubblewrap) is installed and this user may create
namespaces. Files that `confine` only makes unreadable cannot even be seen in bubblewrap. Network, System V shared
memory and host name are separate from those of the machine. Process ids are the same as outside, because the referee
needs them to measure and kill players.
"""

from __future__ import annotations

import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import spawn
from multiprocessing.util import get_temp_dir
from pathlib import Path

from harness.core.project import CHECKOUT, sha256
from harness.player.confine import interpreter_paths

NAME = "bubblewrap"
INSIDE = "LLMBENCH_INSIDE"
START_S = 10.0  # limit of a trial start, which takes some 10 ms

_DEVICES = [Path("/dev") / name for name in ("null", "zero", "random", "urandom")]


@contextmanager
def bubble(devices: Iterable[Path] = ()) -> Iterator[None]:
    """A context in which multiprocessing starts processes in bubblewrap, if a trial start (made once) works.

    Processes in bubblewrap have the environment variable LLMBENCH_INSIDE.
    """
    script = _script(tuple(bubble_command(devices)))
    python = os.fsdecode(spawn.get_executable())
    try:
        if script:
            multiprocessing.set_executable(script)
        yield
    finally:
        multiprocessing.set_executable(python)


@cache
def _script(command: tuple[str, ...]) -> str | None:
    """Path of a script that starts Python by `command`; None if a trial start fails.

    The script is deleted when this process ends.
    """
    if not command:
        return None
    script = Path(get_temp_dir()) / f"{NAME}-{sha256(shlex.join(command).encode())[:8]}"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    script.chmod(0o700)
    return str(script) if _starts([str(script), "-V"]) else None


def bubble_command(devices: Iterable[Path] = ()) -> list[str]:
    """The command that starts Python in bubblewrap; empty if bwrap is not installed or LLMBENCH_BUBBLE is 0."""
    bwrap = shutil.which("bwrap")
    if sys.platform != "linux" or bwrap is None or os.environ.get("LLMBENCH_BUBBLE") == "0":
        return []
    # No --die-with-parent: it would end bwrap with the thread that started it. bwrap ends with the fork server, and
    # the fork server ends with this process.
    command = [bwrap, "--unshare-net", "--unshare-ipc", "--unshare-uts", "--cap-drop", "ALL"]
    command += ["--setenv", INSIDE, NAME]
    command += ["--tmpfs", "/tmp"]  # importing torch needs a writable folder
    as_named = ("/proc", "/lib", "/lib64", "/etc/localtime", sys.prefix, sys.base_prefix)  # may be links
    seen = [*map(Path, as_named), *_sources(), *interpreter_paths([])]
    readable: list[Path] = []
    for path in sorted(set(seen).difference(_DEVICES)):
        if not any(map(path.is_relative_to, readable)):
            readable.append(path)
            command += ["--ro-bind-try", str(path), str(path)]
    for path in (*_DEVICES, *devices):
        command += ["--dev-bind-try", str(path), str(path)]
    command += ["--dir", os.getcwd(), "--remount-ro", "/"]  # multiprocessing changes into this folder
    return [*command, "--", "setpriv", "--pdeathsig", "KILL", sys.executable]  # in case bwrap is killed


def bubble_works() -> bool:
    """Whether a program starts in bubblewrap on this machine."""
    command = bubble_command()
    return bool(command) and _starts([*command, "-V"])


def _sources() -> Iterator[Path]:
    """Paths of this checkout's packages and of the main script, which multiprocessing imports in each new process."""
    names = {"models", *(name.partition(".")[0] for name in sys.modules)}
    yield from (CHECKOUT / name for name in names if (CHECKOUT / name).is_dir())
    if script := getattr(sys.modules["__main__"], "__file__", None):
        yield Path(script).resolve()


def _starts(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=START_S, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
