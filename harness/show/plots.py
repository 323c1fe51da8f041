"""Draws pictures with matplotlib: the history of a track, gain against added code, and a list of gains.

The same input gives the same bytes. An SVG follows the reader's light or dark theme; a PNG has a white background.
"""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.board.curves import CANDIDATE, FAINT, INK, LONGEST_LABEL, RECORD, new_figure, style
from harness.board.rows import HOLDING, Row, change_of
from harness.core.errors import LlmbenchError, one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NAMES = 12  # with more points than this, submissions that did not win are labelled with their number only
FARTHEST = (
    3.0  # the range below zero is at most this many times the best or the median gain: one bad idea must not fill it
)
BESIDE = ((6, 4), (6, -4), (-6, -4), (-6, 4))  # offsets of a label from its mark in points, tried in this order

Line = tuple[float, float, float, float]
"""A vertical or horizontal line: x0, y0, x1, y1 in data coordinates."""


def draw_history(rows: Sequence[Row]) -> Figure:
    """A picture of one track's history: the record's val loss as labelled steps, other submissions as hollow points.

    If a record was accepted because it is faster (lane `speed`), a second panel shows the record's training time
    divided by that of the track's base. This number is the product of the measured time ratios between successive
    records, because times on different machines cannot be compared.
    """
    rows = sorted((row for row in rows if row.kind != "challenge"), key=lambda row: row.number)
    times = _relative_times(rows)
    panels: list[tuple[str, Mapping[int, float]]] = [
        ("val loss (nats/token)", {row.number: row.val_loss for row in rows if row.val_loss is not None})
    ]
    if any(row.kind == "record" and row.lane == "speed" for row in rows):
        panels.append(("training time, base = 1", times))
    places = _places(rows)
    figure = new_figure(2.9 * len(panels))
    grid: Any = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
    first, last = min(places.values()), max(places.values())
    one_day = int(first) == int(last)
    first = first if one_day else int(first)
    end = last + (0.12 * (last - first) or 0.12)
    for axes, (label, values) in zip(grid[:, 0], panels, strict=True):
        axes.set_ylabel(label)
        axes.set_xlim(first - 0.04 * (end - first), end)
        axes.margins(y=0.18)
        _draw_stairs(axes, [(places[row.number], values[row.number], row) for row in rows if row.number in values], end)
    if one_day:
        grid[-1, 0].set_xticks([])
        grid[-1, 0].set_xlabel(f"submissions of {rows[0].date}, in their order")
    else:
        days = range(int(first), int(last) + 1, (int(last) - int(first)) // 5 + 1)  # at most five
        grid[-1, 0].set_xticks(list(days), [datetime.date.fromordinal(day).isoformat() for day in days])
    figure.align_ylabels()
    return figure


def _draw_stairs(axes: Axes, points: Sequence[tuple[float, float, Row]], end: float) -> None:
    """Draw records as steps until `end`, submissions that did not win as hollow points, retracted ones as crosses."""
    steps = [point for point in points if _stands(point[2])]
    others = [point for point in points if not _stands(point[2])]
    x, y = [x for x, _, _ in steps], [y for _, y, _ in steps]
    if steps:
        axes.step([*x, end], [*y, y[-1]], where="post", color=CANDIDATE, linewidth=1.4)
    axes.plot(x, y, "o", color=CANDIDATE, markersize=5)
    for marker in "xo":
        own = [(x, y) for x, y, row in others if (row.state == "retracted") == (marker == "x")]
        axes.plot(*zip(*own, strict=True) if own else ([], []), marker, mfc="none", mec=FAINT, markersize=5)
    lines: list[Line] = []
    for x0, y0, x1, y1 in zip(x, y, [*x[1:], end], [*y[1:], *y[-1:]], strict=True):
        lines += [(x0, y0, x1, y0), (x1, y0, x1, y1)]
    _place_labels(axes, [*steps, *others], lines)


def _stands(row: Row) -> bool:
    """Whether the submission set a record that was not retracted."""
    return row.kind in HOLDING and row.state != "retracted"


def draw_cost(rows: Sequence[Row], added: Mapping[int, int], loss_per_statement: float) -> Figure:
    """A picture of gains, in nats per token, against added statements, with intervals.

    The dashed line is the price of the added code, which a gain must exceed. `added` maps the number of a submission to
    the number of statements that its candidate adds to the record. Submissions that claim a shorter time (lane `speed`)
    are left out, because their gains are not in nats.
    """
    from matplotlib.ticker import MaxNLocator

    rows = [row for row in rows if row.kind != "challenge" and row.lane != "speed" and row.gain is not None]
    rows.sort(key=lambda row: row.number)
    figure = new_figure(2.9)
    axes = figure.subplots()
    right = max([10, *(added[row.number] for row in rows)]) * 1.12
    left = min([0, *(added[row.number] for row in rows)]) * 1.12 - 0.03 * right
    axes.plot([left, 0, right], [0, 0, loss_per_statement * right], color=INK, linewidth=0.9, linestyle="--")
    axes.fill_between([left, 0, right], [0, 0, loss_per_statement * right], -1e9, color=FAINT, alpha=0.1, linewidth=0)
    ends = [0.0, loss_per_statement * right]
    whiskers: list[Line] = []
    for row in rows:
        x, y, color = added[row.number], row.gain or 0.0, CANDIDATE if _stands(row) else FAINT
        if row.ci_low is not None and row.ci_high is not None:
            whiskers.append((x, row.ci_low, x, row.ci_high))
            axes.plot([x, x], [row.ci_low, row.ci_high], color=color, linewidth=1, alpha=0.7)
            ends += [row.ci_low, row.ci_high]
        marker = "x" if row.state == "retracted" else "o"
        axes.plot(x, y, marker, color=color, mfc=color if row.kind == "record" else "none", markersize=5)
        ends.append(y)
    axes.set_xlim(left, right)
    margin = 0.08 * (max(ends) - min(ends)) or 0.01
    axes.set_ylim(min(ends) - margin, max(ends) + margin)
    axes.set_xlabel("added statements")
    axes.set_ylabel("gain (nats/token)")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    _place_labels(axes, [(added[row.number], row.gain or 0.0, row) for row in rows], whiskers)
    return figure


class Gain(NamedTuple):
    """One line in the picture of `draw_gains`. All numbers are in nats per token."""

    name: str
    gain: float
    low: float | None
    """Lower end of the gain's interval; None if it has none."""
    high: float | None
    price: float
    """Price that the gain must exceed."""
    accepted: bool
    screened: bool
    """Whether there was only a screen. The interval is then one standard deviation of noise to each side."""


def draw_gains(
    gains: Sequence[Gain],
    label: str = "gain (nats/token); the tick is the price of the code",
    words: tuple[str, str, str] = ("accepted", "not shown by a confirmation", "only screened (few runs)"),
) -> Figure:
    """A picture of ideas, the best first: each gain with its interval, and a tick at the price that it must exceed.

    Points of accepted ideas are filled, all others are hollow. Ideas that only had a screen (a cheap test on few seeds)
    have faint points. A point far below zero is drawn at the left edge, with its gain as a number. `words` are the
    legend's texts for accepted ideas, for ideas that a confirmation did not accept, and for ideas that only had a
    screen.
    """
    gains = sorted(gains, key=lambda one: -one.gain)
    figure = new_figure(1.2 + 0.165 * max(4, len(gains)))
    axes = figure.subplots()
    axes.axvline(0, color=INK, linewidth=0.8)
    ends = [end for one in gains for end in (one.gain, one.low, one.high, one.price) if end is not None]
    right = max(*ends, 0.001)
    usual = statistics.median(abs(one.gain) for one in gains)
    left = max(min(*ends, 0.0), -FARTHEST * max(right, usual))
    axes.set_xlim(left - 0.04 * (right - left), right + 0.04 * (right - left))
    for place, one in enumerate(gains):
        color = CANDIDATE if one.accepted else FAINT if one.screened else RECORD
        if one.low is not None and one.high is not None:
            axes.plot([one.low, one.high], [place, place], color=color, linewidth=1.2, alpha=0.7)
        mark: Any = {"color": color, "mfc": color if one.accepted else "none", "markersize": 4.5}
        axes.plot(max(one.gain, left), place, "o" if one.gain >= left else "<", **mark)
        if one.gain < left:
            where: Any = {"textcoords": "offset points", "va": "center", "fontsize": 8, "color": FAINT}
            axes.annotate(f"{one.gain:+.3f}", (left, place), (6, 0), **where)
        axes.plot([one.price, one.price], [place - 0.35, place + 0.35], color=INK, linewidth=1)
    axes.set_yticks(range(len(gains)), [_short(one_line(one.name)) for one in gains], fontsize=8)
    axes.set_ylim(len(gains) - 0.4, -0.6)
    axes.set_xlabel(label)
    marks = {(one.accepted, one.screened and not one.accepted) for one in gains}
    kinds = ((True, False), (False, False), (False, True))
    for key, color, text in zip(kinds, (CANDIDATE, RECORD, FAINT), words, strict=True):
        if key in marks:
            axes.plot([], [], "o", color=color, mfc=color if key[0] else "none", markersize=4.5, label=text)
    figure.legend(loc="outside upper left", ncols=3, fontsize=8)
    return figure


def to_svg(draw: Callable[[], Figure], label: str | None = None) -> str:
    """A picture as SVG: a file or, with `label`, a part of a page. Its colours follow a light or dark theme."""
    from harness.show.svg import render

    with style():
        return render(draw(), label)


def _places(rows: Sequence[Row]) -> dict[int, float]:
    """Number of a submission -> its place on the time axis, in days since year 1.

    The submissions of one day are spread over that day, in the order of their numbers.
    """
    found = {}
    for row in rows:
        day = [other.number for other in rows if other.date == row.date]
        try:
            ordinal = datetime.date.fromisoformat(row.date).toordinal()
        except ValueError as error:
            raise LlmbenchError(
                f"{row.folder}/submission.json: {row.date} is not a date; write it as 2026-11-28"
            ) from error
        found[row.number] = ordinal + (day.index(row.number) + 1) / (len(day) + 1)
    return found


def _relative_times(rows: Sequence[Row]) -> dict[int, float]:
    """Number of a submission -> training time of its recipe, divided by the time of the track's base."""
    by_recipe: dict[str, float] = {}
    found = {}
    for row in rows:
        ratio = 1.0 if row.kind == "opening" else by_recipe.get(row.beaten, 1.0) * (row.time_ratio or 1.0)
        found[row.number] = ratio
        if row.kind in HOLDING:
            by_recipe[row.recipe] = ratio
    return found


def _place_labels(axes: Axes, points: Sequence[tuple[float, float, Row]], lines: Sequence[Line]) -> None:
    """Write a label such as `2 +idea` beside each point, where the label covers no point, other label or line.

    If there is no room, only the number is written, or nothing. Labels are placed in the order of `points`.
    """
    from matplotlib.transforms import Bbox

    axes.figure.draw_without_rendering()  # type: ignore[union-attr]  # positions are known only after the layout
    corners = [*((x, y, x, y) for x, y, _ in points), *lines]
    boxes = [axes.transData.transform(((x0, y0), (x1, y1))) for x0, y0, x1, y1 in corners]
    taken = [Bbox([ends.min(axis=0), ends.max(axis=0)]).padded(3) for ends in boxes]
    frame = axes.get_window_extent()
    for x, y, row in points:
        change = _short(one_line(change_of(row)))
        full = [f"{row.number} {change}"] if _stands(row) or len(points) <= MOST_NAMES else []
        for text, (dx, dy) in product((*full, str(row.number)), BESIDE):
            label: Any = axes.annotate(
                text,
                (x, y),
                (dx, dy),
                textcoords="offset points",
                ha="left" if dx > 0 else "right",
                va="bottom" if dy > 0 else "top",
                fontsize=8,
                color=INK if _stands(row) else FAINT,
            )
            box = label.get_window_extent()
            if all(frame.contains(*corner) for corner in (box.p0, box.p1)) and not box.count_overlaps(taken):
                taken.append(box)
                break
            label.remove()


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"
