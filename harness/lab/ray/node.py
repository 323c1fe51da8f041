"""The task that Ray sends to a machine: unpack the sources, start a run of them, forward its events.

It is sent as it stands here and imports the standard library alone, so that a machine needs llmbench's packages but
no llmbench of its own.
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
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

REPORT_EVERY_S = 0.5
PATIENCE_S = 60.0  # for a checkpoint, once asked to stop


def run_on_node(archive: bytes, digest: str, request: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Events of one run as JSON, of steps that come fast the newest only; with the run come its files, by name.

    `archive` is a zip of the sources, `digest` its SHA-256, `request` a `harness.lab.ray.once.NodeRequest` as JSON.
    """
    root = unpack(archive, digest)
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}  # Ray's own
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.lab.ray.once"],
        cwd=root,
        env={**environment, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    errors: list[str] = []
    readers = (
        threading.Thread(target=_read, args=(process.stdout, lines), daemon=True),
        threading.Thread(target=errors.extend, args=(process.stderr,), daemon=True),
    )
    for reader in readers:
        reader.start()
    try:
        process.stdin.write(request)
        process.stdin.close()
        yield from _pass_on(lines)
        process.wait()
        readers[1].join(PATIENCE_S)
        ended = {"event": "ended", "code": process.returncode, "log": "".join(errors)[-300:].strip()}
        yield json.dumps(ended), {}
    finally:  # a cancelled task comes by here, a killed one takes its process along
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for reader in readers:
            reader.join()
        process.stdout.close()
        process.stderr.close()


def _read(stream: Iterable[str], lines: queue.SimpleQueue[str | None]) -> None:
    """Each line, and None after the last one."""
    for line in stream:
        lines.put(line)
    lines.put(None)


def _pass_on(lines: queue.SimpleQueue[str | None]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The process's events until its output ends."""
    told, waiting = 0.0, ""
    while True:
        try:
            line = lines.get(timeout=REPORT_EVERY_S) or "end"  # a wait without end would keep a cancellation out
        except queue.Empty:
            line = waiting
        if line and not line.endswith("\n"):
            return
        event = json.loads(line) if line else {"event": ""}
        waiting = line if event["event"] == "step" else ""
        if not line or (waiting and time.monotonic() - told < REPORT_EVERY_S):
            continue
        files = {}
        if event["event"] == "made":
            folder = Path(event["folder"])
            files = {path.name: path.read_bytes() for path in folder.glob("*") if path.suffix in KEPT}
            shutil.rmtree(folder, ignore_errors=True)
        told, waiting = time.monotonic(), ""
        yield line, files


KEPT = (".safetensors", ".log")


def unpack(archive: bytes, digest: str) -> Path:
    """The sources' folder on this machine: one for all runs of the same sources, so that their checkpoints are found.

    Raises PermissionError where another user has taken its place.
    """
    home = Path(tempfile.gettempdir()) / f"llmbench-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.stat().st_uid != os.getuid():
        raise PermissionError(f"{home} belongs to another user")
    root = home / digest[:16]
    if not root.exists():
        fresh = Path(tempfile.mkdtemp(dir=home))
        with zipfile.ZipFile(io.BytesIO(archive)) as sources:
            sources.extractall(fresh)
        try:
            fresh.rename(root)
        except OSError:  # another run was faster
            shutil.rmtree(fresh, ignore_errors=True)
    return root
