"""Draws a submission's picture, which shows the learning curves of record and candidate."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from harness.core.errors import one_line
from harness.core.runs import FinishedRun

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

NamedRuns = Sequence[tuple[str, Sequence[FinishedRun]]]

# From Okabe and Ito's palette (jfly.uni-koeln.de/color, 2008), whose colours differ for every kind of colour
# vision.
RECORD, CANDIDATE, INK, FAINT = "#0072b2", "#d55e00", "#24292f", "#6a737d"
WIDTH = 5.6  # inches; on a phone the text is 8 pixels high
LONGEST_LABEL = 36  # characters
STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so that text has the same size on every machine
    "font.size": 9,
    "grid.alpha": 0.2,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",  # an SVG's text stays text: it is small and can be searched and read aloud
    "svg.hashsalt": "llmbench",
    "text.color": INK,
    "text.parse_math": False,  # otherwise a dollar sign in an untrusted name would start a formula
    "xtick.bottom": False,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "ytick.left": False,
}


def curve_frame(arm: str, runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """A table of all learning curves of an arm (record or candidate), one row for each point: arm, seed, tokens so far,
    dev loss in nats."""
    import pandas as pd

    rows = [
        (arm, str(run.seed), run.training.tokens_at(point.step), point.dev_loss_nats)
        for run in runs
        for point in run.training.curve
    ]
    columns = {"arm": str, "seed": str, "tokens": float, "dev_loss": float}
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


def draw_curves(arms: NamedRuns) -> Figure:
    """Draw the dev loss against training tokens: each arm's mean and range over seeds.

    With two arms, a second plot below shows the gain of each pair.
    """
    import pandas as pd
    from matplotlib.ticker import MaxNLocator

    frame = pd.concat([curve_frame(name, runs) for name, runs in arms])
    figure = new_figure(4.4 if len(arms) == 2 else 2.9)
    grid: Any = figure.subplots(len(arms), 1, sharex=True, squeeze=False, height_ratios=[1.7, 1][: len(arms)])
    for (name, _), color in zip(arms, (RECORD, CANDIDATE) if len(arms) == 2 else (CANDIDATE,), strict=True):
        by_tokens = frame[frame["arm"] == name].groupby("tokens")["dev_loss"]
        mean = by_tokens.mean()
        label = f"{_tail(one_line(name))}: {mean.iloc[-1]:.4f}" if len(mean) else _tail(one_line(name))
        grid[0, 0].plot(mean.index, mean, color=color, marker="o", markersize=3, label=label)
        grid[0, 0].fill_between(mean.index, by_tokens.min(), by_tokens.max(), color=color, alpha=0.22, linewidth=0)
    grid[0, 0].set_ylabel("dev loss (nats/token)")
    grid[0, 0].legend()
    if len(arms) == 2:
        table = frame.pivot_table("dev_loss", ["tokens", "seed"], "arm").reindex(columns=[name for name, _ in arms])
        gain = (table[arms[0][0]] - table[arms[1][0]]).dropna()
        for _, one in gain.groupby("seed"):
            grid[1, 0].plot(one.index.get_level_values("tokens"), one, color=FAINT, linewidth=0.8, alpha=0.6)
        mean = gain.groupby("tokens").mean()
        grid[1, 0].plot(mean.index, mean, color=INK, marker="o", markersize=3)
        grid[1, 0].axhline(0, color=INK, linewidth=0.8, linestyle=":")
        grid[1, 0].set_ylabel("gain of each pair")
    for axes, most in zip(grid[:, 0], (6, 4), strict=False):
        axes.yaxis.set_major_locator(MaxNLocator(nbins=most, steps=[1, 2, 5, 10]))
    grid[-1, 0].set_xlabel("training tokens")
    grid[-1, 0].xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    grid[-1, 0].xaxis.set_major_formatter(lambda value, _: _count(value))
    figure.align_ylabels()
    return figure


def curves_png(arms: NamedRuns) -> bytes:
    """A submission's picture, drawn by `draw_curves`, as PNG."""
    return to_png(lambda: draw_curves(arms))


def to_png(draw: Callable[[], Figure]) -> bytes:
    """The picture that `draw` draws, as PNG, 1,008 pixels wide, on white, with 64 colours so that the file is small."""
    from PIL import Image

    png, small = io.BytesIO(), io.BytesIO()
    with style():
        draw().savefig(png, format="png", dpi=180, facecolor="white", metadata={"Software": None})
    Image.open(png).convert("RGB").quantize(64).save(small, format="png", optimize=True)
    return small.getvalue()


WIDEST_PNG = 4000  # pixels; usual pictures have 1,008
_PNG = struct.Struct(">8sI4sII")  # a PNG starts with a signature and a chunk: its length, name, width and height


def png_problem(data: bytes) -> str | None:
    """Why `data` is not a valid picture of a submission; None if it is valid. A picture with more than 4000 x 4000
    pixels is not decoded."""
    head = _PNG.unpack(data[: _PNG.size]) if len(data) >= _PNG.size else (b"", 0, b"", 0, 0)
    if head[:3] != (b"\x89PNG\r\n\x1a\n", 13, b"IHDR"):
        return "is not a PNG"
    if not all(0 < side <= WIDEST_PNG for side in head[3:]):
        return f"has {head[3]} x {head[4]} pixels, but may have {WIDEST_PNG} x {WIDEST_PNG} at most"
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Image.open(io.BytesIO(data), formats=["PNG"]).load()
    except (OSError, SyntaxError, ValueError, UserWarning):  # Pillow's errors and warnings for a broken chunk
        return "is not a valid PNG"
    return None


@contextmanager
def style() -> Iterator[None]:
    """Context manager that sets the style of all pictures. The user's matplotlib settings have no effect."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def new_figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def _tail(text: str) -> str:
    """`text`, cut at its start to the length of a label, because recipes differ at their ends."""
    return text if len(text) <= LONGEST_LABEL else "…" + text[1 - LONGEST_LABEL :]


def _count(value: float) -> str:
    """A number in short form, such as `430k` or `1.2M`."""
    size, unit = next(((s, u) for s, u in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if abs(value) >= s), (1, ""))
    return f"{value / size:.3g}{unit}"
