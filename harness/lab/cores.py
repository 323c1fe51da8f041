"""Reserves cores for a run, so that runs that train at the same time do not slow each other down."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import filelock
import platformdirs


@contextmanager
def reserve_cores(count: int) -> Iterator[tuple[int, ...]]:
    """Reserve `count` cores for a run, and yield their numbers. Until the run ends, no other run can reserve them.

    If fewer cores are free, no core is reserved, and the operating system decides on which cores the run works.
    """
    if not hasattr(os, "sched_getaffinity"):
        yield ()
        return
    folder = Path(platformdirs.user_cache_dir("llmbench", appauthor=False)) / "cores"
    found: list[int] = []
    with ExitStack() as locks:
        with suppress(OSError):  # the folder cannot be written, so nothing is reserved
            folder.mkdir(parents=True, exist_ok=True)
            for core in sorted(os.sched_getaffinity(0)):
                if len(found) == count:
                    break
                lock = filelock.FileLock(folder / f"{core}.lock", timeout=0)
                with suppress(filelock.Timeout):
                    locks.enter_context(lock)
                    found.append(core)
        if len(found) < count:
            locks.close()
            found = []
        yield tuple(found)
