"""What a person sees while tokens are made and runs train: one line a run on a terminal, one line an event in a log.

Everything goes to standard error, so that standard output stays a document.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from harness.arrays import Step
from harness.results import FinishedRun, RunIdentity
from harness.track import Track


class LiveRuns:
    """The observer of a Bench; use it as a context manager around the training."""

    def __init__(self, console: Console, track: Track) -> None:
        self.console, self.track = console, track
        self._tasks: dict[tuple[str, int], TaskID] = {}
        self._told: set[tuple[str, int]] = set()
        self._guard = threading.Lock()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> LiveRuns:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, run: RunIdentity, event: dict[str, Any]) -> None:
        """Show one event. Called from several threads."""
        with self._guard:
            task = self._task(run)
            match event["event"]:
                case "step":
                    if event["step"] == 1 and not self.console.is_terminal:
                        self._line(run, "training")  # in a log the bar does not show that something happens
                    rate = event["step"] * self.track.budget.batch_tokens / max(event["train_s"], 1e-9)
                    note = f"loss {event['loss']:.3f}  {rate:,.0f} tok/s"
                    self._progress.update(task, completed=event["step"], note=note)
                case "evaluating":
                    self._progress.update(task, completed=self.track.budget.num_steps, note="evaluating")
                case "waiting":
                    self._progress.update(task, note="waiting: another llmbench trains this run")
                    self._line(run, "another llmbench trains this run; waiting for it")
                case "done":
                    self._progress.update(task, completed=self.track.budget.num_steps, visible=False)
                    if (run.recipe, run.seed) not in self._told:  # a later look asks for the same runs again
                        self._line(run, _outcome(event["result"], reused=event["reused"]))
                        self._told.add((run.recipe, run.seed))

    def _task(self, run: RunIdentity) -> TaskID:
        key = (run.recipe, run.seed)
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(
                _name(run, self.track), total=self.track.budget.num_steps, note="starting"
            )
        return self._tasks[key]

    def _line(self, run: RunIdentity, text: str) -> None:
        self.console.print(f"{_name(run, self.track)}: {text}", highlight=False, soft_wrap=True)


class LivePreparation:
    """The observer of a preparation: a bar on a terminal, a line now and then in a log."""

    SILENCE_S = 20.0  # between two lines of a log

    def __init__(self, console: Console, name: str) -> None:
        self.console, self.name = console, name
        self._told = float("-inf")
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(name, total=None)

    def __enter__(self) -> LivePreparation:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, step: Step) -> None:
        """Show one step."""
        goal = f" of {step.of:,}" if step.of is not None else ""
        text = f"{self.name}: {step.doing}, {step.documents:,} documents, {step.tokens:,}{goal} tokens to train on"
        self._progress.update(self._task, description=text, completed=step.tokens, total=step.of)
        if not self.console.is_terminal and time.monotonic() - self._told >= self.SILENCE_S:
            self._told = time.monotonic()
            self.console.print(text, highlight=False, soft_wrap=True)


def _name(run: RunIdentity, track: Track) -> str:
    pair = f"pair {track.seeds.index(run.seed) + 1} " if run.seed in track.seeds else ""
    return f"{pair}seed {run.seed} {run.recipe}"


def _outcome(result: Any, *, reused: bool) -> str:
    if isinstance(result, FinishedRun):
        rate = result.training.tokens / max(result.training.train_s, 1e-9)
        how = "trained before" if reused else f"{result.training.train_s:.1f} s, {rate:,.0f} tok/s"
        return f"val loss {result.evaluation.val_loss:.4f} ({how})"
    return f"{result.status}: {result.reason}"
