"""Shows a campaign's progress: a live table on a terminal, or lines in a log; at the end, a table of outcomes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from statistics import fmean

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.core.events import Done, Evaluating, Lost, RunEvent, Step, Waiting
from harness.core.runs import RunIdentity
from harness.core.terminal import Heartbeat
from harness.core.track import Track
from harness.lab.studies.campaign import Campaign
from harness.lab.studies.outcomes import CampaignRow
from harness.lab.studies.screening import GOES_ON, Contestant, State
from harness.show.live import RECIPE_WIDTH
from harness.show.plots import Gain
from harness.show.report import duration
from harness.show.tables import columns_that_fit, new_table, shorten_recipe

STATES: dict[State, str] = {"in_record": "in the record", "passed": "passed, waiting for its confirmation"}
STYLES = {"accepted": "bold green", "passed": "green", "rejected": "dim", "screening": "bold", "confirming": "bold"}


def _name(recipe: str, seed: int) -> str:
    """The name of a run. A long recipe is shortened to its last variants."""
    return f"{shorten_recipe(recipe, RECIPE_WIDTH)} seed {seed}"


class LiveCampaign:
    """Shows a campaign's progress and messages. Give it to the store as observer, and use it as a context manager."""

    def __init__(self, console: Console, track: Track) -> None:
        self.console, self.track = console, track
        self.campaign: Campaign | None = None
        self._running = dict[tuple[str, int], str]()
        """Recipe and seed of each unfinished run -> its progress as text."""
        self._guard = threading.RLock()
        self._heartbeat = Heartbeat(console, self._summary)
        self._live = Live(console=console, get_renderable=self._render, transient=True, refresh_per_second=2)

    def __enter__(self) -> LiveCampaign:
        if self.console.is_terminal:
            self._live.start()
        self._heartbeat.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._heartbeat.__exit__()
        self._live.stop()

    def tell(self, line: str) -> None:
        """Show one line."""
        self._heartbeat.put(line)

    def __call__(self, run: RunIdentity, event: RunEvent) -> None:
        """Take one event of a run. Several threads may call this."""
        key = (run.recipe, run.seed)
        with self._guard:
            match event:
                case Step():
                    self._running[key] = f"{100 * event.tokens / self.track.budget.tokens:.0f} %"
                case Evaluating():
                    self._running[key] = "evaluating"
                case Lost():
                    self.tell(f"{_name(*key)} was lost ({event.reason}) and starts again")
                case Waiting():
                    self._running[key] = "another llmbench trains it"
                    self.tell(f"{_name(*key)} is trained by another llmbench; waiting for it")
                case Done():
                    self._running.pop(key, None)

    def _summary(self) -> str:
        """The progress as one line: `campaign: 12 of 40 done; base+x seed 0 43 %; about 40 min left`."""
        with self._guard:
            runs = ", ".join(f"{_name(*key)} {far}" for key, far in self._running.items())
        if self.campaign is None:
            return "campaign: starting"
        contestants = self.campaign.contestants
        over = sum(one.state not in GOES_ON for one in contestants)
        left = f"about {duration(self.campaign.seconds_left())} left"
        return "; ".join(filter(None, (f"campaign: {over} of {len(contestants)} done", runs, left)))

    def _render(self) -> RenderableType:
        """The display: one line for each candidate, as many as fit. Candidates with unfinished runs come first."""
        if self.campaign is None:
            return Text("")
        order = {"confirming": 0, "screening": 1, "passed": 2, "waiting": 4}
        contestants = sorted(self.campaign.contestants, key=lambda one: order.get(one.state, 3))
        room = max(3, self.console.height - 5)
        table = Table.grid(padding=(0, 2))
        table.add_row(*(Text(head, "dim") for head in ("candidate", "stage", "pairs", "gain so far", "state")))
        for one in contestants[:room]:
            table.add_row(*(Text(cell, STYLES.get(one.state, "")) for cell in self._cells(one)))
        for column in table.columns:
            column.no_wrap = True
        more = [Text(f"and {len(contestants) - room} more", "dim")] if len(contestants) > room else []
        return Group(table, *more, Text(self._summary(), "bold"))

    def _cells(self, one: Contestant) -> tuple[str, ...]:
        recipe = one.candidate.arms.candidate if one.candidate else ""
        with self._guard:
            far = ", ".join(f"seed {seed} {far}" for (name, seed), far in self._running.items() if name == recipe)
        gains, stage = one.gains, one.contest.verdict.stage if one.contest else ""
        state = far or one.note or STATES.get(one.state, one.state)
        return one.name, stage, str(len(gains) or ""), f"{fmean(gains):+.4f}" if gains else "", state


HEADS = ("candidate", "gain", "interval", "price", "stmts", "runs", "verdict", "board", "pairs", "why")
GIVE_WAY = (
    "why",
    "pairs",
    "runs",
    "stmts",
    "board",
    "price",
)  # columns left out on a narrow terminal, in this order


def campaign_table(rows: Sequence[CampaignRow], title: str, width: int) -> Table:
    """A table with one line for each candidate, for a terminal of `width` characters."""
    heads, cells = columns_that_fit(zip(HEADS, *map(_row_cells, rows), strict=True), width, GIVE_WAY)
    table = new_table(title, heads, left=("candidate", "verdict", "why"), whole=heads)
    for row in cells:
        table.add_row(*row)
    return table


def _row_cells(row: CampaignRow) -> tuple[str, ...]:
    """The cells of a row, one for each column of HEADS."""
    interval = "" if row.noise is None else f"± {row.noise:.4f}"
    if row.ci_low is not None and row.ci_high is not None:
        interval = f"{row.ci_low:+.4f} {row.ci_high:+.4f}"
    why = ("judged before: " if row.judged_before else "") + ", ".join(row.reasons[:1])
    return (
        row.name,
        "" if row.gain is None else f"{row.gain:+.4f}",
        interval,
        "" if row.price is None else f"{row.price:.4f}",
        "" if row.statements is None else f"{row.statements:+d}",
        str(row.runs or ""),
        row.outcome.replace("_", " "),
        (row.submission or "").partition("-")[0] or "no",
        str(row.pairs or ""),
        why,
    )


def campaign_notes(rows: Sequence[CampaignRow]) -> list[str]:
    """One line, with the reason, for each candidate that has no verdict or was not submitted."""
    return [f"{row.name}: {row.note}" for row in rows if row.note]


def campaign_gains(rows: Sequence[CampaignRow]) -> list[Gain]:
    """The gains to draw, one for each row with a gain and a price.

    If a candidate had only a screen, its interval is one standard deviation of noise to each side.
    """
    found = []
    for row in rows:
        if row.gain is None or row.price is None:
            continue
        low, high = row.ci_low, row.ci_high
        if row.noise is not None:
            low, high = row.gain - row.noise, row.gain + row.noise
        found.append(Gain(row.name, row.gain, low, high, row.price, row.outcome == "accepted", row.noise is not None))
    return found
