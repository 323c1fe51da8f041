"""Pictures, drawn with matplotlib: learning curves, a track's history, what a gain costs.

The same input gives the same bytes. An SVG wears the colours of its reader's theme; a PNG is a white sheet.
"""

from __future__ import annotations

import datetime
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from harness.board.curves import CANDIDATE, FAINT, INK, LONGEST_LABEL, RECORD, new_figure, style
from harness.board.rows import HOLDING, Row
from harness.core.errors import LlmbenchError, one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


ON_DARK = {RECORD: "#56b4e9", CANDIDATE: "#e69f00", INK: "#d5dae1", FAINT: "#9aa4af"}


MOST_NAMES = 12  # points; beyond them what did not win has only its number


SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


_FRACTION = re.compile(r"-?\d+\.\d+")


def draw_history(rows: Sequence[Row]) -> Figure:
    """One edition of a track: the record's val loss as labelled stairs, what did not win as hollow points.

    Where a record of the lane `speed` was set, the record's training time below: the product of the measured ratios,
    because times of two machines are not comparable.
    """
    rows = sorted((row for row in rows if row.kind != "challenge"), key=lambda row: row.number)
    times = _relative_times(rows)
    panels: list[tuple[str, Mapping[int, float]]] = [
        ("val loss (nats/token)", {row.number: row.val_loss for row in rows if row.val_loss is not None})
    ]
    if any(row.kind == "record" and row.lane == "speed" for row in rows):
        panels.append(("training time, opening = 1", times))
    places = _places(rows)
    figure = new_figure(2.9 * len(panels))
    grid: Any = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
    first, last = min(places.values()), max(places.values())
    one_day = int(first) == int(last)
    first = first if one_day else int(first)
    end = last + (0.12 * (last - first) or 0.12)
    for axes, (label, values) in zip(grid[:, 0], panels, strict=True):
        shown = [row for row in rows if row.number in values]
        steps = [row for row in shown if row.kind in HOLDING and row.state != "retracted"]
        x = [places[row.number] for row in steps]
        y = [values[row.number] for row in steps]
        if steps:
            axes.step([*x, end], [*y, y[-1]], where="post", color=CANDIDATE, linewidth=1.4)
        axes.plot(x, y, "o", color=CANDIDATE, markersize=5)
        others = [row for row in shown if row not in steps]
        for state, marker in (("retracted", "x"), ("", "o")):
            own = [row for row in others if (row.state == "retracted") == bool(state)]
            at = [places[row.number] for row in own], [values[row.number] for row in own]
            axes.plot(*at, marker, markerfacecolor="none", markeredgecolor=FAINT, markersize=5, linestyle="none")
        axes.set_ylabel(label)
        axes.set_xlim(first - 0.04 * (end - first), end)
        axes.margins(y=0.18)
        stairs = [(x0, y0, x1, y1) for x0, y0, x1, y1 in zip(x, y, [*x[1:], end], [*y[1:], *y[-1:]], strict=True)]
        lines = [line for x0, y0, x1, y1 in stairs for line in ((x0, y0, x1, y0), (x1, y0, x1, y1))]
        _place_labels(axes, [(places[row.number], values[row.number], row) for row in (*steps, *others)], lines)
    if one_day:
        grid[-1, 0].set_xticks([])
        grid[-1, 0].set_xlabel(f"submissions of {rows[0].date}, in their order")
    else:
        _date_axis(grid[-1, 0], first, last)
    figure.align_ylabels()
    return figure


def draw_cost(rows: Sequence[Row], added: Mapping[int, int], loss_per_statement: float) -> Figure:
    """Gain in nats against added statements, with its interval; the line is the price that a gain must exceed.

    `added` maps a row's number to the statements that its candidate has beyond the record. Gains of the lane `speed`
    are times and left out.
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
    whiskers: list[tuple[float, float, float, float]] = []
    for row in rows:
        x, y, won = added[row.number], row.gain or 0.0, row.kind == "record"
        color = CANDIDATE if won and row.state != "retracted" else FAINT
        if row.ci_low is not None and row.ci_high is not None:
            whiskers.append((x, row.ci_low, x, row.ci_high))
            axes.plot([x, x], [row.ci_low, row.ci_high], color=color, linewidth=1, alpha=0.7)
            ends += [row.ci_low, row.ci_high]
        marker = "x" if row.state == "retracted" else "o"
        axes.plot(x, y, marker, color=color, markerfacecolor=color if won else "none", markersize=5)
        ends.append(y)
    axes.set_xlim(left, right)
    margin = 0.08 * (max(ends) - min(ends)) or 0.01
    axes.set_ylim(min(ends) - margin, max(ends) + margin)
    axes.set_xlabel("added statements")
    axes.set_ylabel("gain (nats/token)")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    _place_labels(axes, [(added[row.number], row.gain or 0.0, row) for row in rows], whiskers)
    return figure


def change_of(row: Row) -> str:
    """What a row's recipe changes against the one it was measured against: `+idea`, `-idea`; an opening's recipe."""
    ours, theirs = row.recipe.split("+"), row.beaten.split("+")
    changed = [f"+{name}" for name in ours if name not in theirs] + [f"-{name}" for name in theirs if name not in ours]
    return " ".join(changed) if row.beaten and changed else row.recipe


def to_svg(draw: Callable[[], Figure]) -> str:
    """A picture as SVG, in light colours where nothing says that its reader's theme is dark."""
    text = io.StringIO()
    with style():
        draw().savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _compact(text.getvalue())


def _compact(svg: str) -> str:
    """A third of matplotlib's SVG, which looks the same: tenths of a point, nothing unseen, each style said once."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)
    root.remove(root.find(f"{{{SVG}}}metadata"))  # type: ignore[arg-type]
    for element in root.iter():
        for name in {"d", "x", "y", "transform", "width", "height"} & {*element.attrib}:
            element.set(
                name, _FRACTION.sub(lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), element.attrib[name])
            )
        if "d" in element.attrib:
            element.set("d", " ".join(element.attrib["d"].split()))
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
    _flatten(root)
    _name_styles(root)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True) + "\n"


def _flatten(parent: ElementTree.Element) -> None:
    """Put what a group holds in its place, and drop what cannot be seen; a group here has nothing but a name."""
    children = list(parent)
    parent[:] = []
    if parent.tag != f"{{{SVG}}}text":
        parent.text = (parent.text or "").strip()
    for child in children:
        child.tail = None
        _flatten(child)
        if child.tag == f"{{{SVG}}}g" and not {*child.attrib} - {"id"}:
            parent.extend(child)
        elif child.get("style") != "fill: none":
            parent.append(child)


def _name_styles(root: ElementTree.Element) -> None:
    """Turn every element's own style into a class, which the reader's theme can colour and which is said once."""
    styled = [element for element in root.iter() if "style" in element.attrib]
    names = {style: f"s{place}" for place, style in enumerate(dict.fromkeys(e.attrib["style"] for e in styled))}
    for element in styled:
        element.set("class", names[element.attrib.pop("style")])
    sheet = root.find(f".//{{{SVG}}}style")
    assert sheet is not None, "matplotlib writes one"
    light = {name: style.replace("'DejaVu Sans', sans-serif", "system-ui, sans-serif") for style, name in names.items()}
    dark = {name: re.sub("#[0-9a-f]{6}", lambda found: ON_DARK.get(found[0], found[0]), s) for name, s in light.items()}
    rules, dark_rules = (
        "".join(f".{name}{{{style}}}" for name, style in theme.items())
        for theme in (light, {name: style for name, style in dark.items() if style != light[name]})
    )
    sheet.text = f"{sheet.text}{rules}@media (prefers-color-scheme:dark){{{dark_rules}}}"


def _head(text: str) -> str:
    """`text` as a label: its beginning."""
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


def _places(rows: Sequence[Row]) -> dict[int, float]:
    """Number -> days since year 1. Submissions of one day are spread over it in their order."""
    found = {}
    for row in rows:
        day = [other.number for other in rows if other.date == row.date]
        try:
            ordinal = datetime.date.fromisoformat(row.date).toordinal()
        except ValueError as error:
            raise LlmbenchError(f"{row.folder}/submission.json: no calendar has the date {row.date}") from error
        found[row.number] = ordinal + (day.index(row.number) + 1) / (len(day) + 1)
    return found


def _date_axis(axes: Axes, first: float, last: float) -> None:
    """At most five whole days."""
    step = (int(last) - int(first)) // 5 + 1
    days = range(int(first), int(last) + 1, step)
    axes.set_xticks(list(days), [datetime.date.fromordinal(day).isoformat() for day in days])


def _relative_times(rows: Sequence[Row]) -> dict[int, float]:
    """Number -> training time of the recipe, where the opening's is 1."""
    by_recipe: dict[str, float] = {}
    found = {}
    for row in rows:
        ratio = 1.0 if row.kind == "opening" else by_recipe.get(row.beaten, 1.0) * (row.time_ratio or 1.0)
        found[row.number] = ratio
        if row.kind in HOLDING:
            by_recipe[row.recipe] = ratio
    return found


def _place_labels(
    axes: Axes,
    points: Sequence[tuple[float, float, Row]],
    lines: Sequence[tuple[float, float, float, float]],
) -> None:
    """`2 +idea` beside each point, clear of points, labels and upright or level `lines` (x0, y0, x1, y1).

    Where there is no room only its number stands there, or nothing. The first points choose first.
    """
    from matplotlib.transforms import Bbox

    axes.figure.draw_without_rendering()  # type: ignore[union-attr]  # the layout decides where things are
    corners = [*((x, y, x, y) for x, y, _ in points), *lines]
    boxes = [axes.transData.transform(((x0, y0), (x1, y1))) for x0, y0, x1, y1 in corners]
    taken = [Bbox([ends.min(axis=0), ends.max(axis=0)]).padded(3) for ends in boxes]
    frame = axes.get_window_extent()
    for x, y, row in points:
        places = [
            (6, 4, "left", "bottom"),
            (6, -4, "left", "top"),
            (-6, -4, "right", "top"),
            (-6, 4, "right", "bottom"),
        ]
        won = row.kind in HOLDING and row.state != "retracted"
        names = [f"{row.number} {_head(one_line(change_of(row)))}"] if won or len(points) <= MOST_NAMES else []
        color = INK if won else FAINT
        for text in (*names, str(row.number)):
            for dx, dy, ha, va in places:
                label: Any = axes.annotate(
                    text, (x, y), (dx, dy), textcoords="offset points", ha=ha, va=va, fontsize=8, color=color
                )
                box = label.get_window_extent()
                inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
                if inside and not any(box.overlaps(other) for other in taken):
                    taken.append(box)
                    break
                label.remove()
            else:
                continue
            break
