"""Commands in forks of this process: a tenth of a new interpreter's time, and one fork server for all their players."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import harness.core.project
import harness.player.start
from harness.cli import main
from harness.core.terminal import stderr_console

Done = subprocess.CompletedProcess[str]
PATIENCE_S = 300
for name in ("PIL.Image", "matplotlib.backends.backend_agg", "scipy.special", "harness.cli.board", "harness.cli.run"):
    importlib.import_module(name)  # once, in place of once a command


@dataclass(frozen=True)
class Forked:
    """A command that runs."""

    arguments: tuple[str, ...]
    process_id: int
    files: tuple[IO[bytes], IO[bytes]]

    def wait(self) -> Done:
        _, status = os.waitpid(self.process_id, 0)
        said = []
        for file in self.files:
            with file:
                file.seek(0)
                said.append(file.read().decode())
        return Done(["llmbench", *self.arguments], os.waitstatus_to_exitcode(status), *said)


def fork(root: Path, arguments: tuple[str, ...], environment: Mapping[str, str], *, plays: bool = False) -> Forked:
    """Start `llmbench ARGUMENTS` in `root` in a fork of this process, which need not import anything.

    Its code is this checkout's, of which `root` holds a copy. If it `plays`, this process's fork server starts its
    players, as it does for the tests that start some themselves.
    """
    shares = plays and harness.player.start.start_method() == "forkserver"
    if shares:
        harness.player.start._start_server(harness.player.start.Cell())
    out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns where other threads live; the fork uses none of theirs
        child = os.fork()
    if not child:
        code = 1
        try:
            if shares:
                _use_the_parents_server()
            code = _live(root.resolve(), arguments, environment, out.fileno(), err.fileno())
        finally:
            os._exit(code)
    return Forked(arguments, child, (out, err))


def _use_the_parents_server() -> None:
    """Have multiprocessing ask the fork server of the parent, which it takes for a process that it must wait for.

    Players start in the folder `/`, as bubblewrap shows only that in which the server started, and without pytest.
    """
    from multiprocessing import forkserver, process, spawn

    told: Any = spawn.get_preparation_data

    def tell(name: str) -> dict[str, Any]:
        return {key: value for key, value in told(name).items() if not key.startswith("init_main")} | {"dir": "/"}

    spawn.get_preparation_data = tell
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    server.ensure_running = lambda: None
    harness.player.start._start_server = lambda cell: None
    process._children.clear()  # type: ignore[attr-defined]  # only the parent may collect theirs


def _live(root: Path, arguments: tuple[str, ...], environment: Mapping[str, str], out: int, err: int) -> int:
    """What a fresh interpreter would do with `python -m harness.cli ARGUMENTS`; its exit code."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(PATIENCE_S)
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(root)
    os.environ.clear()
    os.environ.update(environment)
    harness.core.project.CHECKOUT = root
    stderr_console.cache_clear()  # a test may have made it for another environment
    warnings.resetwarnings()  # to pytest they are errors
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)
    sys.argv = ["llmbench", *arguments]
    code: Any = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:  # noqa: BLE001  # as the interpreter does
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 1
