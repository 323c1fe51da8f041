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
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

PATIENCE_S = 60.0  # for a checkpoint, once asked to stop


def run_on_node(archive: bytes, digest: str, request: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Events of one run as JSON; with the run come its files, by name.

    `archive` is a zip of the sources, `digest` its SHA-256, `request` a `NodeRequest` (remote_run.py) as JSON.
    """
    root = unpack(archive, digest)
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}  # Ray's own
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
        finally:  # a cancelled task comes by here, a killed one takes its process along
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
            reader.join()


def _read(stream: Iterable[str], lines: queue.SimpleQueue[str]) -> None:
    """Each line, and an empty one after the last."""
    for line in stream:
        lines.put(line)
    lines.put("")


def _pass_on(lines: queue.SimpleQueue[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The process's events until its output ends, maybe in the middle of one."""
    while True:
        try:
            line = lines.get(timeout=0.5)  # a wait without end would keep a cancellation out
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
