"""bubblewrap around the fork server: its players see a file system that holds little else than what they may read.

It is one wall more around `confine`, where the machine has bwrap (github.com/containers/bubblewrap) and lets this user
make namespaces: files that Landlock would refuse have no name or size here either, the network is its own, and so are
System V's shared memory and the host's name. Process ids are the machine's: the referee reads and ends players by them.
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
START_S = 10.0  # a start takes some 10 ms; one that does not answer does not work

_DEVICES = [Path("/dev") / name for name in ("null", "zero", "random", "urandom")]


@contextmanager
def bubble(devices: Iterable[Path] = ()) -> Iterator[None]:
    """What multiprocessing starts within runs in a bubble, where that works: each is tried once by a real start.

    A process finds the bubble's name in its environment, as INSIDE.
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
    """A program that starts Python in this bubble, kept until this process ends; None where it does not work."""
    if not command:
        return None
    script = Path(get_temp_dir()) / f"{NAME}-{sha256(shlex.join(command).encode())[:8]}"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    script.chmod(0o700)
    return str(script) if _starts([str(script), "-V"]) else None


def bubble_command(devices: Iterable[Path] = ()) -> list[str]:
    """What starts Python in a bubble; nothing without bwrap, or where LLMBENCH_BUBBLE is 0."""
    bwrap = shutil.which("bwrap")
    if sys.platform != "linux" or bwrap is None or os.environ.get("LLMBENCH_BUBBLE") == "0":
        return []
    # It ends with the command, as its fork server does. --die-with-parent would end it with the thread that started it.
    command = [bwrap, "--unshare-net", "--unshare-ipc", "--unshare-uts", "--cap-drop", "ALL"]
    command += ["--setenv", INSIDE, NAME]
    command += ["--tmpfs", "/tmp"]  # importing torch looks for a folder to write to
    as_named = ("/proc", "/lib", "/lib64", "/etc/localtime", sys.prefix, sys.base_prefix)  # these may be links
    seen = [*map(Path, as_named), *_sources(), *interpreter_paths([])]
    readable: list[Path] = []
    for path in sorted(set(seen).difference(_DEVICES)):
        if not any(map(path.is_relative_to, readable)):
            readable.append(path)
            command += ["--ro-bind-try", str(path), str(path)]
    for path in (*_DEVICES, *devices):
        command += ["--dev-bind-try", str(path), str(path)]
    command += ["--dir", os.getcwd(), "--remount-ro", "/"]  # multiprocessing changes into it
    return [*command, "--", "setpriv", "--pdeathsig", "KILL", sys.executable]  # where bwrap is killed


def bubble_works() -> bool:
    """Whether a program starts in a bubble here."""
    command = bubble_command()
    return bool(command) and _starts([*command, "-V"])


def _sources() -> Iterator[Path]:
    """The checkout's packages, and the script that was started: a process of multiprocessing imports it."""
    names = {"models", *(name.partition(".")[0] for name in sys.modules)}
    yield from (CHECKOUT / name for name in names if (CHECKOUT / name).is_dir())
    if script := getattr(sys.modules["__main__"], "__file__", None):
        yield Path(script).resolve()


def _starts(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=START_S, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
