"""Experiment trackers that people already use: curves and scores of runs go there, from this process alone.

A worker never hears of them. Each is fed by the events that the store observes, in a thread of its own, so that a
tracker that fails or hangs costs its own log and never a run.
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
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from harness.core.errors import LlmbenchError, did_you_mean, one_line
from harness.core.events import Done, RunEvent, Step
from harness.core.project import Project, make_folder, sha256
from harness.core.runs import FinishedRun, RunIdentity
from harness.core.track import Track
from harness.rule.verdict import Verdict

PROJECT = "llmbench"


PATIENCE_S = 30.0  # for what is still to be sent when the runs are over


Values = Mapping[str, float]


class Page(Protocol):
    """What a tracker keeps of one run."""

    def log(self, step: int, values: Values) -> None:
        """Numbers after `step` steps of training; steps may come out of order."""

    def close(self) -> None:
        """No more will come."""


class Tracker(Protocol):
    """One tracker: the only thing that an adapter implements, besides `Page`."""

    def open(self, name: str, key: str, config: Mapping[str, Any]) -> Page:
        """A page for one run; `key` is the same whenever the same run is opened."""


class TensorBoard:
    """Event files under `folder`, one folder a run: `tensorboard --logdir FOLDER` (tensorflow.org/tensorboard)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tensorboard"

    def open(self, name: str, key: str, config: Mapping[str, Any]) -> Page:
        return _EventFile(self.folder / name.replace(" ", "/") / key[:6])


class _EventFile:
    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        make_folder(folder)
        self.writer = EventFileWriter(str(folder))

    def log(self, step: int, values: Values) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self.writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))

    def close(self) -> None:
        self.writer.close()


class WandB:
    """Weights & Biases, as its own variables say: WANDB_MODE=offline keeps all of it here (docs.wandb.ai)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, name: str, key: str, config: Mapping[str, Any]) -> Page:
        import wandb

        make_folder(self.folder)
        settings = wandb.Settings(console="off", silent=True)
        options: dict[str, Any] = {"project": PROJECT, "dir": str(self.folder), "settings": settings}
        run = wandb.init(name=name, id=key, resume="allow", reinit="create_new", config={**config}, **options)
        run.define_metric("*", step_metric="step")  # its own step cannot go back
        return _Table(lambda step, values: run.log({"step": step, **values}), run.finish)


class Trackio:
    """Trackio, local unless its own variables say otherwise (huggingface.co/docs/trackio)."""

    def __init__(self, folder: Path) -> None:
        pass

    def open(self, name: str, key: str, config: Mapping[str, Any]) -> Page:
        import trackio

        options: dict[str, Any] = {"resume": "allow", "embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
        run = trackio.init(project=PROJECT, name=f"{name} {key[:6]}", config={**config}, **options)
        return _Table(lambda step, values: run.log({**values}, step=step), run.finish)


class _Table:
    """A page whose tracker has functions for both."""

    def __init__(self, log: Callable[[int, Values], None], close: Callable[[], None]) -> None:
        self.log, self.close = log, close


TRACKERS: Mapping[str, Callable[[Path], Tracker]] = {"tensorboard": TensorBoard, "trackio": Trackio, "wandb": WandB}
"""The name that `--log` takes, which is also the package's and the extra's."""


def make_tracker(name: str, project: Project) -> Tracker:
    """A tracker by name. Raises LlmbenchError where there is none, or its package is not installed."""
    if name not in TRACKERS:
        raise LlmbenchError(
            f"there is no tracker '{name}'{did_you_mean(name, TRACKERS)}; --log takes {', '.join(TRACKERS)}"
        )
    if importlib.util.find_spec(name) is None:
        raise LlmbenchError(
            f"--log {name} needs the package {name}, which is not installed; run `pip install -e '.[{name}]'`"
        )
    return TRACKERS[name](project.runs / "logs")


class Logbook:
    """Passes the events of a RunStore on to trackers; use it as a context manager around the training.

    While it is open, what trackers print to stdout goes to stderr, for stdout is a document.
    """

    def __init__(self, trackers: Mapping[str, Tracker], track: Track, warn: Callable[[str], None]) -> None:
        self.track, self.warn = track, warn
        self._writers = [_Writer(name, tracker, warn) for name, tracker in trackers.items()]
        self._redirected = contextlib.ExitStack()

    def __enter__(self) -> Logbook:
        if self._writers:
            self._redirected.enter_context(contextlib.redirect_stdout(sys.stderr))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._redirected:
            for writer in self._writers:
                writer.close()

    def __call__(self, run: RunIdentity, event: RunEvent) -> None:
        """Pass one event on. Called from several threads; never waits for a tracker, never raises."""
        name = f"{run.track} {run.recipe} seed-{run.seed}"
        match event:
            case Step():
                rate = event.step * self.track.budget.batch_tokens / max(event.train_s, 1e-9)
                self._send(name, run, event.step, {"train/loss": event.loss_nats, "train/tokens_per_s": rate})
            case Done():
                if isinstance(event.result, FinishedRun):
                    for step, values in _scores(event.result):
                        self._send(name, run, step, values)
                self._send(name, run, None, {})

    def judged(self, run: RunIdentity, verdict: Verdict) -> None:
        """The verdict's numbers, as a page of its own; `run` is the candidate's last."""
        names = ("gain", "margin", "ci_low", "ci_high", "p_value", "time_ratio", "correlation")
        numbers = {name: getattr(verdict, name) for name in names}
        values = {f"verdict/{name}": value for name, value in numbers.items() if value is not None}
        name = f"{run.track} {run.recipe} verdict"
        self._send(name, run, verdict.pairs, values)
        self._send(name, run, None, {})

    def _send(self, name: str, run: RunIdentity, step: int | None, values: Values) -> None:
        for writer in self._writers:
            writer.send(name, run, step, values)


def _scores(run: FinishedRun) -> list[tuple[int, Values]]:
    """What is known of a run once it is over: the dev curve, and the scores on val."""
    scores = run.evaluation
    points: list[tuple[int, Values]] = [
        (point.step, {"dev/loss": point.dev_loss_nats, "train/mean_loss": point.train_loss_nats})
        for point in run.training.curve
    ]
    final = {
        "val/loss": scores.val_loss,
        "val/accuracy": scores.val_accuracy,
        "val/perplexity": scores.perplexity,
        "val/bits_per_byte": scores.bits_per_byte,
        "train/seconds": run.training.train_s,
    }
    return [*points, (run.training.steps, final)]


class _Writer:
    """One tracker in a thread of its own."""

    def __init__(self, name: str, tracker: Tracker, warn: Callable[[str], None]) -> None:
        self.name, self.tracker, self.warn = name, tracker, warn
        self._entries: queue.SimpleQueue[tuple[str, RunIdentity, int | None, Values] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name=f"log to {name}", daemon=True)
        self._thread.start()

    def send(self, name: str, run: RunIdentity, step: int | None, values: Values) -> None:
        """Numbers for the page `name`; without a step the page is complete."""
        self._entries.put((name, run, step, values))

    def close(self) -> None:
        """Wait until everything is written, but not for ever."""
        self._entries.put(None)
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            self.warn(f"{self.name} has not taken everything after {PATIENCE_S:.0f} s; the runs are kept all the same")

    def _write(self) -> None:
        pages: dict[str, Page] = {}
        try:
            while (entry := self._entries.get()) is not None:
                name, run, step, values = entry
                if step is None:
                    if name in pages:
                        pages.pop(name).close()
                else:
                    page = pages.get(name) or self.tracker.open(name, _key(name, run), _config(run))
                    pages[name] = page
                    page.log(step, values)
            for page in pages.values():
                page.close()
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises, its log ends here and the runs go on
            self.warn(one_line(f"{self.name} failed, so the runs go on without its log: {error}"))


def _config(run: RunIdentity) -> dict[str, Any]:
    """What a tracker shows beside the curves."""
    return {
        "track": run.track,
        "recipe": run.recipe,
        "seed": run.seed,
        "training_digest": run.training_digest,
        "code_digest": run.code_digest,
        "sources": dict(run.sources),
        "packages": dict(run.provenance.packages),
        "cpu": run.provenance.machine.cpu,
        "gpu": run.provenance.machine.gpu or "",
    }


def _key(name: str, run: RunIdentity) -> str:
    """The same for the same run, so that it is not listed twice."""
    return sha256(json.dumps([name, _config(run)], sort_keys=True).encode())[:16]


def open_logbook(names: Sequence[str], project: Project, track: Track, warn: Callable[[str], None]) -> Logbook:
    """A logbook for the trackers that the user named; for none of them one that does nothing.

    Raises LlmbenchError where one does not exist or is not installed: before anything is trained.
    """
    return Logbook({name: make_tracker(name, project) for name in dict.fromkeys(names)}, track, warn)
