"""What a person sees while tokens are made and runs train: a small board on a terminal, lines in a log.

Everything goes to standard error, so that standard output stays a document.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.core.events import Done, Evaluating, Lost, RunEvent, Step, Waiting
from harness.core.runs import FinishedRun, RunIdentity
from harness.core.terminal import put
from harness.core.track import Track
from harness.data.writer import PreparationStep
from harness.lab.arms import Arms
from harness.show.report import duration

LOG_EVERY_S = 60.0  # between two lines of one run in a log


BLOCKS = "▁▂▃▄▅▆▇█"


SPARK_WIDTH = 16  # characters


LAYOUTS = ((100, 20, 16, 70), (72, 10, 8, 54), (0, 0, 8, 31))
"""From this many columns on: characters of the bar, of the curve, and of a line without its name."""


def sparkline(values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """The values as blocks from left to right, each a mean over its share of them.

    The scale is their own range, by its root: a loss falls at first so far that the rest would look level.
    """
    if not values:
        return ""
    width = min(width, len(values))
    edges = [len(values) * place // width for place in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    if not high > low:
        return BLOCKS[0] * width
    return "".join(BLOCKS[round((len(BLOCKS) - 1) * math.sqrt((mean - low) / (high - low)))] for mean in means)


@dataclass
class _Watched:
    """One run that trains."""

    losses: list[float] = field(default_factory=list)
    step: int = 0
    rate: float = 0.0
    """Tokens a second of the training clock."""
    note: str = "starting"
    told: float = 0.0
    """When a log was last told of it, on the monotonic clock."""


class LiveRuns:
    """The observer of a RunStore; use it as a context manager around the training.

    With the arms of a contest it also shows how its gain forms, pair by pair.
    """

    def __init__(self, console: Console, track: Track, arms: Arms | None = None) -> None:
        self.console, self.track, self.arms = console, track, arms
        self._running: dict[tuple[str, int], _Watched] = {}
        self._losses: dict[str, dict[int, float]] = {}
        self._told: set[tuple[str, int]] = set()
        self._guard = threading.RLock()
        self._live = Live(
            console=console, get_renderable=self._render, transient=True, auto_refresh=True, refresh_per_second=4
        )

    def __enter__(self) -> LiveRuns:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def __call__(self, run: RunIdentity, event: RunEvent) -> None:
        """Show one event. Called from several threads."""
        with self._guard:
            key = (run.recipe, run.seed)
            match event:
                case Step():
                    self._step(run, self._running.setdefault(key, _Watched()), event)
                case Evaluating():
                    self._running.setdefault(key, _Watched()).note = "evaluating"
                case Lost():
                    self._line(run, f"lost ({event.reason}); it starts again")
                case Waiting():
                    self._running.setdefault(key, _Watched()).note = "another llmbench trains it"
                    self._line(run, "another llmbench trains this run; waiting for it")
                case Done():
                    self._running.pop(key, None)
                    if key not in self._told:  # a later look asks for the same runs again
                        self._told.add(key)
                        self._line(run, _outcome(event.result, reused=event.reused))
                        self._end_pair(event.result)

    def _step(self, run: RunIdentity, watched: _Watched, event: Step) -> None:
        watched.step, watched.note = event.step, ""
        watched.losses.append(event.loss_nats)
        watched.rate = event.step * self.track.budget.batch_tokens / max(event.train_s, 1e-9)
        if self.console.is_terminal:
            return
        now = time.monotonic()
        if len(watched.losses) == 1:
            watched.told = now
            self._line(run, "training")
        elif now - watched.told >= LOG_EVERY_S:
            watched.told = now
            left = duration(self._seconds_left(watched))
            total = self.track.budget.num_steps
            self._line(
                run, f"step {watched.step}/{total}, loss {event.loss_nats:.3f}, {watched.rate:,.0f} tok/s, {left} left"
            )

    def _end_pair(self, result: Any) -> None:
        """Note a score; where it completes a pair of the contest, say how the gain forms."""
        if self.arms is None or not isinstance(result, FinishedRun):
            return
        self._losses.setdefault(result.recipe, {})[result.seed] = result.evaluation.val_loss
        gains = self._gains()
        if result.seed in gains and result.recipe in (self.arms.record, self.arms.candidate) and len(gains) > 1:
            self._say(self._gain_line(gains))

    def _gains(self) -> dict[int, float]:
        """Seed -> record minus candidate, of the pairs that are complete."""
        if self.arms is None:
            return {}
        record, candidate = (self._losses.get(arm, {}) for arm in (self.arms.record, self.arms.candidate))
        return {seed: record[seed] - candidate[seed] for seed in sorted(record.keys() & candidate.keys())}

    def _gain_line(self, gains: dict[int, float]) -> str:
        mean = sum(gains.values()) / len(gains)
        return f"{len(gains)} pairs, gain so far {mean:+.4f} ({', '.join(f'{gain:+.4f}' for gain in gains.values())})"

    def _seconds_left(self, watched: _Watched) -> float:
        steps = self.track.budget.num_steps - watched.step
        return steps * self.track.budget.batch_tokens / max(watched.rate, 1e-9)

    def _render(self) -> RenderableType:
        """A line a run that trains, and below them the contest; a narrow terminal gets neither bars nor rates."""
        with self._guard:
            width = self.console.width
            bar, curve, others = next(layout for least, *layout in LAYOUTS if width >= least)
            table = Table.grid(padding=(0, 1))
            names = _names([*self._running], self.track, max(12, width - others))
            for name, watched in zip(names, self._running.values(), strict=True):
                loss = f"loss {watched.losses[-1]:.3f}" if watched.losses else ""
                left = f"{duration(self._seconds_left(watched))} left" if watched.step and not watched.note else ""
                progress = ProgressBar(total=self.track.budget.num_steps, completed=watched.step, width=bar)
                cells: list[RenderableType] = [Text(name), Text(sparkline(watched.losses, curve), style="cyan")]
                cells += [Text(watched.note or loss), Text(left, style="dim")]
                if bar:
                    cells.insert(1, progress)
                    cells.insert(4, Text(f"{watched.rate:,.0f} tok/s" if watched.rate else ""))
                table.add_row(*cells)
            for column in table.columns:
                column.no_wrap = True
            return table if self.arms is None else Group(table, Text(self._contest_line(self.arms), style="bold"))

    def _contest_line(self, arms: Arms) -> str:
        """How far the contest is on its way to the next look, and what its pairs say so far."""
        gains, looks = self._gains(), self.track.rule.looks
        seeds = {seed for _, seed in (*self._running, *self._told)}  # those of a later look start once it is needed
        goal = next((look for look in looks if look >= len(seeds)), looks[-1])
        done = sum(len(self._losses.get(arm, {})) for arm in (arms.record, arms.candidate))
        started = sum(watched.step for watched in self._running.values())
        steps = max(0, (2 * goal - done) * self.track.budget.num_steps - started)
        rate = sum(watched.rate for watched in self._running.values()) / self.track.budget.batch_tokens
        left = f", about {duration(steps / rate)} left" if rate > 0 else ""
        return f"{len(gains)} of {goal} pairs to the next look{left}" + (
            f"; gain so far {sum(gains.values()) / len(gains):+.4f}" if gains else ""
        )

    def _line(self, run: RunIdentity, text: str) -> None:
        self._say(f"{_name(run.recipe, run.seed, self.track)}: {text}")

    def _say(self, text: str) -> None:
        put(self.console, text)


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

    def __call__(self, step: PreparationStep) -> None:
        """Show one step."""
        goal = f" of {step.of:,}" if step.of is not None else ""
        text = f"{self.name}: {step.doing}, {step.documents:,} documents, {step.tokens:,}{goal} tokens to train on"
        self._progress.update(self._task, description=text, completed=step.tokens, total=step.of)
        if not self.console.is_terminal and time.monotonic() - self._told >= self.SILENCE_S:
            self._told = time.monotonic()
            put(self.console, text)


def _name(recipe: str, seed: int, track: Track) -> str:
    pair = f"pair {track.seeds.index(seed) + 1} " if seed in track.seeds else ""
    return f"{pair}seed {seed} {recipe}"


def _names(runs: Sequence[tuple[str, int]], track: Track, room: int) -> list[str]:
    """All in at most `room` characters: in full, else without seeds, else with the recipes' ends, where they differ."""
    names = [_name(recipe, seed, track) for recipe, seed in runs]
    if any(len(name) > room for name in names):
        names = [name.replace(f" seed {seed}", "", 1) for name, (_, seed) in zip(names, runs, strict=True)]
    for place, (name, (recipe, _)) in enumerate(zip(names, runs, strict=True)):
        if len(name) > room:
            head = name.removesuffix(recipe)[: room - 2]
            names[place] = f"{head}…{recipe[len(head) + 1 - room :]}"
    return names


def _outcome(result: Any, *, reused: bool) -> str:
    if isinstance(result, FinishedRun):
        rate = result.training.tokens / max(result.training.train_s, 1e-9)
        how = "trained before" if reused else f"{result.training.train_s:.1f} s, {rate:,.0f} tok/s"
        return f"val loss {result.evaluation.val_loss:.4f} ({how})"
    return f"{result.status}: {result.reason}"
