"""Shows an ablation: as a table, as sentences, as a picture, and as a page that is kept with its runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.table import Table

from harness.core.terminal import markdown
from harness.core.track import Track
from harness.lab.studies.ablation import NEAR_ZERO, Ablation, Contribution
from harness.show.plots import Gain, draw_gains
from harness.show.tables import columns_that_fit, new_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADS = ("left out", "contributes", "95 % interval", "price", "stmts", "params", "time", "worth")
LEFT = (HEADS[0], HEADS[-1])
GIVE_WAY = ("params", "stmts", "time")  # columns left out on a narrow terminal, in this order
ABOUT = (
    "*Contributes* is the val loss without a variant minus that with it, in nats per token, a mean over pairs of equal "
    "seeds; the interval is Student's t over the pairs. The *price* is its statements times the track's "
    "`loss_per_statement`. A variant *pays* where the whole interval lies above the price. Params and time are what it "
    "adds: parameters, and training time with it over that without it. A time is compared between runs that need not "
    "have been trained side by side, so a few percent mean nothing."
)


def ablation_table(found: Ablation, track: Track, width: int) -> Table:
    """A table with one line for each variant, or pair of variants, that was left out. `width` is in characters."""
    columns = zip(HEADS, *map(_cells, found.contributions), strict=True)
    heads, rows = columns_that_fit(columns, width, GIVE_WAY)
    table = new_table(f"{track.name}: each variant left out in turn", heads, left=LEFT, whole=heads)
    for cells in rows:
        table.add_row(*cells)
    return table


def _cells(one: Contribution) -> list[str]:
    low, high = one.ci_low, one.ci_high
    return [
        "\n+ ".join(one.removed),
        "" if one.contribution is None else f"{one.contribution:+.4f}",
        "" if low is None or high is None else f"[{low:+.4f}, {high:+.4f}]",
        f"{one.price:.4f}",
        str(one.added_statements),
        "" if one.added_params is None else f"{one.added_params:+,}",
        "" if one.time_ratio is None else f"x{one.time_ratio:.2f}",
        one.worth,
    ]


def ablation_lines(found: Ablation, track: Track, quote: Callable[[str], str] = str) -> list[str]:
    """Sentences: what was not measured and why, interactions, and possible claims in the lane `simplicity`.

    `quote` makes a variant's text safe for the place where it is shown.
    """
    lines = [_runs_line(found)]
    for one in found.contributions:
        lines += _lines_of(one, quote) + _claim_lines(one, track)
    return lines


def _runs_line(found: Ablation) -> str:
    return f"{found.runs} runs of each recipe, on public seeds; `{found.recipe}` has a val loss of {found.val_loss:.4f}"


def _lines_of(one: Contribution, quote: Callable[[str], str]) -> list[str]:
    name, together, lines = " and ".join(one.removed), one.interaction, list[str]()
    if one.reason is not None:
        lines.append(f"without {name}: not measured: {quote(one.reason)}")
    if together is not None:
        lines.append(
            f"{name}: {one.contribution:+.4f} together, {together.sum_of_singles:+.4f} as the sum of both; "
            f"interaction {together.gain:+.4f} [{together.ci_low:+.4f}, {together.ci_high:+.4f}]"
        )
    return lines


def _claim_lines(one: Contribution, track: Track) -> list[str]:
    """What could be claimed against the present record, or why nothing can."""
    name, lines = " and ".join(one.removed), list[str]()
    if one.claim is not None:
        lines.append(f"without {name}: claim it with `{one.claim}`")
    elif one.worth == "does not pay" and one.contribution is not None:
        limit = NEAR_ZERO * track.rule.loss_tolerance
        far = f"the lane simplicity would hardly accept a loss of more than {limit:g} nats"
        why = far if one.contribution > limit else "only variants of the record can be taken out of it"
        lines.append(f"without {name}: no claim: {why}")
    return lines


def draw_ablation(found: Ablation) -> Figure:
    """A picture of the measured contributions, of which there must be at least one. Those that pay are filled."""
    gains = [
        Gain(" + ".join(one.removed), one.contribution, one.ci_low, one.ci_high, one.price, one.worth == "pays", False)
        for one in found.contributions
        if one.contribution is not None
    ]
    label = "contribution (nats/token); the tick is the price of the code"
    return draw_gains(gains, label, ("pays", "does not pay, or is unclear", ""))


def ablation_page(found: Ablation, track: Track, picture: str) -> str:
    """The README of a kept ablation. `picture` is the name of a file beside it."""
    pairs = " --pairs 2" if any(len(one.removed) > 1 for one in found.contributions) else ""
    command = f"llmbench ablate --save --track {track.name} --recipe {found.recipe} --runs {found.runs}{pairs}"
    rows = [[cell.replace("\n", " ") for cell in _cells(one)] for one in found.contributions]
    return "\n".join(
        [
            f"# What each variant contributes on `{track.name}`",
            "",
            f"`{command}` made this page and the runs beside it; `llmbench ablate --stored --track {track.name}` "
            f"prints it again.",
            "",
            f"![Contribution of each variant with its interval and its price]({picture})",
            "",
            f"| {' | '.join(HEADS)} |",
            f"|{'|'.join('---' if head in LEFT else '---:' for head in HEADS)}|",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            ABOUT,
            "",
            f"- {_runs_line(found)}",
            *(f"- {line}" for one in found.contributions for line in _lines_of(one, markdown)),
            "",
        ]
    )
