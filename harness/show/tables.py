"""Tables for the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from harness.board.metrics import METRICS, Comparison
from harness.board.readme import FEWEST_CORRELATED, memory_remark
from harness.board.rows import COLUMNS, Column, Row, sections
from harness.core.errors import one_line
from harness.core.runs import FinishedRun
from harness.lab.studies.noise import NoiseReport
from harness.rule.forecast import ContestPlan
from harness.show.report import duration


class PlainTable(Table):
    """A table for untrusted strings. It interprets no markup, and removes control characters."""

    def add_column(self, header: RenderableType = "", *args: Any, **options: Any) -> None:
        super().add_column(_plain(header), *args, **options)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*map(_plain, cells), **options)


def _plain(cell: Any) -> Any:
    return Text("\n".join(map(one_line, cell.split("\n")))) if isinstance(cell, str) else cell


def new_table(
    title: str | None = None, heads: Sequence[str] = (), left: Sequence[str] = (), whole: Sequence[str] = ()
) -> Table:
    """An empty table in the common style: no frame, one line below the heads.

    Columns are aligned to the right, except those in `left`. Columns in `whole` do not wrap.
    """
    table = PlainTable(
        title=None if title is None else Text(one_line(title), style="bold"),
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for head in heads:
        table.add_column(head, justify="left" if head in left else "right", no_wrap=head in whole)
    return table


def columns_that_fit(
    columns: Iterable[Sequence[str]], width: int, give_way: Sequence[str]
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Heads and rows of a table of at most `width` characters. Each column is its head, followed by its cells.

    If the table is too wide, the columns named in `give_way` are left out one after the other, until it fits.
    """
    kept = [tuple(column) for column in columns]
    for head in ("", *give_way):
        kept = [column for column in kept if column[0] != head]
        if sum(max(len(line) for cell in column for line in cell.split("\n")) + 2 for column in kept) <= width + 1:
            break
    heads, *rows = zip(*kept, strict=True)
    return list(heads), rows


def facts_table(facts: Sequence[tuple[str, str]]) -> Table:
    """A table of names and values."""
    table = PlainTable.grid(padding=(0, 2, 0, 0))
    for name, value in facts:
        table.add_row(name, value)
    table.columns[0].no_wrap, table.columns[1].overflow = True, "fold"
    return table


LEAST_RECIPE, WHOLE_PIECE = 16, 28  # characters: least width of the column `change`, longest variant that widens it
ESSENTIAL = ("#", "change", "val loss", "gain", "p")
GIVE_WAY = ("date", "params", "stmts", "time", "pairs")  # columns left out on a narrow terminal, in this order


def board_tables(rows: Sequence[Row], width: int, newest: int | None = None) -> list[Table]:
    """The tables of the leaderboard, for a terminal of `width` characters.

    Each table has at most `newest` rows, the newest ones. Rows of earlier versions of a track are dimmed. All tables
    have the same columns. Only the column `change` wraps; if a table is still too wide, columns are left out.
    """
    parts = sections(rows)
    shown = [row for *_, found in parts for row in found[:newest]]
    columns, widths = _columns_that_fit(shown, width)
    tables = []
    for track, title, found in parts:
        more = f" (the newest {newest} of {len(found):,}; --all shows every one)"
        table = new_table(f"{track}: {title}{more if len(found[:newest]) < len(found) else ''}")
        for column in columns:
            table.add_column(column.head, justify=column.justify, overflow="fold", width=widths[column.head])
        for row in found[:newest]:
            cells = {column.head: column.text(row) for column in columns}
            cells["change"] = fold_recipe(cells["change"], widths["change"])
            table.add_row(*cells.values(), style="dim" if title == "earlier versions of the track" else None)
        tables.append(table)
    return tables


def _columns_that_fit(rows: Sequence[Row], width: int) -> tuple[list[Column], dict[str, int]]:
    """The columns that fit into `width` characters, and a mapping of head -> width in characters."""
    columns = list(COLUMNS)
    widths = {
        column.head: max([*map(len, column.head.split()), *(len(column.text(row)) for row in rows)])
        for column in columns
    }
    pieces = [len(piece) for row in rows for piece in _pieces(COLUMNS[1].text(row))]
    least = min(max([LEAST_RECIPE, *pieces]), WHOLE_PIECE)
    others = [column.head for column in columns if column.head not in (*ESSENTIAL, *GIVE_WAY)]
    for head in ("", *GIVE_WAY, *others):
        columns = [column for column in columns if column.head != head]
        room = width - 1 - sum(widths[column.head] + 2 for column in columns if column.head != "change")
        if room >= least:
            break
    return columns, widths | {"change": min(widths["change"], max(room, LEAST_RECIPE))}


def fold_recipe(recipe: str, width: int) -> str:
    """The recipe in lines of at most `width` characters, broken only before a variant or a word."""
    lines = [""]
    for piece in _pieces(recipe):
        fits = not lines[-1] or len(lines[-1] + piece) <= width
        lines[-1:] = [lines[-1] + piece] if fits else [lines[-1], piece.lstrip()]
    return "\n".join(lines)


def shorten_recipe(recipe: str, width: int) -> str:
    """The last variants of a recipe, as `…+token_smear`: as many as fit into `width` characters, at least one."""
    pieces = _pieces(recipe)
    for first in range(1, len(pieces)):
        if len("".join(pieces)) > width:
            pieces = ["…", *_pieces(recipe)[first:]]
    return "".join(pieces)


def _pieces(recipe: str) -> list[str]:
    """The parts of a recipe: `base+token_smear (confirms 2)` -> `base`, `+token_smear`, ` (confirms 2)`."""
    return re.findall(r" ?\([^)]*\)|[+ ]?[^+ ]+", recipe)


def comparison_table(record: str, candidate: str, rows: Sequence[Comparison], width: int) -> Table:
    """A table with a line for each metric, without and with the change, for a terminal of `width` characters.

    A star marks the better value of each line.
    """
    first, last = "mean over the pairs\n* the better one", "gain\n(+ is better)"
    names = [max(map(len, part)) for part in ([row.metric for row in rows], [row.gain for row in rows])]
    room = (width - 8 - max(19, names[0]) - max(13, names[1])) // 2
    arms = [f"{arm}\n{fold_recipe(recipe, room)}" for arm, recipe in (("Without", record), ("With", candidate))]
    heads = (first, *arms, last)
    table = new_table(None, heads, left=heads[:1], whole=heads[:-1])
    for row in rows:
        without = Text(f"{row.without} *", "bold") if row.winner == "Without" else f"{row.without}  "
        with_ = Text(f"{row.with_} *", "bold green") if row.winner == "With" else f"{row.with_}  "
        table.add_row(row.metric, without, with_, row.gain)
    return table


def noise_table(report: NoiseReport, track: str) -> Table:
    """A table of a noise study (how much gains vary by chance), with one line for each variant.

    Standard deviations are in nats per token.
    """
    heads = ("variant", "pairs", "mean gain", "deviation:\nbase", "variant", "paired", "correlation")
    table = new_table(f"noise of {track}, nats per token", heads, left=heads[:1], whole=heads[:1])
    for one in report.variants:
        deviations = (f"{sd:.4f}" for sd in (one.base_sd, one.variant_sd, one.paired_sd))
        correlation = (
            f"{one.correlation:+.2f}" if one.correlation is not None and one.pairs >= FEWEST_CORRELATED else ""
        )
        table.add_row(one.variant, str(one.pairs), f"{one.mean_gain:+.4f}", *deviations, correlation)
    return table


def plan_table(plan: ContestPlan, track: str) -> Table:
    """A table with one line for each true gain that is assumed.

    Numbers of runs and times are means over all simulated comparisons.
    """
    stages = ("screen", "confirmation", "both")
    heads = ("gain", "passes\nthe screen", "accepted", *(f"{stage}\nruns, time" for stage in stages))
    table = new_table(f"what to expect on {track}", heads, whole=heads)
    for one in plan.expected:
        shares = (f"{100 * share:.{1 if share < 0.1 else 0}f} %" for share in (one.passed, one.accepted))
        costs = (
            f"{cost.runs:.1f}" + ("" if cost.time_s is None else f", {duration(cost.time_s)}")
            for cost in (one.screen, one.confirmation, one.total)
        )
        table.add_row("none" if one.gain == 0 else f"{one.gain:g}", *shares, *costs)
    return table


def runs_table(recipe: str, runs: Sequence[FinishedRun]) -> Table:
    """A table of a recipe's runs, with one line for each seed."""
    table = new_table(recipe, ("seed", *(metric.short for metric in METRICS), "tokens/s"))
    for run in runs:
        rate = f"{run.training.tokens / run.training.train_s:,.0f}"
        table.add_row(str(run.seed), *(metric.text(metric.read(run)) for metric in METRICS), rate)
    table.caption = memory_remark(runs)
    return table
