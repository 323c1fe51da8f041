"""Shows progress while tokens are prepared and runs train: a live table on a terminal, or lines in a log.

The progress goes to standard error, because standard output is for results.
"""

from __future__ import annotations

import itertools
import math
import threading
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

from harness.board.readme import plural
from harness.core.events import Done, Evaluating, Lost, RunEvent, Step, Waiting
from harness.core.runs import FailedRun, FinishedRun, RunIdentity
from harness.core.terminal import Heartbeat
from harness.core.track import Track
from harness.data.writer import PreparationStep
from harness.lab.arms import Arms
from harness.lab.studies.pace import UsualTime
from harness.rule.verdict import Stage
from harness.show.report import duration
from harness.show.tables import shorten_recipe
from harness.variants.recipe import parse_recipe

BLOCKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 16  # characters
RECIPE_WIDTH = 44  # characters of a recipe; if it is longer, only its last variants are shown
LAYOUTS = ((100, 20, 16, 70), (72, 10, 8, 54), (0, 0, 8, 31))
"""Layouts: least width of the terminal, then widths of the bar, of the curve, and of a line without its name. All in
characters."""


def sparkline(values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """The values as a line of at most `width` block characters.

    Each character shows the mean of some neighbouring values.

    The height of a character is the square root of the mean's position between the smallest mean (0) and the largest
    (1). On a linear scale, a loss would look flat after its first steep fall.
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
    """The progress of an unfinished run."""

    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    rate: float = 0.0
    """Tokens per second of training time, without evaluations."""
    note: str = "starting"


class LiveRuns:
    """Shows the progress of a RunStore's runs. Give it to the store as observer, and use it as a context manager.

    With `arms` (the recipes of record and candidate), it also shows the progress of each of the `stages` (screen,
    confirmation), and the gain so far. With `stack`, a recipe of several variants, other recipes are named by the
    variants of `stack` that they leave out.
    """

    def __init__(
        self,
        console: Console,
        track: Track,
        arms: Arms | None = None,
        stages: Sequence[Stage] = ("confirmation",),
        stack: str | None = None,
    ) -> None:
        self.console, self.track, self.arms, self.stages, self.stack = console, track, arms, stages, stack
        if arms is not None and len({shorten_recipe(one, RECIPE_WIDTH) for one in (arms.record, arms.candidate)}) == 1:
            self.stack = max(arms.record, arms.candidate, key=len)  # else both get the same short name
        self._usual_time, self._jobs = UsualTime(None), 1
        self._running: dict[tuple[str, int], _Watched] = defaultdict(_Watched)
        self._losses: dict[str, dict[int, float]] = defaultdict(dict)
        self._ended: set[tuple[str, int]] = set()
        self._places = {seed: place for place, seed in enumerate(track.seeds, start=1)}
        """Seed -> number of its pair, from 1. Public seeds have the track's order, others the order of their events."""
        self._guard = threading.RLock()
        self._live = Live(console=console, get_renderable=self._render, transient=True)
        self._heartbeat = Heartbeat(console, self._summary)

    def __enter__(self) -> LiveRuns:
        if self.console.is_terminal:
            self._live.start()
        self._heartbeat.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._heartbeat.__exit__()
        self._live.stop()

    def expect(self, run_s: float | None, jobs: int) -> None:
        """Set how many seconds a run usually takes, and how many runs train at a time, to estimate the time left."""
        self._usual_time, self._jobs = UsualTime(run_s), jobs

    def __call__(self, run: RunIdentity, event: RunEvent) -> None:
        """Show one event. Several threads may call this."""
        with self._guard:
            self._usual_time.observe(event)
            key = (run.recipe, run.seed)
            self._places.setdefault(run.seed, len(self._places) - len(self.track.seeds) + 1)
            match event:
                case Step():
                    self._step(run, self._running[key], event)
                case Evaluating():
                    self._running[key].note = "evaluating"
                case Lost():
                    self._line(run, f"was lost ({event.reason}) and starts again")
                case Waiting():
                    self._running[key].note = "another llmbench trains it"
                    self._line(run, "another llmbench trains this run; waiting for it")
                case Done():
                    self._running.pop(key, None)
                    if key not in self._ended:  # when more runs are added, finished ones are reported again
                        self._ended.add(key)
                        self._line(run, _result_text(event.result, reused=event.reused))
                        self._end_pair(event.result)

    def _step(self, run: RunIdentity, watched: _Watched, event: Step) -> None:
        watched.tokens, watched.note = event.tokens, ""
        watched.losses.append(event.loss_nats)
        watched.rate = event.tokens / max(event.train_s, 1e-9)
        if len(watched.losses) == 1 and not self.console.is_terminal:
            self._line(run, "training")

    def _end_pair(self, result: FinishedRun | FailedRun) -> None:
        """Keep the score of a run. If the run completes a pair of the contest, show the gain so far."""
        if self.arms is None or not isinstance(result, FinishedRun):
            return
        self._losses[result.recipe][result.seed] = result.evaluation.val_loss
        stage = self._stage(result.seed)
        gains = self._gains(self.arms, stage)
        if result.seed in gains and result.recipe in (self.arms.record, self.arms.candidate) and len(gains) > 1:
            each = ", ".join(f"{gain:+.4f}" for gain in gains.values())
            self._heartbeat.put(f"{stage}: {len(gains)} pairs, gain so far {fmean(gains.values()):+.4f} ({each})")

    def _stage(self, seed: int) -> Stage:
        """The stage to which a seed belongs: a screen has public seeds, a confirmation has other seeds."""
        return "screen" if seed in self.track.seeds else "confirmation"

    def _gains(self, arms: Arms, stage: Stage) -> dict[int, float]:
        """Seed -> the record's loss minus the candidate's, for a stage's complete pairs, in the order of the pairs."""
        record, candidate = self._losses[arms.record], self._losses[arms.candidate]
        both = [seed for seed in self._places if seed in record and seed in candidate and self._stage(seed) == stage]
        return {seed: record[seed] - candidate[seed] for seed in both}

    def _seconds_left(self, watched: _Watched) -> float:
        return (self.track.budget.tokens - watched.tokens) / max(watched.rate, 1e-9)

    def _render(self) -> RenderableType:
        """The display: a line for each unfinished run and each stage. A narrow terminal shows no bars and no rates."""
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
            return Group(table, *(Text(line, style="bold") for line in self._stage_lines()))

    def _summary(self) -> str:
        """The content of the live display as one line, for a log."""
        with self._guard:
            runs = [f"{self._name(*key)} {self._progress(watched)}" for key, watched in self._running.items()]
            return "; ".join([*(runs or ["a run starts"]), *self._stage_lines()])

    def _progress(self, watched: _Watched) -> str:
        """The progress of a run as text: `43 %, loss 3.027, 20 s left`."""
        if watched.note:
            return watched.note
        share, left = watched.tokens / self.track.budget.tokens, duration(self._seconds_left(watched))
        return f"{100 * share:.0f} %, loss {watched.losses[-1]:.3f}, {left} left"

    def _stage_lines(self) -> list[str]:
        """One line for each stage (screen, confirmation): its progress, or what it waits for."""
        if self.arms is None:
            return []
        begun = {self._stage(seed) for _, seed in (*self._running, *self._ended)}
        if "screen" not in self.stages:
            return [self._stage_line(self.arms, "confirmation")]
        if "confirmation" in begun:
            gains = self._gains(self.arms, "screen")
            screen = f"screen: passed, {plural(len(gains), 'pair')}, gain {fmean(gains.values()):+.4f}"
            return [screen, self._stage_line(self.arms, "confirmation")]
        looks = self.track.rule.looks
        later = f"confirmation: follows if the candidate passes the screen, {looks[0]} to {looks[-1]} pairs"
        return [self._stage_line(self.arms, "screen"), *[later] * ("confirmation" in self.stages)]

    def _stage_line(self, arms: Arms, stage: Stage) -> str:
        """A line about a stage: complete pairs, pairs needed for the next decision, time left, and gain so far."""
        rule, gains = self.track.rule, self._gains(arms, stage)
        looks = rule.screen_looks if stage == "screen" else rule.looks
        seeds = {seed for _, seed in (*self._running, *self._ended) if self._stage(seed) == stage}
        goal = next((look for look in looks if look >= len(seeds)), looks[-1])
        stored = stage == "confirmation" and rule.design == "stored"  # the record's runs are kept already
        trained = (arms.candidate,) if stored else (arms.record, arms.candidate)
        done = sum(seed in seeds for recipe in trained for seed in self._losses[recipe])
        left_s = self._stage_seconds(len(trained) * goal - done)
        left = "" if left_s is None else f", about {duration(left_s)} left"
        gain = f"; gain so far {fmean(gains.values()):+.4f}" if gains else ""
        return f"{stage}: {len(gains)} of {goal} pairs{left}{gain}"

    def _stage_seconds(self, runs: int) -> float | None:
        """Seconds until `runs` more runs end, including runs that train now; None if no estimate is possible."""
        budget, run_s = self.track.budget.tokens, self._usual_time.run_s
        started = sum(watched.tokens for watched in self._running.values())
        if run_s is not None:
            return max(0.0, runs - started / budget) * run_s / min(self._jobs, max(1, runs))
        rate = sum(watched.rate for watched in self._running.values())
        return max(0, runs * budget - started) / rate if rate > 0 else None

    def _line(self, run: RunIdentity, text: str) -> None:
        self._heartbeat.put(f"{self._name(run.recipe, run.seed)}: {text}")

    def _name(self, recipe: str, seed: int) -> str:
        return f"pair {self._places[seed]} seed {seed} {self._short(recipe)}"

    def _short(self, recipe: str) -> str:
        """A short name of the recipe, of about RECIPE_WIDTH characters."""
        if self.stack is not None and recipe != self.stack:
            own = parse_recipe(recipe)
            return f"without {' and '.join(name for name in parse_recipe(self.stack) if name not in own)}"
        return shorten_recipe(recipe, RECIPE_WIDTH)

    def _names(self, room: int) -> list[str]:
        """Names of the unfinished runs, in at most `room` characters each.

        If a name is too long, the seeds are left out of all names. If it is still too long, its first variants are left
        out too.
        """
        runs = [*self._running]
        names = [self._name(recipe, seed) for recipe, seed in runs]
        if any(len(name) > room for name in names):
            names = [name.replace(f" seed {seed}", "", 1) for name, (_, seed) in zip(names, runs, strict=True)]
        for place, (name, (recipe, _)) in enumerate(zip(names, runs, strict=True)):
            if len(name) > room:
                head = name.removesuffix(self._short(recipe))
                names[place] = head + shorten_recipe(recipe, room - len(head))
        return names


@contextmanager
def live_preparation(console: Console, name: str) -> Iterator[Callable[[PreparationStep], None]]:
    """Show progress while the data of track `name` is prepared: a bar, or a log line every QUIET_S seconds.

    The bar needs a terminal. Yields a function, which must be called with each step of the preparation.
    """
    text = f"{name}: starting"
    bar = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TimeRemainingColumn(compact=True),
    )
    with (
        Heartbeat(console, lambda: text),
        Progress(*bar, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task(name, total=None)

        def show(step: PreparationStep) -> None:
            nonlocal text
            goal = f" of {step.of:,}" if step.of is not None else ""
            text = f"{name}: {step.doing}, {step.documents:,} documents, {step.tokens:,}{goal} training tokens"
            progress.update(task, description=text, completed=step.tokens, total=step.of)

        yield show


def _result_text(result: FinishedRun | FailedRun, *, reused: bool) -> str:
    """A run's val loss, time and speed as text, or why the run has no val loss."""
    if isinstance(result, FinishedRun):
        rate = result.training.tokens / max(result.training.train_s, 1e-9)
        how = "trained before" if reused else f"{result.training.train_s:.1f} s, {rate:,.0f} tok/s"
        return f"val loss {result.evaluation.val_loss:.4f} ({how})"
    return f"{result.status}: {result.reason}"
