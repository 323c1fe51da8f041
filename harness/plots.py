"""Pictures, drawn with matplotlib from the runs' own curves."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.results import FinishedRun

if TYPE_CHECKING:
    import pandas as pd

# Okabe and Ito's palette, told apart with any colour vision.
COLORS = ("#0072B2", "#D55E00")


def curve_frame(arm: str, runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """One row a curve point: arm, seed, tokens, dev loss."""
    import pandas as pd

    rows = [
        {
            "arm": arm,
            "seed": run.seed,
            "tokens": point.step * (run.training.tokens // run.training.steps),
            "dev_loss": point.dev_loss_nats,
        }
        for run in runs
        for point in run.training.curve
    ]
    return pd.DataFrame(rows)


def curves_png(arms: Sequence[tuple[str, Sequence[FinishedRun]]]) -> bytes:
    """Dev loss against tokens, the mean of each arm and the band of its seeds; of pairs the gain below."""
    import pandas as pd
    from matplotlib.figure import Figure

    frame = pd.concat([curve_frame(name, runs) for name, runs in arms])
    figure = Figure(figsize=(7, 5 if len(arms) == 2 else 3.6), dpi=130, layout="constrained")
    grid: Any = figure.subplots(len(arms), 1, sharex=True, squeeze=False, height_ratios=[3, 1.4][: len(arms)])
    curves = grid[0, 0]
    for (name, _), color in zip(arms, COLORS, strict=False):
        by_tokens = frame[frame["arm"] == name].groupby("tokens")["dev_loss"]
        mean = by_tokens.mean()
        curves.plot(mean.index, mean, color=color, marker="o", markersize=3, label=f"{name}: {mean.iloc[-1]:.4f}")
        curves.fill_between(mean.index, by_tokens.min(), by_tokens.max(), color=color, alpha=0.2, linewidth=0)
    curves.set_ylabel("dev loss (nats/token)")
    curves.legend(frameon=False)
    if len(arms) == 2:
        table = frame.pivot_table(index=["tokens", "seed"], columns="arm", values="dev_loss")
        gain = table[arms[0][0]] - table[arms[1][0]]
        for _, one in gain.groupby("seed"):
            grid[1, 0].plot(one.index.get_level_values("tokens"), one, color="0.6", linewidth=1)
        mean = gain.groupby("tokens").mean()
        grid[1, 0].plot(mean.index, mean, color="0.2", marker="o", markersize=3)
        grid[1, 0].axhline(0, color="0.2", linewidth=0.8, linestyle=":")
        grid[1, 0].set_ylabel("gain of each pair")
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    grid[-1, 0].set_xlabel("training tokens")
    grid[-1, 0].xaxis.set_major_formatter(lambda value, _: f"{value / 1000:.0f}k")
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()
