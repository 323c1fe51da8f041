"""The study of the rule as a page and a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from verdict_simulation import ALONE, NOISES, OLD, THIS, Tally, listed

from harness.core.track import Rule

GAINS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
"""In standard deviations of the paired difference."""
FEW_GAINS = (0.0, 1.0, 1.5, 2.0, 3.0)
"""For what is shown of the track's protocol alone."""
MORE = 10
"""Times as many contests for the headline: the track's protocol without gain."""
CAMPAIGN = 40
"""Candidates of a campaign."""


class Size(NamedTuple):
    """False accepts of the confirmation from its first look to this one, under normal noise."""

    pairs: int
    level: float
    exact: float
    """By the recursion."""
    simulated: float
    stopped: float
    """Simulated, where the looks also stop for futility."""


class Study(NamedTuple):
    """What was found."""

    rule: Rule
    num: int
    """Simulated contests behind each number."""
    power: dict[str, list[Tally]]
    """Protocol -> a tally for each of GAINS, under normal noise."""
    sizes: list[Size]
    """For each look of the confirmation."""
    false: dict[str, dict[str, Tally]]
    """Noise -> protocol -> tally without any gain."""
    units: dict[str, list[Tally]]
    """How the screen's unit is declared -> a tally for each of FEW_GAINS."""
    moved: dict[str, list[Tally]]
    """What was moved -> a tally for each of FEW_GAINS."""
    measured: list[str]
    """What each measured noise bounds, a line each."""
    checked: int
    """Contests that were judged again, on whole runs."""


def markdown(study: Study) -> str:
    """The study as a page."""
    rule, power = study.rule, study.power
    gains = [f"{gain:g}" for gain in GAINS]
    parts = [
        "# What the rule promises, and what it costs",
        f"Screen after {listed(rule.screen_looks)} runs on public seeds: passes from {listed(rule.screen_pass)} paired "
        f"deviations on, drops below {listed(rule.screen_drop)}. Confirmation after {listed(rule.looks)} fresh pairs "
        f"at levels {listed(rule.levels)}, alpha {rule.alpha}, futility {rule.futility_alpha}. {study.num:,} simulated "
        "contests a cell. Losses alone are simulated, without a price of added code and without the guard on time. "
        f"For this protocol without gain under normal noise, {MORE} times as many. "
        "Made by `python benchmarks/verdict.py`, with the functions that judge submissions.",
        "![False accepts, power and cost of each rule](verdict.png)",
        "## What was asked, and what came out",
        _asked(study),
        "## Accepted, in percent, by gain in deviations of the paired difference",
        "Normal noise. The column of gain 0 holds the false accepts.",
        _table(["protocol", *gains], _cells(power, lambda tally: _percent(tally.accepted))),
        "## Trained runs until the decision, on average",
        "Where runs are trained one after the other / two at a time. Kept runs of the record cost nothing, for every "
        "protocol; only the confirmation trains both arms anew. Two at a time, a candidate that its first run drops "
        "has cost two runs.",
        _table(["protocol", *gains], _cells(power, lambda tally: f"{tally.runs:.2f} / {tally.runs_by_two:.2f}")),
        f"The {OLD} compared with kept runs of the record. Where both arms have to be trained, its runs double: "
        f"{2 * power[OLD][0].runs:.1f} without a gain. Most ideas bring none, and there the screen saves. A gain that "
        "is worth having costs more runs than before, because the confirmation trusts no kept run.",
        "## Wall slots on two cores until the decision, on average",
        "A slot is the time of two runs side by side.",
        _table(["protocol", *gains], _cells(power, lambda tally: f"{tally.slots:.2f}")),
        "## False accepts of a candidate and of a campaign",
        f"In percent, for one candidate and for at least one of {CAMPAIGN} candidates without any gain. Candidates "
        "that are compared with the same kept runs err together, so for all but the confirmation alone a campaign's "
        "figure is an upper bound.",
        _table(
            ["protocol", "one candidate", f"campaign of {CAMPAIGN}"],
            {
                name: [_percent(tallies[0].accepted), _percent(_campaign(tallies[0].accepted), 1)]
                for name, tallies in power.items()
            },
        ),
        "## The size of the confirmation",
        "False accepts from the first look to this one, in percent: by the recursion of "
        "`harness/rule/sequential.py: false_accept_rate`, which is exact for normal noise; as simulated; and as "
        "simulated where the looks also stop for futility, which the promise does not count on. Standard error of the "
        f"simulation at 1 %: {100 * math.sqrt(0.01 * 0.99 / study.num):.3f} points.",
        _table(
            ["look", "level", "recursion", "simulated", "with futility"],
            {
                f"{size.pairs} pairs": [
                    f"{100 * size.level:.4f}",
                    *(_percent(value, 3) for value in (size.exact, size.simulated, size.stopped)),
                ]
                for size in study.sizes
            },
        ),
        "## False accepts under other noise, in percent",
        "No gain on the mean. Deviations are those of a pair that the track knows. The last two columns: the share "
        "that passes the screen, and the trained runs of this protocol, one at a time.",
        _noises(study),
        *_reading(study.false),
        "The last rows are pairs of the kept noise studies. Their mean gain is taken out, since most variants have "
        "one, pairs are drawn without repeats, and arms swapped at random, which keeps tails and loses skew. The unit "
        "is their own deviation. Few pairs bound little. In brackets, the central 90 % of what as many pairs of normal "
        "noise give in the same way:",
        "\n".join(study.measured),
        "## A screen with a wrong unit",
        "Accepted in percent (and trained runs, two at a time), by gain in true deviations, where the track declares "
        "its `noise_nats` wrong. The confirmation does not use it.",
        _power_and_runs("`noise_nats` is", study.units),
        "## Neighbours of the declared constants",
        "One thing moved at a time. Accepted in percent (and trained runs, two at a time), by gain.",
        _power_and_runs("constants", study.moved),
        "The declared ones keep a candidate without gain at 3.3 runs and accept a gain of 1.5 in 70 % and one of 2 in "
        "93 %. Lower bars to pass or to drop cost more runs without a gain, higher bars to drop cost power. Stopping "
        "where the mean gain is not above its price saves runs and costs no power that shows. Equal levels spend on "
        "early looks what the last one needs. Three looks have a little more power and cost more runs, without a gain "
        "and with a large one; six looks have less power.",
        f"{study.checked:,} of the simulated screens and confirmations were judged again by `harness.rule.verdict` on "
        "whole runs: no difference.",
    ]
    return "\n\n".join(parts) + "\n"


def _asked(study: Study) -> str:
    """The bars of the protocol beside what was found."""
    this = dict(zip(GAINS, study.power[THIS], strict=True))
    none, old = this[0.0], study.power[OLD][0]
    rows = {
        "trained runs of a candidate without gain": [
            "3.3 at most",
            f"{none.runs:.2f}, two at a time {none.runs_by_two:.2f}; {OLD}: {old.runs:.2f}, {old.runs_by_two:.2f}",
        ],
        "it is accepted": ["0.2 % at most", f"{_percent(none.accepted)} %"],
        "confirmation alone, no gain": ["1.00 %", f"{_percent(study.sizes[-1].exact, 3)} % by the recursion"],
        "gain of 1.5 deviations accepted": ["70 % or more", f"{_percent(this[1.5].accepted, 1)} %"],
        "gain of 2 deviations accepted": ["93 % or more", f"{_percent(this[2.0].accepted, 1)} %"],
    }
    return _table(["under normal noise", "asked", "found"], rows)


def _noises(study: Study) -> str:
    names = list(study.power)
    return _table(
        ["noise", *names, "passes", "runs"],
        {
            source: [
                *(_percent(row[name].accepted) if name in row else "" for name in names),
                _percent(row[THIS].passed, 1),
                f"{row[THIS].runs:.2f}",
            ]
            for source, row in study.false.items()
        },
    )


def _power_and_runs(what: str, rows: Mapping[str, Sequence[Tally]]) -> str:
    def text(tally: Tally) -> str:
        return f"{_percent(tally.accepted)} ({tally.runs_by_two:.2f})"

    return _table([what, *(f"{gain:g}" for gain in FEW_GAINS)], _cells(rows, text))


def _campaign(share: float) -> float:
    """Chance that at least one of a campaign's candidates is accepted, where they err independently."""
    return 1 - (1 - share) ** CAMPAIGN


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f}"


def _cells(rows: Mapping[str, Sequence[Tally]], text: Callable[[Tally], str]) -> dict[str, list[str]]:
    return {name: [text(tally) for tally in row] for name, row in rows.items()}


def _table(header: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A Markdown table; each row starts with its name."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *([name, *row] for name, row in rows.items())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _reading(false: dict[str, dict[str, Tally]]) -> list[str]:
    """What the table of simulated noises says, in words that follow its numbers."""
    shares = {noise.name: [false[noise.name][name].accepted for name in (ALONE, THIS)] for noise in NOISES}
    within = 0.0105  # one percent, and what the simulation leaves open
    kept = [source for source, (alone, _) in shares.items() if alone <= within]
    lines = [f"The confirmation alone keeps its promise of 1 % for: {'; '.join(kept)}."]
    broken = sorted(set(shares) - set(kept), key=lambda source: shares[source][0])
    if broken:
        listing = "; ".join(
            f"{name} ({_percent(shares[name][0], 1)} %, with the screen {_percent(shares[name][1], 1)} %)"
            for name in broken
        )
        lines.append(
            f"It breaks its promise for: {listing}. Such a candidate is usually a little better and now and then much "
            "worse, so it has no gain on the mean, and few seeds show only its good side. No test of a mean from eight "
            "pairs can know. A re-run on new seeds errs as often again, so two in a row are rare; until then a record "
            "is provisional."
        )
    return lines


def picture(path: Path, study: Study) -> None:
    """Three panels: false accepts by noise, power by gain, runs by gain."""
    from matplotlib.figure import Figure

    colors = ("#0072B2", "#56B4E9", "#E69F00", "#999999", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito
    lowest = 0.02  # percent; less is drawn here
    figure = Figure(figsize=(14, 5), dpi=110, layout="constrained")
    errors, power, cost = figure.subplots(1, 3, width_ratios=[1.5, 1, 1])
    for number, (color, (name, tallies)) in enumerate(zip(colors, study.power.items(), strict=True)):
        style = {"color": color, "marker": "o", "markersize": 4, "linewidth": 2.4 if name == THIS else 1.2}
        apart = 0.09 * (number - len(colors) // 2)  # equal figures would hide each other
        power.plot(GAINS, [100 * tally.accepted for tally in tallies], label=name, **style)
        cost.plot(
            GAINS, [tally.runs for tally in tallies], linestyle="--" if number == len(colors) - 1 else "-", **style
        )
        known = [(100 * row[name].accepted, y) for y, row in enumerate(study.false.values()) if name in row]
        shares, places = zip(*known, strict=True)
        errors.plot(np.maximum(shares, lowest), np.array(places) + apart, "o", color=color, markersize=5)
    errors.axvline(1, color="0.3", linestyle=":", linewidth=1)
    errors.set(
        xscale="log",
        xlabel=f"false accepts, % (less than {lowest} is drawn there)",
        yticks=range(len(study.false)),
        yticklabels=list(study.false),
    )
    errors.set_xticks((0.1, 0.3, 1, 3, 10, 30), labels=("0.1", "0.3", "1", "3", "10", "30"))
    errors.minorticks_off()
    errors.invert_yaxis()
    power.set(xlabel="gain / deviation of the paired difference", ylabel="accepted, %")
    cost.set(
        xlabel="gain / deviation of the paired difference", ylabel="mean trained runs, one at a time", ylim=(0, 17)
    )
    for axes in (errors, power, cost):
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*power.get_legend_handles_labels(), loc="outside lower center", ncols=7, frameon=False)
    figure.savefig(path, metadata={"Software": None})
