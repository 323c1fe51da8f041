"""Training in a process of its own that is killed at a chosen moment, for test_crashes.py and benchmarks/kills.py."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
PAIR = ("base", "base+token_smear")
# What a pair needs, as one process that is not this one: the runs of `llmbench run`, with a checkpoint more often.
# It stops itself (SIGSTOP) at the event that it is told, so that whoever kills it there finds it there.
COMMAND = """
import json, os, signal, sys
from harness.lab.store import RunStore
from harness.core.project import Project
from harness.core.track import load_track

def tell(run, event):
    # One write a line: two threads tell.
    global stop_event
    step = getattr(event, "step", 0)
    sys.stdout.write(json.dumps([run.recipe, event.event, step]) + chr(10))
    sys.stdout.flush()
    has_checkpoint = any(project.root.glob("runs/**/checkpoint"))
    if event.event == stop_event and step >= int(stop_step) and (not step or has_checkpoint):
        stop_event = ""
        os.kill(os.getpid(), signal.SIGSTOP)

project = Project.find()
track, every_s, stop_event, stop_step, *recipes = sys.argv[1:]
store = RunStore(project, load_track(project, track), jobs=2, checkpoint_every_s=float(every_s), observe=tell)
store.make([store.identify(recipe, 0) for recipe in recipes])
"""


def checkout(root: Path) -> Path:
    """A copy of the code in which nothing is trained yet."""
    for folder in ("harness", "models", "tracks"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def start(
    root: Path,
    track: str,
    recipes: tuple[str, ...] = PAIR,
    every_s: float = 0.2,
    stop_at: tuple[str, int] = ("", 0),
) -> subprocess.Popen[bytes]:
    """The pair's training in `root`, with a log of events in `root/events`.

    It stops itself at the event `stop_at` (its name, and the first step with a checkpoint behind it that counts).
    """
    with (root / "events").open("w") as events, (root / "errors").open("a") as errors:
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, track, str(every_s), stop_at[0], str(stop_at[1]), *recipes],
            cwd=root,
            stdout=events,
            stderr=errors,
            start_new_session=True,
        )


def finish(root: Path, track: str, recipes: tuple[str, ...] = PAIR) -> None:
    """Run the same command to its end."""
    if start(root, track, recipes).wait() != 0:
        raise SystemExit((root / "errors").read_text())


def descendants(process_id: int) -> dict[int, str]:
    """Process id -> command line of all processes beneath one."""
    found = {}
    for process in psutil.Process(process_id).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found[process.pid] = " ".join(process.cmdline())
    return found


def kill(process: subprocess.Popen[bytes], target: str, choose: random.Random) -> set[int]:
    """SIGKILL for the parent, for a player or their fork server, or for all at once; returns the others."""
    os.kill(process.pid, signal.SIGSTOP)  # it starts no process between listing and killing
    family = descendants(process.pid)
    players = [process_id for process_id, command in family.items() if "forkserver" in command]
    victims = {"tree": [*family, process.pid], "parent": [process.pid]}.get(target) or [choose.choice(players)]
    for process_id in victims:
        os.kill(process_id, signal.SIGKILL)
    if process.pid not in victims:
        os.kill(process.pid, signal.SIGCONT)
    process.wait()
    outlive({*victims} - {process.pid}, patience_s=30)  # a player that is still dying may hold the run's lock
    return {*family} - {*victims}


def outlive(family: set[int], patience_s: float) -> float:
    """Seconds until the last of these processes has ended. Raises TimeoutError when that takes too long."""
    begun = time.monotonic()
    while any(state(process_id) not in ("", psutil.STATUS_ZOMBIE) for process_id in family):
        if time.monotonic() - begun > patience_s:
            raise TimeoutError(f"after {patience_s} s some of {family} still run")
        time.sleep(0.02)
    return time.monotonic() - begun


def state(process_id: int) -> str:
    """What the system says of a process, in psutil's words; nothing where it is gone."""
    with suppress(psutil.NoSuchProcess):
        return str(psutil.Process(process_id).status())
    return ""


def progress(root: Path, *, first: bool = False) -> dict[str, str]:
    """Recipe -> how far its run is by the log of events; with `first`, where this session took it up."""
    found: dict[str, str] = {}
    for line in (root / "events").read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            recipe, event, step = json.loads(line)
            if event == "waiting":  # for the lock of a process that was killed and still ends
                continue
            if event == "step":
                event = f"step {step - 1}" if first else f"step {step}"
            if not first or recipe not in found:
                found[recipe] = event
    return found


def results(root: Path) -> dict[str, Any]:
    """Recipe -> everything that a run's bits decide: weights, losses and the curve, no times."""
    found = {}
    for path in root.glob("runs/*/*/*/seed-0/run.json"):
        run = json.loads(path.read_text())
        curve = [
            [point[key] for key in ("step", "train_loss_nats", "dev_loss_nats")] for point in run["training"]["curve"]
        ]
        scores = {key: run["evaluation"][key] for key in ("nats", "correct", "tokens")}
        found[run["recipe"]] = {"weights": run["training"]["weights_sha256"], "curve": curve, **scores}
    return found
