"""Shows an ablation (a recipe trained without each of its variants in turn): table, sentences, picture, saved page."""

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
    "*Contributes* is the val loss without the variant minus the val loss with it, in nats per token: a mean over "
    "pairs of runs with the same seed. Its 95 % interval is from Student's t over the pairs. The *price* is the number "
    "of the variant's statements (*stmts*) times the track's `loss_per_statement`. A variant *pays* if the whole "
    "interval lies above the price. *Params* is the number of parameters that the variant adds. *Time* is the training "
    "time with the variant divided by the time without it. The two runs of a pair need not have been trained at the "
    "same time, so a few percent of time mean nothing."
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
    """Lines: what was not measured and why, interactions of variants, and commands that try a record without a variant.

    `quote` escapes the reason why a variant was not measured, for example for Markdown.
    """
    lines = [_runs_line(found)]
    for one in found.contributions:
        lines += _lines_of(one, quote) + _claim_lines(one, track)
    return lines


def _runs_line(found: Ablation) -> str:
    return (
        f"{found.runs} runs of each recipe, on public seeds; the mean val loss of `{found.recipe}` is "
        f"{found.val_loss:.4f}"
    )


def _lines_of(one: Contribution, quote: Callable[[str], str]) -> list[str]:
    name, together, lines = " and ".join(one.removed), one.interaction, list[str]()
    if one.reason is not None:
        lines.append(f"without {name}: not measured: {quote(one.reason)}")
    if together is not None:
        lines.append(
            f"{name} contribute {one.contribution:+.4f} together, and the sum of what each contributes alone is "
            f"{together.sum_of_singles:+.4f}; interaction (the difference) {together.gain:+.4f} "
            f"[{together.ci_low:+.4f}, {together.ci_high:+.4f}]"
        )
    return lines


def _claim_lines(one: Contribution, track: Track) -> list[str]:
    """The command that tries the record without these variants, or why it would probably not be accepted."""
    name, lines = " and ".join(one.removed), list[str]()
    if one.claim is not None:
        lines.append(f"without {name}: perhaps a record in the lane simplicity; try it with `{one.claim}`")
    elif one.worth == "does not pay" and one.contribution is not None:
        limit = NEAR_ZERO * track.rule.loss_tolerance
        far = f"the lane simplicity would hardly accept a loss that is more than {limit:g} nats higher"
        why = far if one.contribution > limit else "only variants of the record can be taken out of the record"
        lines.append(f"without {name}: no record to expect, because {why}")
    return lines


def draw_ablation(found: Ablation) -> Figure:
    """A picture of how much each variant lowers the loss. At least one variant must have been measured.

    The point of a variant is filled if the whole interval lies above the price of its code.
    """
    gains = [
        Gain(" + ".join(one.removed), one.contribution, one.ci_low, one.ci_high, one.price, one.worth == "pays", False)
        for one in found.contributions
        if one.contribution is not None
    ]
    label = "contribution (nats/token); the tick is the price of the code"
    return draw_gains(gains, label, ("pays", "does not pay, or is unclear", ""))


def ablation_page(found: Ablation, track: Track, picture: str) -> str:
    """The README of a saved ablation, as Markdown. `picture` is the name of a file in the same folder."""
    pairs = " --pairs 2" if any(len(one.removed) > 1 for one in found.contributions) else ""
    command = f"llmbench ablate --save --track {track.name} --recipe {found.recipe} --runs {found.runs}{pairs}"
    rows = [[cell.replace("\n", " ") for cell in _cells(one)] for one in found.contributions]
    return "\n".join(
        [
            f"# Contribution of each variant on `{track.name}`",
            "",
            f"`{command}` made this page and the runs in this folder. `llmbench ablate --stored --track {track.name}` "
            f"prints the results again.",
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
