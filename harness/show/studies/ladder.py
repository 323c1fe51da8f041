"""Shows a ladder: as a table, as sentences, as a picture, and as the page docs/scale.md."""

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
INTERVALS = "All intervals are of 90 %."
ASKED = "5-dollar-llm left two questions open for want of compute. These sizes are still small, but they say this:"


def rung_line(one: RungFacts) -> str:
    """A size as a line: `pocket: 1,311,872 parameters, 430,080 tokens, 2.7e+12 operations a run; val loss ...`."""
    return (
        f"{one.track}: {one.num_params:,} parameters, {one.tokens:,} tokens, {one.compute:.2g} operations a run; "
        f"val loss {one.val_loss:.4f} over {one.runs} runs"
        + ("" if one.noise is None else f"; a pair's gain scatters by {one.noise:.4f}")
    )


def band(found: Band | None, form: str = "+.4f") -> str:
    """A number with its interval as text: `+0.0506 [+0.0410, +0.0602]`; empty for None."""
    if found is None:
        return ""
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"


def ladder_table(found: Ladder, width: int) -> Table:
    """A table with one line for each idea and size, of at most `width` characters. Empty columns are left out."""
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
    """Lines that describe the sizes and, for each idea, how its gain changes with compute."""
    lines = [*map(rung_line, found.rungs)]
    for idea in found.ideas:
        lines += [f"{idea.name} on {step.track}: not measured: {step.reason}" for step in idea.steps if step.reason]
        if idea.slope is None or idea.extrapolated is None:
            continue
        far = f"{FARTHER:g} times the compute of {found.rungs[-1].track}"
        lines.append(
            f"{idea.name}: {_sign(idea)}; the gain changes by {band(idea.slope)} for ten times the compute; "
            f"extrapolated to {far}: {band(idea.extrapolated)}"
        )
    lines += [*map(agreement_line, found.agreement), *map(coverage_line, found.coverage)]
    return [*lines, *([turned_line(found)] if len(found.rungs) > 1 else []), INTERVALS]


def agreement_line(one: Agreement) -> str:
    """An agreement as a line: `pocket-s to pocket: 85 % [71 %, 95 %] of the pairs of 12 ideas keep ...`."""
    return (
        f"{one.smaller} to {one.larger}: {band(one.order, '.0%')} of the pairs of {one.ideas} ideas keep their order, "
        f"and {band(one.verdicts, '.0%')} of the ideas their verdict (helps, hurts, or neither shown)"
    )


def coverage_line(one: Coverage) -> str:
    """A coverage as a line: `pocket-l: 10 of 12 gains lie in the interval of their forecast, ...`."""
    return (
        f"{one.track}: {band(one.inside, '.0%')} of {one.ideas} gains lie in the 90 % interval of their forecast; "
        f"the median of gain minus forecast is {one.error:+.4f}"
    )


def turned_line(found: Ladder) -> str:
    """A line that names the ideas that are shown to help on one size and to hurt on another."""
    turned = [idea.name for idea in found.ideas if idea.turns]
    return f"Shown to help on one size and to hurt on another: {', '.join(turned) or 'none'}"


def _sign(idea: Climb) -> str:
    if idea.sign_holds is None:
        return "its sign is not clear on every size"
    return "its sign holds on all sizes" if idea.sign_holds else "its sign changes"


def draw_ladder(found: Ladder) -> Figure:
    """A picture of each idea's gain against compute, with the gain's interval on each size."""
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
    """A line for each question whose idea was measured: its gains on all sizes, and whether they agree in sign.

    `questions` maps an idea to the question about it.
    """
    lines = []
    for _, ladder in found:
        for idea in ladder.ideas:
            if question := questions.get(idea.name):
                gains = [f"{band(step.gain)} on {step.track}" for step in idea.steps if step.gain is not None]
                lines.append(f"- **{question}** It gains {', '.join(gains)}; {_sign(idea)}.")
    return lines


def scale_page(found: Sequence[tuple[str, Ladder]], questions: Mapping[str, str]) -> str:
    """The text of docs/scale.md. `found` holds each kept ladder with the name of its track."""
    lines = [
        "# Does it hold at another size?",
        "",
        "Written by `llmbench ladder --stored --save` from the runs under `benchmarks/ladder/`. Each idea is trained",
        "beside the same recipe on several sizes of a track, with the same public seeds.",
        "",
        "- A *gain* is the mean difference in val loss, in nats per token.",
        "- *Multiple of compute*: factor by which the compute of the recipe without the idea must grow to reach the",
        "  loss with the idea. It follows from that recipe's losses on the sizes.",
        "- *Slope*: the change of the gain for ten times the compute.",
        "- An *extrapolated* gain goes on along that line, to ten times the compute of the largest size.",
        "- A *forecast* was committed before that size was trained. Its interval is for the mean of as many pairs.",
        "- *Scatter*: the standard deviation of a pair's gain, its median over the ideas.",
        f"- {INTERVALS}",
        "",
    ]
    if answers := question_lines(found, questions):
        lines += [ASKED, "", *answers, ""]
    for name, ladder in found:
        chosen = f"[How the ideas were chosen, and what was found](../benchmarks/ladder/{name}/README.md)."
        picture = f"![Gain of each idea against compute](pictures/scale-{name}.svg)"
        lines += [f"## {name}", "", chosen, "", picture, ""]
        lines += [f"- {rung_line(one)}" for one in ladder.rungs]
        lines += [
            "",
            "| idea | size | pairs | gain | multiple of compute | forecast |",
            "|---|---|---:|---:|---:|---:|",
        ]
        for idea in ladder.ideas:
            for step in idea.steps:
                shown = band(step.gain) or markdown(step.reason or "")
                said = f"{band(step.predicted)} ({step.predicted_on})" if step.predicted else ""
                lines.append(f"| {idea.name} | `{step.track}` | {step.pairs} | {shown} | {_times(step)} | {said} |")
        learned = [*map(agreement_line, ladder.agreement), *map(coverage_line, ladder.coverage)]
        learned += [turned_line(ladder)] if len(ladder.rungs) > 1 else []
        lines += ["", "How far one size tells what holds on the next:", "", *(f"- {line}" for line in learned)]
        lines += ["", "| idea | sign | slope | extrapolated |", "|---|---|---:|---:|"]
        lines += [
            f"| {idea.name} | {_sign(idea)} | {band(idea.slope)} | {band(idea.extrapolated)} |" for idea in ladder.ideas
        ]
        lines.append("")
    return "\n".join(lines)


def scale_files(project: Project) -> dict[Path, str]:
    """Path -> text of docs/scale.md, of its pictures and of the base's curves, made from all kept ladders."""
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
