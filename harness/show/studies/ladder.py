"""Shows a ladder, a study of ideas on several sizes of a track: table, sentences, picture, and docs/scale.md."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from harness.board.curves import FAINT, INK, new_figure
from harness.board.leaderboard import curve_path
from harness.core.errors import one_line
from harness.core.project import Project, read_text
from harness.core.terminal import markdown
from harness.lab.studies.ladder import FARTHER, measure_ladder
from harness.lab.studies.ladder_files import curve_of, kept_forecasts, kept_ladder, ladder_folder
from harness.lab.studies.rungs import Agreement, Band, Climb, Coverage, Ladder, RungFacts, Step, rungs_of
from harness.show.plots import to_svg
from harness.show.tables import columns_that_fit, new_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Colours of the ideas: the palette of Okabe and Ito (jfly.uni-koeln.de/color, 2008)."""
MOST_LINES = 12
"""Ideas with a colour and a name in the picture. Further ideas are drawn in grey, without a name."""
INTERVALS = "All intervals are 90 % confidence intervals."
ASKED = "5-dollar-llm asked these questions, but lacked the compute to answer them. On the sizes here, the answers are:"


def rung_line(one: RungFacts) -> str:
    """A line of text about one size: its model, a run's tokens and compute, and the losses without any idea."""
    return (
        f"{one.track}: {one.num_params:,} parameters. A run trains on {one.tokens:,} tokens, with {one.compute:.2g} "
        f"floating-point operations. Without an idea, the mean val loss of {one.runs} runs is {one.val_loss:.4f}"
        + (
            ""
            if one.noise is None
            else f". A pair's gain has a standard deviation of {one.noise:.4f} (median over the ideas)"
        )
    )


def band(found: Band | None, form: str = "+.4f") -> str:
    """A number and its interval as text, such as `+0.0506 [+0.0410, +0.0602]`; empty text for None."""
    if found is None:
        return ""
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"


def ladder_table(found: Ladder, width: int) -> Table:
    """A table of at most `width` characters: a line for each idea on each size. Empty columns are left out."""
    heads = ("idea", "size", "pairs", "gain", "times the compute", "forecast")
    rows = [
        (
            idea.name if place == 0 else "",
            step.track,
            str(step.pairs),
            band(step.gain),
            _times(step),
            band(step.predicted),
        )
        for idea in found.ideas
        for place, step in enumerate(idea.steps)
    ]
    columns = [column for column in zip(heads, *rows, strict=True) if any(column[1:])]
    shown, lines = columns_that_fit(columns, width, ("pairs", "forecast"))
    table = new_table(f"gains over {found.beside}, in nats per token", shown, left=heads[:2], whole=shown)
    for cells in lines:
        table.add_row(*cells)
    return table


def _times(step: Step) -> str:
    return (
        ""
        if step.multiple is None
        else f"x{step.multiple.value:.2f} [{step.multiple.low:.2f}, {step.multiple.high:.2f}]"
    )


def ladder_lines(found: Ladder) -> list[str]:
    """Lines of text: each size, then how each idea's gain changes with compute, then how often two sizes agree."""
    lines = [*map(rung_line, found.rungs)]
    for idea in found.ideas:
        lines += [f"{idea.name} was not measured on {step.track}: {step.reason}" for step in idea.steps if step.reason]
        if idea.slope is None or idea.extrapolated is None:
            continue
        far = f"{FARTHER:g} times the compute of {found.rungs[-1].track}"
        lines.append(
            f"{idea.name} {_effect(idea)}; its gain changes by {band(idea.slope)} for ten times the compute; "
            f"extrapolated to {far}, it is {band(idea.extrapolated)}"
        )
    lines += [*map(agreement_line, found.agreement), *map(coverage_line, found.coverage)]
    return [*lines, *([turned_line(found)] if len(found.rungs) > 1 else []), INTERVALS]


def agreement_line(one: Agreement) -> str:
    """A line on how often two sizes agree: on which of two ideas is better, and on whether an idea lowers the loss."""
    return (
        f"{one.smaller} and {one.larger}: of any two of the {one.ideas} ideas, the same one has the larger gain on "
        f"both sizes in {band(one.order, '.0%')} of cases. For {band(one.verdicts, '.0%')} of the ideas, both sizes "
        f"give the same of three results: the idea lowers the loss, it raises the loss, or neither is shown"
    )


def coverage_line(one: Coverage) -> str:
    """A line of text on how close the gains on one size came to their forecasts."""
    return (
        f"{one.track}: of {one.ideas} measured gains, {band(one.inside, '.0%')} lie in the 90 % interval of their "
        f"forecast. The median of gain minus forecast is {one.error:+.4f} nats per token"
    )


def turned_line(found: Ladder) -> str:
    """A line that names the ideas that are shown to lower the loss on one size and to raise it on another."""
    turned = [idea.name for idea in found.ideas if idea.turns]
    return (
        f"Ideas that are shown to lower the loss on one size and to raise it on another: {', '.join(turned) or 'none'}"
    )


def _effect(idea: Climb) -> str:
    """What the idea does to the loss, as the end of a sentence about it. A gain above zero lowers the loss."""
    if idea.sign_holds is None:
        return "may have no effect on at least one size"
    if not idea.sign_holds:
        return "lowers the loss on some sizes and raises it on others"
    lowers = any(step.gain is not None and step.gain.low > 0 for step in idea.steps)
    return f"{'lowers' if lowers else 'raises'} the loss on all sizes"


def draw_ladder(found: Ladder) -> Figure:
    """A picture with a line for each idea: its gain against the compute of a run, with an interval on each size."""
    figure = new_figure(3.6)
    axes = figure.subplots()
    axes.axhline(0, color=INK, linewidth=0.8)
    compute = {one.track: one.compute for one in found.rungs}
    for place, idea in enumerate(found.ideas):
        known = [(compute[step.track], step.gain) for step in idea.steps if step.gain is not None]
        if not known:
            continue
        style: Any = {"color": FAINT, "linewidth": 0.8}
        if place < MOST_LINES:
            style = {
                "color": COLORS[place % len(COLORS)],
                "linewidth": 1.2,
                "linestyle": "-" if place < len(COLORS) else "--",
                "label": one_line(idea.name),
            }
        axes.plot([x for x, _ in known], [gain.value for _, gain in known], marker="o", markersize=3.5, **style)
        for x, gain in known:
            axes.plot([x, x], [gain.low, gain.high], color=style["color"], linewidth=0.8, alpha=0.6)
    axes.set_xscale("log")
    axes.set_xticks([*compute.values()], [f"{x:.1e}".replace("e+", "e") for x in compute.values()])
    axes.minorticks_off()  # their labels would be TeX
    axes.set_xlabel("floating-point operations of a run")
    axes.set_ylabel("gain (nats/token)")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def question_lines(found: Sequence[tuple[str, Ladder]], questions: Mapping[str, str]) -> list[str]:
    """A line for each question about a measured idea: whether the idea lowers the loss, and its gain on each size.

    `found` has, for each ladder, the name of its track and the ladder. `questions` maps an idea to the question about
    it.
    """
    lines = []
    for _, ladder in found:
        for idea in ladder.ideas:
            if question := questions.get(idea.name):
                gains = [f"{band(step.gain)} on {step.track}" for step in idea.steps if step.gain is not None]
                many = f"{', '.join(gains[:-1])} and {gains[-1]}" if len(gains) > 1 else "".join(gains)
                lines.append(f"- **{question}** `{idea.name}` {_effect(idea)}. Its gain is {many}.")
    return lines


def scale_page(found: Sequence[tuple[str, Ladder]], questions: Mapping[str, str]) -> str:
    """The text of docs/scale.md. `found` and `questions` are as in `question_lines`."""
    lines = [
        "# Does a gain hold at another size?",
        "",
        "`llmbench ladder --stored --save` writes this page from the runs in `benchmarks/ladder/`. On several sizes of",
        "a track, the same recipe was trained with and without each idea, on the same public seeds.",
        "",
        "- A *pair* is two runs with the same seed, one with the idea and one without it.",
        "- *Gain*: how much the idea lowers the val loss, in nats per token, as the mean over the pairs.",
        "- *Multiple of compute*: without the idea, the compute must be multiplied by this factor to reach the loss",
        "  with the idea. It is estimated from the losses without the idea on all sizes.",
        "- *Slope*: how much the gain changes when the compute grows by a factor of ten.",
        "- *Extrapolated gain*: the gain at ten times the compute of the largest size, if it keeps this slope.",
        "- *Forecast*: the gain on the row's size, predicted from the smaller sizes. It was committed to the",
        "  repository, on the date in brackets, before the row's size was trained. Its interval is for a mean over the",
        "  same number of pairs.",
        f"- {INTERVALS}",
        "",
    ]
    if answers := question_lines(found, questions):
        lines += [ASKED, "", *answers, ""]
    for name, ladder in found:
        chosen = f"[How the ideas were chosen, and what was found](../benchmarks/ladder/{name}/README.md)."
        picture = f"![The gain of each idea on each size, against the compute of a run](pictures/scale-{name}.svg)"
        lines += [f"## {name}", "", chosen, "", picture, ""]
        lines += [f"- {rung_line(one)}" for one in ladder.rungs]
        lines += [
            "",
            "| idea | size | pairs | gain | multiple of compute | forecast (date) |",
            "|---|---|---:|---:|---:|---:|",
        ]
        for idea in ladder.ideas:
            for step in idea.steps:
                shown = band(step.gain) or markdown(step.reason or "")
                said = f"{band(step.predicted)} ({step.predicted_on})" if step.predicted else ""
                lines.append(f"| {idea.name} | `{step.track}` | {step.pairs} | {shown} | {_times(step)} | {said} |")
        learned = [*map(agreement_line, ladder.agreement), *map(coverage_line, ladder.coverage)]
        learned += [turned_line(ladder)] if len(ladder.rungs) > 1 else []
        lines += [
            "",
            "How well the results on one size predict those on the next:",
            "",
            *(f"- {line}" for line in learned),
        ]
        lines += ["", "| idea | effect on the loss | slope | extrapolated gain |", "|---|---|---:|---:|"]
        lines += [
            f"| {idea.name} | {_effect(idea)} | {band(idea.slope)} | {band(idea.extrapolated)} |"
            for idea in ladder.ideas
        ]
        lines.append("")
    return "\n".join(lines)


def scale_files(project: Project) -> dict[Path, str]:
    """Path -> text of files: docs/scale.md, its pictures, and for each ladder the base's loss against compute.

    They are made from all ladders whose runs are saved.
    """
    found, files = [], dict[Path, str]()
    for folder in sorted(ladder_folder(project, "x").parent.glob("*/")):
        if not any(folder.glob("*/*-seed-*.json")):
            continue
        tracks = rungs_of(project, folder.name)
        made = kept_ladder(project, folder.name, tracks)
        beside = min((recipe for series in made.values() for recipe in series), key=len)
        here = [track for track in tracks if track.name in made]
        ladder = measure_ladder(here, beside, made, kept_forecasts(project, folder.name))
        found.append((folder.name, ladder))
        files[project.root / "docs" / "pictures" / f"scale-{folder.name}.svg"] = to_svg(partial(draw_ladder, ladder))
        if curve := curve_of(folder.name, ladder):
            files[curve_path(project, folder.name)] = curve.model_dump_json(indent=1) + "\n"
    asked = ladder_folder(project, "x").parent / "questions.toml"
    questions = tomllib.loads(read_text(asked)) if asked.exists() else {}
    return files | {project.root / "docs" / "scale.md": scale_page(found, questions)}
