"""A submission's own picture: the learning curves of its arms."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import TYPE_CHECKING, Any

from harness.core.errors import one_line
from harness.core.runs import FinishedRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NamedRuns = Sequence[tuple[str, Sequence[FinishedRun]]]

# Okabe and Ito's palette (jfly.uni-koeln.de/color, 2008), distinct for every kind of colour vision; its lighter half
# is for dark pages, where it keeps a contrast of three.
RECORD, CANDIDATE, INK, FAINT = "#0072b2", "#d55e00", "#24292f", "#6a737d"
WIDTH = 5.6  # inches; at a phone's width its text is still 8 pixels high
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
    "font.sans-serif": ["DejaVu Sans"],  # matplotlib's own, so that every machine measures the same text
    "font.size": 9,
    "grid.alpha": 0.2,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",  # text stays text: small, searchable, read aloud
    "svg.hashsalt": "llmbench",
    "text.color": INK,
    "text.parse_math": False,  # an untrusted name may hold a dollar sign
    "xtick.bottom": False,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "ytick.left": False,
}


def _by_tokens(runs: Sequence[FinishedRun]) -> dict[int, dict[int, float]]:
    """Training tokens, rising -> seed -> dev loss in nats per token."""
    found: dict[int, dict[int, float]] = defaultdict(dict)
    for run in runs:
        for point in run.training.curve:
            found[point.step * (run.training.tokens // run.training.steps)][run.seed] = point.dev_loss_nats
    return dict(sorted(found.items()))


def draw_curves(arms: NamedRuns) -> Figure:
    """Dev loss against tokens, the mean of each arm and the band of its seeds; of pairs the gain below."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(4.4 if len(arms) == 2 else 2.9)
    grid: Any = figure.subplots(len(arms), 1, sharex=True, squeeze=False, height_ratios=[1.7, 1][: len(arms)])
    curves = [_by_tokens(runs) for _, runs in arms]
    for (name, _), curve, color in zip(arms, curves, (RECORD, CANDIDATE)[-len(arms) :], strict=True):
        losses = [by_seed.values() for by_seed in curve.values()]
        mean = [fmean(values) for values in losses]
        label = f"{_tail(one_line(name))}: {mean[-1]:.4f}" if mean else _tail(one_line(name))
        grid[0, 0].plot([*curve], mean, color=color, marker="o", markersize=3, label=label)
        band = [min(values) for values in losses], [max(values) for values in losses]
        grid[0, 0].fill_between([*curve], *band, color=color, alpha=0.22, linewidth=0)
    grid[0, 0].set_ylabel("dev loss (nats/token)")
    grid[0, 0].legend()
    if len(arms) == 2:
        _draw_gain(grid[1, 0], *curves)
    grid[-1, 0].set_xlabel("training tokens")
    grid[-1, 0].xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    grid[-1, 0].xaxis.set_major_formatter(lambda value, _: _count(value))
    figure.align_ylabels()
    return figure


def _draw_gain(axes: Any, record: dict[int, dict[int, float]], candidate: dict[int, dict[int, float]]) -> None:
    """Record minus candidate of each pair, thin, and the mean of the pairs."""
    gains = {
        tokens: {seed: record[tokens][seed] - loss for seed, loss in by_seed.items() if seed in record[tokens]}
        for tokens, by_seed in candidate.items()
        if tokens in record
    }
    for seed in sorted({seed for by_seed in gains.values() for seed in by_seed}):
        one = {tokens: by_seed[seed] for tokens, by_seed in gains.items() if seed in by_seed}
        axes.plot([*one], [*one.values()], color=FAINT, linewidth=0.8, alpha=0.6)
    mean = {tokens: fmean(by_seed.values()) for tokens, by_seed in gains.items() if by_seed}
    axes.plot([*mean], [*mean.values()], color=INK, marker="o", markersize=3)
    axes.axhline(0, color=INK, linewidth=0.8, linestyle=":")
    axes.set_ylabel("gain of each pair")


def curves_png(arms: NamedRuns) -> bytes:
    """`draw_curves` as the picture of a submission."""
    return to_png(lambda: draw_curves(arms))


def to_png(draw: Callable[[], Figure]) -> bytes:
    """A picture as PNG, 1,008 pixels wide on white; 64 colours make it a third as large."""
    from PIL import Image

    png, small = io.BytesIO(), io.BytesIO()
    with style():
        draw().savefig(png, format="png", dpi=180, facecolor="white", metadata={"Software": None})
    Image.open(png).convert("RGB").quantize(64).save(small, format="png", optimize=True)
    return small.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """Our style over matplotlib's own, whatever the user's settings are."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def new_figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def _tail(text: str) -> str:
    """`text` as a label: its end, which is where two recipes differ."""
    return text if len(text) <= LONGEST_LABEL else "…" + text[1 - LONGEST_LABEL :]


def _count(value: float) -> str:
    """`430k`, `1.2M`."""
    size, unit = next(((s, u) for s, u in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if abs(value) >= s), (1, ""))
    return f"{value / size:.3g}{unit}"
