"""One question about many things, asked on all cores where there are many of them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Thing = TypeVar("Thing")


Answer = TypeVar("Answer")


FEW = 200  # below it two processes take longer to start than one to answer (a submission's check takes 5 ms)


_ask: Callable[[Any], Any] | None = None


def answer_all(ask: Callable[[Thing], Answer], things: Sequence[Thing]) -> list[Answer]:
    """`ask` of each thing, in order. What it raises is raised here.

    The processes are forks, so `ask` may be any closure, and what it has loaded is there; only Linux forks safely.
    """
    global _ask
    cores = available_cores()
    if len(things) < FEW or cores == 1 or sys.platform != "linux":
        return [ask(thing) for thing in things]
    import gc
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    _ask, first = ask, ask(things[0])  # what asking loads is loaded before the fork
    gc.freeze()  # or every child's collector would walk, and so copy, all that was loaded before the fork
    try:
        with ProcessPoolExecutor(cores, multiprocessing.get_context("fork"), _end_quietly) as pool:
            return [first, *pool.map(_answer, things[1:], chunksize=max(1, len(things) // (16 * cores)))]
    finally:
        gc.unfreeze()
        _ask = None


def _end_quietly() -> None:
    """Ctrl-C reaches every process; one of them says so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _answer(thing: Any) -> Any:
    assert _ask is not None
    return _ask(thing)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
