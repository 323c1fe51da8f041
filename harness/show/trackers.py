"""Sends curves and scores of runs to experiment trackers such as TensorBoard.

Each tracker runs in a separate thread. Therefore, if a tracker fails or hangs, its log is incomplete, but no run is
lost. To add a tracker, write a function that starts the log of one run in that tracker, and add it to TRACKERS.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from harness.board.metrics import METRICS
from harness.core.errors import LlmbenchError, did_you_mean, one_line
from harness.core.events import Done, RunEvent, Step
from harness.core.project import Project, make_folder, sha256
from harness.core.runs import FinishedRun, RunIdentity
from harness.core.track import Track
from harness.rule.verdict import Verdict

PROJECT = "llmbench"
PATIENCE_S = 30.0  # seconds to wait at the end until everything is sent

Values = Mapping[str, float]


class Page(NamedTuple):
    """The page of one run in a tracker."""

    log: Callable[[int, Values], None]
    """Takes a training step and its numbers. Steps may come out of order."""
    close: Callable[[], None]


Config = Mapping[str, Any]
Tracker = Callable[[str, str, Config], Page]
"""Opens the page of a run. Takes the page's name, a key that identifies the run, and the run's configuration."""


def open_tensorboard(folder: Path, name: str, key: str, config: Config) -> Page:
    """A page of TensorBoard: a folder with event files, under `folder`.

    `tensorboard --logdir FOLDER` shows the page (tensorflow.org/tensorboard).
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    own = folder / "tensorboard" / name.replace(" ", "/") / key[:6]
    make_folder(own)
    writer = EventFileWriter(str(own))

    def log(step: int, values: Values) -> None:
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))

    return Page(log, writer.close)


def open_wandb(folder: Path, name: str, key: str, config: Config) -> Page:
    """A page of Weights & Biases. The environment variables in docs.wandb.ai configure it.

    With WANDB_MODE=offline nothing is sent.
    """
    import wandb

    make_folder(folder)
    run = wandb.init(
        project=PROJECT,
        name=name,
        id=key,
        dir=str(folder),
        config=dict(config),
        resume="allow",
        reinit="create_new",
        settings=wandb.Settings(console="off", silent=True),
    )
    run.define_metric("*", step_metric="step")  # wandb's own step cannot decrease
    return Page(lambda step, values: run.log({"step": step, **values}), run.finish)


def open_trackio(folder: Path, name: str, key: str, config: Config) -> Page:
    """A page of Trackio, which is local unless Trackio's environment variables name another place.

    The variables are in huggingface.co/docs/trackio.
    """
    import trackio

    options: dict[str, Any] = {"resume": "allow", "embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
    run = trackio.init(project=PROJECT, name=f"{name} {key[:6]}", config=dict(config), **options)
    return Page(lambda step, values: run.log({**values}, step=step), run.finish)


TRACKERS = {"tensorboard": open_tensorboard, "trackio": open_trackio, "wandb": open_wandb}
"""Name -> tracker. `--log` takes these names, which are also the names of the packages and extras."""


def make_tracker(name: str, project: Project) -> Tracker:
    """The tracker of this name. Raises LlmbenchError for an unknown name or a missing package."""
    if name not in TRACKERS:
        raise LlmbenchError(
            f"there is no tracker '{name}'{did_you_mean(name, TRACKERS)}; --log takes {', '.join(TRACKERS)}"
        )
    if importlib.util.find_spec(name) is None:
        raise LlmbenchError(
            f"--log {name} needs the package {name}, which is not installed; run `pip install -e '.[{name}]'`"
        )
    return partial(TRACKERS[name], project.runs / "logs")


class Logbook:
    """Sends the events of a RunStore to trackers. Use it as a context manager around the training.

    While it is open, the trackers' standard output goes to standard error, because standard output is for results.
    """

    def __init__(self, trackers: Mapping[str, Tracker], track: Track, warn: Callable[[str], None]) -> None:
        self.track, self.warn = track, warn
        self._writers = [_Writer(name, tracker, warn) for name, tracker in trackers.items()]
        self._redirected = contextlib.ExitStack()

    def __enter__(self) -> Logbook:
        if self._writers:
            self._redirected.enter_context(contextlib.redirect_stdout(sys.stderr))
        return self

    def __exit__(self, *error: object) -> None:
        with self._redirected:
            for writer in self._writers:
                writer.close()

    def __call__(self, run: RunIdentity, event: RunEvent) -> None:
        """Send one event. Several threads may call this. It never waits for a tracker and never raises an exception."""
        name = f"{run.track} {run.recipe} seed-{run.seed}"
        match event:
            case Step():
                rate = event.tokens / max(event.train_s, 1e-9)
                self._send(name, run, event.step, {"train/loss": event.loss_nats, "train/tokens_per_s": rate})
            case Done():
                if isinstance(done := event.result, FinishedRun):
                    for point in done.training.curve:
                        curve = {"dev/loss": point.dev_loss_nats, "train/mean_loss": point.train_loss_nats}
                        self._send(name, done, point.step, curve)
                    self._send(name, done, done.training.steps, {metric.key: metric.read(done) for metric in METRICS})
                self._send(name, run, None, {})

    def log_verdict(self, run: RunIdentity, verdict: Verdict) -> None:
        """Send the verdict's numbers as a separate page. `run`, a run of the candidate, gives the page its name."""
        numbers = {"gain", "margin", "ci_low", "ci_high", "p_value", "time_ratio", "correlation"}
        values = verdict.model_dump(include=numbers, exclude_none=True)
        name = f"{run.track} {run.recipe} verdict"
        self._send(name, run, verdict.pairs, {f"verdict/{name}": value for name, value in values.items()})
        self._send(name, run, None, {})

    def _send(self, name: str, run: RunIdentity, step: int | None, values: Values) -> None:
        for writer in self._writers:
            writer.entries.put((name, run, step, values))


class _Writer:
    """Sends numbers to one tracker, in a separate thread."""

    def __init__(self, name: str, tracker: Tracker, warn: Callable[[str], None]) -> None:
        self.name, self.tracker, self.warn = name, tracker, warn
        self.entries: queue.SimpleQueue[tuple[str, RunIdentity, int | None, Values] | None] = queue.SimpleQueue()
        """Entries: page name, run, step and numbers. A step of None closes the page, and the entry None ends all."""
        self._thread = threading.Thread(target=self._write, name=f"log to {name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait until everything is sent, for at most PATIENCE_S seconds."""
        self.entries.put(None)
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            self.warn(
                f"{self.name} did not take all numbers within {PATIENCE_S:.0f} s, so its log is "
                f"incomplete; the runs are kept"
            )

    def _write(self) -> None:
        pages: dict[str, Page] = {}
        try:
            while (entry := self.entries.get()) is not None:
                name, run, step, values = entry
                if step is None:
                    if name in pages:
                        pages.pop(name).close()
                else:
                    if name not in pages:
                        config = _config(run)
                        key = sha256(json.dumps([name, config], sort_keys=True).encode())[:16]  # equal for equal runs
                        pages[name] = self.tracker(name, key, config)
                    pages[name].log(step, values)
            for page in pages.values():
                page.close()
        except Exception as error:  # noqa: BLE001 - an error of a tracker ends its log; the runs go on
            self.warn(one_line(f"{self.name} failed, and the runs go on without its log: {error}"))


def _config(run: RunIdentity) -> dict[str, Any]:
    """The configuration that a tracker shows beside the curves."""
    provenance = run.provenance
    return {
        **run.model_dump(include={"track", "recipe", "seed", "training_digest", "code_digest", "sources"}),
        "packages": dict(provenance.packages),
        "cpu": provenance.machine.cpu,
        "gpu": provenance.machine.gpu or "",
    }


def open_logbook(names: Sequence[str], project: Project, track: Track, warn: Callable[[str], None]) -> Logbook:
    """A logbook for the trackers that the user named. If `names` is empty, the logbook does nothing.

    Raises LlmbenchError if a name is unknown or a tracker's package is missing, before anything is trained.
    """
    return Logbook({name: make_tracker(name, project) for name in dict.fromkeys(names)}, track, warn)
