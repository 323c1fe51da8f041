"""The output of `llmbench compare`: live display, tables at the end, Markdown, picture."""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from harness.board.curves import CANDIDATE, FAINT, INK, RECORD, new_figure
from harness.board.readme import evidence, plural
from harness.compare.arms import Arm, ArmName
from harness.compare.comparison import Compared, Comparison
from harness.compare.metric import read_log, tail_of
from harness.compare.settings import Settings
from harness.compare.store import Step
from harness.compare.trial import FailedTrial, FinishedTrial
from harness.core.terminal import Heartbeat, markdown
from harness.rule.reasons import explain
from harness.rule.verdict import Verdict
from harness.show.report import duration
from harness.show.tables import new_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERS = "The trainer reported all numbers. llmbench ran the commands and computed the test, but checked no score."


class LiveComparison:
    """Shows the progress of a comparison's runs. Use it as a context manager around the runs."""

    def __init__(self, console: Console, settings: Settings) -> None:
        self.console, self.settings = console, settings
        self._running = dict[tuple[ArmName, int], tuple[float, Path | None]]()
        self._done = defaultdict[int, dict[ArmName, FinishedTrial]](dict)
        self._seconds: list[float] = []
        self._verdict: Verdict | None = None
        self._guard = threading.RLock()
        self._live = Live(console=console, get_renderable=self._render, transient=True, refresh_per_second=2)
        self._heartbeat = Heartbeat(console, self._summary)

    def __enter__(self) -> LiveComparison:
        if self.console.is_terminal:
            self._live.start()
        self._heartbeat.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._heartbeat.__exit__()
        self._live.stop()

    def say(self, line: str) -> None:
        """Show one line of text."""
        self._heartbeat.put(line)

    def __call__(self, event: Step | Verdict) -> None:
        """Show one event. Several threads may call this."""
        with self._guard:
            if isinstance(event, Verdict):
                self._verdict = event
                gain = "" if event.gain is None else f"gain {event.gain:+.6g}, "
                self.say(f"test after {plural(event.pairs, 'pair')}: {gain}{', '.join(event.reasons)}")
                return
            name, key = f"seed {event.seed}, {event.arm}", (event.arm, event.seed)
            self._running.pop(key, None)
            if event.what == "started":
                self._running[key] = time.monotonic(), event.log
            elif event.what == "waiting":
                self._running[key] = time.monotonic(), None
                self.say(f"{name}: another llmbench command makes this run; waiting for it")
            elif isinstance(event.trial, FailedTrial):
                self.say(f"{name}: failed, {event.trial.reason}")
            elif event.trial is not None:
                kept = " (kept)" if event.what == "kept" else ""
                self._seconds.append(event.trial.wall_s)
                self.say(f"{name}: {event.trial.value:.6g} in {duration(event.trial.wall_s)}{kept}")
                self._done[event.seed][event.arm] = event.trial

    def _summary(self) -> str:
        """One line with the progress of the unfinished runs."""
        with self._guard:
            far = [f"seed {seed} {arm} {duration(s)}{said}" for seed, arm, s, said in self._progress()]
        return f"running: {'; '.join(far) or 'nothing yet'}{self._left()}"

    def _progress(self) -> list[tuple[int, ArmName, float, str]]:
        """Seed, arm, seconds so far and last printed line of each unfinished run."""
        found = []
        for (arm, seed), (begun, log) in self._running.items():
            tail: tuple[str, ...] = ()
            if log is not None and log.exists():
                tail = tail_of(read_log(log, 1 << 12), 1)
            found.append((seed, arm, time.monotonic() - begun, f": {tail[0][:100]}" if tail else ""))
        return found

    def _left(self) -> str:
        """The usual time of a run as text, such as `; a run takes about 40 s`; empty text until a run has ended."""
        return f"; a run takes about {duration(statistics.median(self._seconds))}" if self._seconds else ""

    def _render(self) -> Table:
        with self._guard:
            pairs = sum(len(arms) == 2 for arms in self._done.values())
            looks = ", ".join(map(str, self.settings.looks))
            title = f"{plural(pairs, 'pair')}; tests after {looks} pairs{self._left()}"
            table = new_table(title, ("seed", "record", "candidate", "gain", ""), left=("",))
            for seed, arms in self._done.items():
                table.add_row(str(seed), *_cells(self.settings, arms.get("record"), arms.get("candidate")), "")
            for seed, arm, seconds, said in self._progress():
                told = f"{duration(seconds)}{said}"
                table.add_row(str(seed), *("…" if arm == name else "" for name in ("record", "candidate")), "", told)
            return table


def _cells(settings: Settings, record: FinishedTrial | None, candidate: FinishedTrial | None) -> list[str]:
    """Cells of a row: the record's number, the candidate's and the gain. The cell of a missing value is empty."""
    cells = ["" if run is None else f"{run.value:.6g}" for run in (record, candidate)]
    if record is None or candidate is None:
        return [*cells, ""]
    gain = record.value - candidate.value if settings.lower_is_better else candidate.value - record.value
    return [*cells, f"{gain:+.4g}"]


def _rows(found: Comparison) -> list[list[str]]:
    """One row for each seed: the numbers of record and candidate, the gain, the time ratio, the numbers of `--also`."""
    arms = {name: {run.seed: run for run in found.arm(name)} for name in found.seeds}
    seeds = dict.fromkeys(seed for name in found.seeds for seed in found.seeds[name] if seed in arms[name])
    rows = []
    for seed in seeds:
        record, candidate = arms["record"].get(seed), arms["candidate"].get(seed)
        together = record and candidate and record.session == candidate.session
        ratio = f"{candidate.wall_s / record.wall_s:.3f}" if record and candidate and together else ""
        more = [
            " / ".join("" if run is None else f"{run.also[name]:.6g}" if name in run.also else "-" for run in pair)
            for name in found.settings.also
            for pair in [(record, candidate)]
        ]
        rows.append([str(seed), *_cells(found.settings, record, candidate), ratio, *more])
    return rows


def _heads(found: Comparison) -> list[str]:
    return ["seed", "record", "candidate", "gain", "time ratio", *(f"{name} (both)" for name in found.settings.also)]


def comparison_runs(found: Comparison) -> Table:
    """A table of the runs, with one line for each seed."""
    table = new_table(f"{found.settings.metric}, {'lower' if found.settings.lower_is_better else 'higher'} is better")
    for head in _heads(found):
        table.add_column(head, justify="right")
    for row in _rows(found):
        table.add_row(*row)
    return table


def comparison_facts(found: Comparison) -> list[tuple[str, str]]:
    """(name, value) for the record, the candidate, the command if both have the same, and the verdict's numbers."""
    facts = [("record", arm_text(found.record)), ("candidate", arm_text(found.candidate))]
    if found.settings.run is not None:
        facts.append(("command", found.settings.run))
    if found.added_statements is not None:
        facts.append(("added code", plural(found.added_statements, "statement")))
    own = evidence(found.verdict)
    if found.added_statements is None:  # without statements, the margin has no part that depends on them
        own = [(name, text.partition(" (")[0] if name == "margin" else text) for name, text in own]
    facts += [(name, text) for name, text in own if name != "margin" or found.verdict.margin]
    if found.verdict.time_ratio is not None and not any(guard.quantity == "time" for guard in found.verdict.guards):
        facts.append(("time, candidate / record", f"{found.verdict.time_ratio:.3f} (does not affect the verdict)"))
    return facts


def arm_text(arm: Arm) -> str:
    """The name of one side of a comparison: a revision with its commit, as `main (1a2b3c4d5e6f)`, or a command."""
    if arm.revision is not None:
        return f"{arm.name} ({arm.revision[:12]})"
    return arm.command if arm.name == arm.command else f"{arm.name}, not committed"


def comparison_sentence(verdict: Verdict) -> str:
    """A sentence that says what was decided, and why."""
    why = " ".join([*(explain(code, "trainer") for code in verdict.reasons), *verdict.details])
    return f"{verdict.decision.upper()}: {why}"


def comparison_markdown(found: Comparison) -> str:
    """The comparison as Markdown, for the summary of a CI job."""
    lines = [f"**{markdown(comparison_sentence(found.verdict))}**", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {markdown(text)} |" for name, text in comparison_facts(found)]
    heads = _heads(found)
    lines += ["", f"| {' | '.join(map(markdown, heads))} |", f"|{'---:|' * len(heads)}"]
    lines += [f"| {' | '.join(row)} |" for row in _rows(found)]
    lines += [""]
    lines += [f"- {run.arm} seed {run.seed}: {markdown(run.reason)}" for run in found.runs if run.status == "failed"]
    return "\n".join([*lines, NUMBERS, ""])


def compared_lines(found: Sequence[Compared]) -> list[str]:
    """Lines about saved comparisons. For each comparison: its verdict, what was compared, and its file."""
    lines = []
    for one in found:
        gain = "" if one.gain is None else f", gain {one.gain:+.4g} over {plural(one.pairs, 'pair')}"
        date = one.date[:16].replace("T", " ")
        lines += [
            f"{date}  {one.decision} ({', '.join(one.reasons[:1])}){gain}, alpha {one.alpha:g}, {one.metric}",
            f"    record     {one.record}",
            f"    candidate  {one.candidate}",
            f"    {one.path}",
        ]
    return lines


def draw_comparison(found: Comparison) -> Figure:
    """A picture of each pair's two numbers, joined by a line.

    If the runs have learning curves, a panel below shows the mean curve of the record and that of the candidate.
    """
    curves = {name: [run.curve for run in found.arm(name) if run.curve] for name in found.seeds}
    panels = 2 if all(curves.values()) else 1
    figure = new_figure(2.9 * panels)
    grid: Any = figure.subplots(panels, 1, squeeze=False)
    axes = grid[0, 0]
    values = {name: [run.value for run in found.arm(name)] for name in found.seeds}
    pairs = {run.seed: run.value for run in found.arm("record")}
    for run in found.arm("candidate"):
        if run.seed in pairs:
            axes.plot([0, 1], [pairs[run.seed], run.value], color=FAINT, linewidth=0.9)
    for place, (name, color) in enumerate((("record", RECORD), ("candidate", CANDIDATE))):
        own = values[name]  # type: ignore[index]  # the two names of an arm
        axes.plot([place] * len(own), own, "o", color=color, markersize=5)
        if own:
            axes.plot([place - 0.08, place + 0.08], [statistics.fmean(own)] * 2, color=INK, linewidth=1.4)
    axes.set_xlim(-0.35, 1.35)
    axes.set_xticks([0, 1], ["record", "candidate"])
    axes.set_ylabel("metric, reported by the trainer")
    if panels == 2:
        axes = grid[1, 0]
        for name, color in (("record", RECORD), ("candidate", CANDIDATE)):
            steps, means = _mean_curve(curves[name])  # type: ignore[index]
            axes.plot(steps, means, color=color, linewidth=1.2, label=name)
        axes.set_xlabel("step")
        axes.set_ylabel("curve, mean of the runs")
        axes.legend()
    return figure


def _mean_curve(curves: Sequence[Sequence[tuple[float, float]]]) -> tuple[list[float], list[float]]:
    """Steps that all curves have, and the mean of the curves at each of these steps."""
    tables = [dict(curve) for curve in curves]
    steps = sorted(set.intersection(*map(set, tables)))
    return steps, [statistics.fmean(table[step] for table in tables) for step in steps]
