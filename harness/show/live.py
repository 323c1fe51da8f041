"""What a person sees while tokens are made and runs train: a live table on a terminal, lines in a log.

Everything goes to standard error, because standard output is for results.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.core.events import Done, Evaluating, Lost, RunEvent, Step, Waiting
from harness.core.runs import FailedRun, FinishedRun, RunIdentity
from harness.core.terminal import put
from harness.core.track import Track
from harness.data.writer import PreparationStep
from harness.lab.arms import Arms
from harness.rule.verdict import Stage
from harness.show.report import duration

LOG_EVERY_S = 60.0  # between two lines of one run in a log
PREPARATION_EVERY_S = 20.0  # between two lines of a preparation in a log
BLOCKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 16  # characters
LAYOUTS = ((100, 20, 16, 70), (72, 10, 8, 54), (0, 0, 8, 31))
"""From this many columns on: characters of the bar, of the curve, and of a line without its name."""


def sparkline(values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """The values as at most `width` blocks from left to right, each the mean of its share of the values.

    The scale is the square root of their range: on a linear scale a loss would look level after its first fall.
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
    tokens: int = 0
    rate: float = 0.0
    """Tokens a second of the training clock."""
    note: str = "starting"
    logged_at: float = 0.0
    """When the log had its last line, on the monotonic clock."""


class LiveRuns:
    """The observer of a RunStore; use it as a context manager around the training.

    With the arms of a contest it also shows how its gain forms, pair by pair.
    """

    def __init__(self, console: Console, track: Track, arms: Arms | None = None) -> None:
        self.console, self.track, self.arms = console, track, arms
        self._running: dict[tuple[str, int], _Watched] = defaultdict(_Watched)
        self._losses: dict[str, dict[int, float]] = defaultdict(dict)
        self._ended: set[tuple[str, int]] = set()
        self._places = {seed: place for place, seed in enumerate(track.seeds, start=1)}
        """Of a pair by its seed: public ones in their order, then those of a confirmation as they come."""
        self._guard = threading.RLock()
        self._live = Live(console=console, get_renderable=self._render, transient=True)

    def __enter__(self) -> LiveRuns:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def __call__(self, run: RunIdentity, event: RunEvent) -> None:
        """Show one event. Called from several threads."""
        with self._guard:
            key = (run.recipe, run.seed)
            self._places.setdefault(run.seed, len(self._places) - len(self.track.seeds) + 1)
            match event:
                case Step():
                    self._step(run, self._running[key], event)
                case Evaluating():
                    self._running[key].note = "evaluating"
                case Lost():
                    self._line(run, f"lost ({event.reason}); it starts again")
                case Waiting():
                    self._running[key].note = "another llmbench trains it"
                    self._line(run, "another llmbench trains this run; waiting for it")
                case Done():
                    self._running.pop(key, None)
                    if key not in self._ended:  # a later look asks for the same runs again
                        self._ended.add(key)
                        self._line(run, _result_text(event.result, reused=event.reused))
                        self._end_pair(event.result)

    def _step(self, run: RunIdentity, watched: _Watched, event: Step) -> None:
        watched.tokens, watched.note = event.tokens, ""
        watched.losses.append(event.loss_nats)
        watched.rate = event.tokens / max(event.train_s, 1e-9)
        if self.console.is_terminal:
            return
        now = time.monotonic()
        if len(watched.losses) == 1:
            watched.logged_at = now
            self._line(run, "training")
        elif now - watched.logged_at >= LOG_EVERY_S:
            watched.logged_at = now
            done = event.tokens / self.track.budget.tokens
            at = f"step {event.step}, {done:.0%} of the tokens, loss {event.loss_nats:.3f}"
            self._line(run, f"{at}, {watched.rate:,.0f} tok/s, {duration(self._seconds_left(watched))} left")

    def _end_pair(self, result: FinishedRun | FailedRun) -> None:
        """Keep a score; where it completes a pair of the contest, log the gain so far."""
        if self.arms is None or not isinstance(result, FinishedRun):
            return
        self._losses[result.recipe][result.seed] = result.evaluation.val_loss
        stage = self._stage(result.seed)
        gains = self._gains(self.arms, stage)
        if result.seed in gains and result.recipe in (self.arms.record, self.arms.candidate) and len(gains) > 1:
            each = ", ".join(f"{gain:+.4f}" for gain in gains.values())
            put(self.console, f"{stage}: {len(gains)} pairs, gain so far {fmean(gains.values()):+.4f} ({each})")

    def _stage(self, seed: int) -> Stage:
        """A screen has public seeds, a confirmation its own."""
        return "screen" if seed in self.track.seeds else "confirmation"

    def _gains(self, arms: Arms, stage: Stage) -> dict[int, float]:
        """Seed -> record minus candidate, of the pairs of a stage that are complete, in their order."""
        record, candidate = self._losses[arms.record], self._losses[arms.candidate]
        both = [seed for seed in self._places if seed in record and seed in candidate and self._stage(seed) == stage]
        return {seed: record[seed] - candidate[seed] for seed in both}

    def _seconds_left(self, watched: _Watched) -> float:
        return (self.track.budget.tokens - watched.tokens) / max(watched.rate, 1e-9)

    def _render(self) -> RenderableType:
        """One line for each run that trains, then one for the contest; a narrow terminal has no bars and no rates."""
        with self._guard:
            width = self.console.width
            bar, curve, others = next(layout for least, *layout in LAYOUTS if width >= least)
            table = Table.grid(padding=(0, 1))
            names = self._names(max(12, width - others))
            for name, watched in zip(names, self._running.values(), strict=True):
                loss = f"loss {watched.losses[-1]:.3f}" if watched.losses else ""
                left = f"{duration(self._seconds_left(watched))} left" if watched.tokens and not watched.note else ""
                cells: list[RenderableType] = [Text(name), Text(sparkline(watched.losses, curve), style="cyan")]
                cells += [Text(watched.note or loss), Text(left, style="dim")]
                if bar:
                    cells.insert(1, ProgressBar(self.track.budget.tokens, watched.tokens, bar))
                    cells.insert(4, Text(f"{watched.rate:,.0f} tok/s" if watched.rate else ""))
                table.add_row(*cells)
            for column in table.columns:
                column.no_wrap = True
            return table if self.arms is None else Group(table, Text(self._contest_line(self.arms), style="bold"))

    def _contest_line(self, arms: Arms) -> str:
        """The stage, how many pairs its next look still needs, and the gain so far."""
        seeds = {seed for _, seed in (*self._running, *self._ended)}  # those of a later look start when it is needed
        stages = {self._stage(seed) for seed in seeds}
        stage: Stage = "confirmation" if "confirmation" in stages or not self.track.rule.screen_looks else "screen"
        gains, rule = self._gains(arms, stage), self.track.rule
        looks = rule.screen_looks if stage == "screen" else rule.looks
        seeds = {seed for seed in seeds if self._stage(seed) == stage}
        goal = next((look for look in looks if look >= len(seeds)), looks[-1])
        done = sum(seed in seeds for recipe in (arms.record, arms.candidate) for seed in self._losses[recipe])
        started = sum(watched.tokens for watched in self._running.values())
        tokens = max(0, (2 * goal - done) * self.track.budget.tokens - started)
        rate = sum(watched.rate for watched in self._running.values())
        left = f", about {duration(tokens / rate)} left" if rate > 0 else ""
        gain = f"; gain so far {fmean(gains.values()):+.4f}" if gains else ""
        return f"{stage}: {len(gains)} of {goal} pairs{left}{gain}"

    def _line(self, run: RunIdentity, text: str) -> None:
        put(self.console, f"{self._name(run.recipe, run.seed)}: {text}")

    def _name(self, recipe: str, seed: int) -> str:
        return f"pair {self._places[seed]} seed {seed} {recipe}"

    def _names(self, room: int) -> list[str]:
        """Of the runs that train, at most `room` characters: in full, else without seeds, else the recipe's end."""
        runs = [*self._running]
        names = [self._name(recipe, seed) for recipe, seed in runs]
        if any(len(name) > room for name in names):
            names = [name.replace(f" seed {seed}", "", 1) for name, (_, seed) in zip(names, runs, strict=True)]
        for place, (name, (recipe, _)) in enumerate(zip(names, runs, strict=True)):
            if len(name) > room:
                head = name.removesuffix(recipe)[: room - 2]
                names[place] = f"{head}…{recipe[len(head) + 1 - room :]}"
        return names


@contextmanager
def live_preparation(console: Console, name: str) -> Iterator[Callable[[PreparationStep], None]]:
    """The observer of the preparation of the track `name`: a bar on a terminal, a line now and then in a log."""
    told = -math.inf
    bar = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*bar, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=None)

        def show(step: PreparationStep) -> None:
            nonlocal told
            goal = f" of {step.of:,}" if step.of is not None else ""
            text = f"{name}: {step.doing}, {step.documents:,} documents, {step.tokens:,}{goal} tokens to train on"
            progress.update(task, description=text, completed=step.tokens, total=step.of)
            if not console.is_terminal and time.monotonic() - told >= PREPARATION_EVERY_S:
                told = time.monotonic()
                put(console, text)

        yield show


def _result_text(result: FinishedRun | FailedRun, *, reused: bool) -> str:
    """A run's score and rate, or why it has none."""
    if isinstance(result, FinishedRun):
        rate = result.training.tokens / max(result.training.train_s, 1e-9)
        how = "trained before" if reused else f"{result.training.train_s:.1f} s, {rate:,.0f} tok/s"
        return f"val loss {result.evaluation.val_loss:.4f} ({how})"
    return f"{result.status}: {result.reason}"
