"""A process of the fork server that looks around: `python -m tests.player.bubbled PRIVATE`.

It prints what surrounds it, what of the machine it sees, its environment, and where it could write.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from harness.core.project import CHECKOUT
from harness.player.bubble import INSIDE
from harness.player.start import Cell, _start_server


def look(private: str, pipe: Connection) -> None:
    seen = [name for name in ("runs", "submissions", ".git", "docs", "harness") if (CHECKOUT / name).exists()]
    seen += [name for name in (private, "/home", "/var", "/etc/shadow") if Path(name).exists()]
    folders = [str(folder) for folder in (CHECKOUT / "harness", sys.prefix, "/", "/etc")]
    writable = [folder for folder in folders if os.access(folder, os.W_OK)]
    started_with = Path("/proc/self/environ").read_bytes().decode().split("\0")
    names = [line.partition("=")[0] for line in started_with]
    around = os.environ.get(INSIDE, "")
    pipe.send([around, seen, writable, names, [name for _, name in socket.if_nameindex()], os.getpid()])
    signal.pause()


def main() -> None:
    _start_server(Cell())
    context = multiprocessing.get_context("forkserver")
    pipe, theirs = context.Pipe(duplex=False)
    process = context.Process(target=look, args=(sys.argv[1], theirs))
    process.start()
    theirs.close()
    found = pipe.recv()
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    sys.stdout.write(json.dumps([*found, process.pid, process.exitcode]))


if __name__ == "__main__":
    main()
