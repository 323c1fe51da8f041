"""The study of the rule as a page and a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from verdict_simulation import NOISES, Tally

from harness.core.track import Rule

GAINS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
"""In standard deviations of the paired difference."""
CORRELATIONS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9)
NORMAL = tuple(noise for noise in NOISES if noise.name.startswith("normal"))


class Study(NamedTuple):
    """What was found."""

    rule: Rule
    num: int
    """Simulated contests behind each number."""
    false: dict[str, dict[str, float]]
    """Noise -> rule -> share of contests accepted without any gain."""
    power: dict[str, list[Tally]]
    """Rule -> a tally for each of GAINS."""
    designs: dict[str, list[Tally]]
    """Design -> a tally for each of CORRELATIONS, at a gain of two deviations of a single seed."""
    df_from: dict[str, list[Tally]]
    """A value of `welch_df_from` -> a tally for each of NORMAL without gain, then one at two deviations."""
    futility: dict[str, dict[str, Tally]]
    """A value of `futility_alpha` -> design and gain -> tally."""
    notes: Sequence[str]


def markdown(study: Study) -> str:
    """The study as a page."""
    rule, names = study.rule, list(study.power)
    error = 100 * math.sqrt(0.01 * 0.99 / study.num)
    parts = [
        "# What the rule promises, and what it costs",
        f"Rule: looks after {', '.join(map(str, rule.looks))} pairs, alpha {rule.alpha} over all looks, "
        f"futility {rule.futility_alpha}, Welch's degrees of freedom from {rule.welch_df_from} seeds. "
        f"{study.num:,} simulated contests a cell (standard error {error:.2f} points at 1 %). "
        "Made by `python benchmarks/verdict.py`.",
        "![False accepts, power and cost of each rule](verdict.png)",
        "## False accepts without any gain, in percent (promised: 1)",
        _table(
            ["noise", *names],
            {
                source: [_percent(row[name]) if name in row else "" for name in names]
                for source, row in study.false.items()
            },
        ),
        *_reading(study.false),
        "## Power in percent, at normal noise, by gain in deviations of the paired difference",
        _table(["rule", *map(str, GAINS)], _cells(study.power, lambda tally: _percent(tally.accepted, 1))),
        "## Mean number of trained runs until the decision, both arms",
        _table(["rule", *map(str, GAINS)], _cells(study.power, lambda tally: f"{tally.runs:.1f}")),
        "## Which design: power in percent (and runs) at a gain of two seed deviations, by correlation",
        _table(
            ["design", *map(str, CORRELATIONS)],
            _cells(study.designs, lambda tally: f"{_percent(tally.accepted, 1)} ({tally.runs:.1f})"),
        ),
        "## What `welch_df_from` buys",
        "Seeds an arm from which Welch's degrees of freedom are estimated; below, they are the smaller arm's. False "
        "accepts in percent without any gain, then power at two deviations.",
        _table(
            ["estimated from", *(noise.name for noise in NORMAL), "power"],
            _cells(study.df_from, lambda tally: _percent(tally.accepted)),
        ),
        "## What `futility_alpha` costs and saves",
        "Share accepted in percent (and mean number of pairs), at normal noise, by design and gain in deviations.",
        _table(
            ["futility_alpha", *next(iter(study.futility.values()))],
            _cells(
                {name: list(row.values()) for name, row in study.futility.items()},
                lambda tally: f"{_percent(tally.accepted)} ({tally.runs / 2:.2f})",
            ),
        ),
        "\n".join(study.notes),
    ]
    return "\n\n".join(parts) + "\n"


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f}"


def _cells(rows: Mapping[str, Sequence[Tally]], text: Callable[[Tally], str]) -> dict[str, list[str]]:
    return {name: [text(tally) for tally in row] for name, row in rows.items()}


def _table(header: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A Markdown table; each row starts with its name."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *([name, *row] for name, row in rows.items())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _reading(false: dict[str, dict[str, float]]) -> list[str]:
    """What the first table says, in words that follow its numbers."""
    rows = {noise.name: false[noise.name] for noise in NOISES}
    worst = {source: max(row[name] for name in row if name.startswith("this rule")) for source, row in rows.items()}
    kept = [source for source, share in worst.items() if share <= 0.01]
    broken = sorted(set(worst) - set(kept), key=lambda source: -worst[source])
    lines = [f"Under either design the rule keeps its promise for: {'; '.join(kept)}."]
    if broken:
        lines.append(
            f"It breaks for: {'; '.join(f'{source} ({100 * worst[source]:.1f} %)' for source in broken)}. A candidate "
            "that is usually a little better and now and then much worse has no gain on the mean, and few seeds "
            "show only its good side; no test of a mean from eight seeds can know."
        )
    return lines


def picture(path: Path, study: Study) -> None:
    """Three panels: false accepts by noise, power by gain, runs by gain."""
    from matplotlib.figure import Figure

    colors = ("#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito
    figure = Figure(figsize=(13, 4.6), dpi=110, layout="constrained")
    errors, power, cost = figure.subplots(1, 3, width_ratios=[1.5, 1, 1])
    for color, (name, tallies) in zip(colors, study.power.items(), strict=True):
        style = {"color": color, "marker": "o", "markersize": 4, "linewidth": 2.2 if "this" in name else 1.2}
        power.plot(GAINS, [100 * tally.accepted for tally in tallies], label=name, **style)
        cost.plot(GAINS, [tally.runs for tally in tallies], **style)
        known = [(place, row[name]) for place, row in enumerate(study.false.values()) if name in row]
        errors.plot([100 * max(x, 1e-4) for _, x in known], [place for place, _ in known], "o", color=color)
    errors.axvline(1, color="0.3", linestyle=":", linewidth=1)
    errors.set(
        xscale="log",
        xlabel="false accepts, % (promised: 1)",
        yticks=range(len(study.false)),
        yticklabels=list(study.false),
    )
    errors.set_xticks((0.3, 1, 3, 10, 30), labels=("0.3", "1", "3", "10", "30"))
    errors.minorticks_off()
    errors.invert_yaxis()
    power.set(xlabel="gain / deviation of the paired difference", ylabel="accepted, %")
    cost.set(xlabel="gain / deviation of the paired difference", ylabel="mean trained runs, both arms", ylim=(0, 21))
    for axes in (errors, power, cost):
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(path, metadata={"Software": None})
