"""The task that Ray sends to a machine: it unpacks the sources, starts a run with them, and forwards the run's events.

Ray sends the code of this file, which therefore imports only the standard library. The run uses the sources that were
sent, even if the machine has another version of llmbench.
"""

from __future__ import annotations

import io
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

PATIENCE_S = 60.0  # seconds that a run has to write a checkpoint after the request to stop


def run_on_node(archive: bytes, digest: str, request: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Make one run. Yields (event as JSON, files). Only the event with the result has files: name -> content.

    `archive` is a zip of the sources, `digest` its SHA-256, `request` a `NodeRequest` (remote_run.py) as JSON.
    """
    root = unpack(archive, digest)
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}  # Ray sets it
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    with (
        tempfile.TemporaryFile("w+", errors="replace") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "harness.lab.ray.remote_run"],
            cwd=root,
            env={**environment, "PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        assert process.stdin is not None
        reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
        reader.start()
        try:
            process.stdin.write(request)
            process.stdin.close()
            yield from _pass_on(lines)
            process.wait()
            errors.seek(0)
            ended = {"event": "ended", "code": process.returncode, "log": errors.read()[-300:].strip()}
            yield json.dumps(ended), {}
        finally:  # reached if Ray cancels the task; if Ray kills the task, its process is killed too
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
            reader.join()


def _read(stream: Iterable[str], lines: queue.SimpleQueue[str]) -> None:
    """Put each line of `stream` into `lines`, and at the end an empty string."""
    for line in stream:
        lines.put(line)
    lines.put("")


def _pass_on(lines: queue.SimpleQueue[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the events in `lines`, the output of the process that makes the run, with the files of each event.

    Ends with the output. An incomplete last event is dropped.
    """
    while True:
        try:
            line = lines.get(timeout=0.5)  # a wait without a limit would block a cancellation
        except queue.Empty:
            continue
        if not line.endswith("\n"):
            return
        event, files = json.loads(line), {}
        if event["event"] == "made":
            folder = Path(event["folder"])
            files = {path.name: path.read_bytes() for path in folder.glob("*") if path.suffix in KEPT}
            shutil.rmtree(folder, ignore_errors=True)
        yield line, files


KEPT = (".safetensors", ".log")


def unpack(archive: bytes, digest: str) -> Path:
    """Unpack the sources into a folder, and return it.

    All runs with these sources get the same folder, so that a run that is started again finds its checkpoint. Raises
    PermissionError if the folder belongs to another user.
    """
    home = Path(tempfile.gettempdir()) / f"llmbench-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.stat().st_uid != os.getuid():
        raise PermissionError(
            f"on a machine of the cluster, the folder {home} belongs to another user; ask an administrator to remove it"
        )
    root = home / digest[:16]
    if not root.exists():
        fresh = Path(tempfile.mkdtemp(dir=home))
        with zipfile.ZipFile(io.BytesIO(archive)) as sources:
            sources.extractall(fresh)
        try:
            fresh.rename(root)
        except OSError:  # another run made it first
            shutil.rmtree(fresh, ignore_errors=True)
    return root
