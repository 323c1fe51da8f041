"""Tables for the terminal. rich is loaded at the first one, and nothing here needs what the numbers were made with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.board.readme import Comparison, memory_remark
from harness.board.rows import COLUMNS, Row, cells, sections

if TYPE_CHECKING:
    from rich.table import Table

    from harness.core.runs import FinishedRun


def new_table(title: str | None = None) -> Table:
    """An empty table in the style of all tables: no frame, one rule below the head."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )


def facts_table(facts: Sequence[tuple[str, str]]) -> Table:
    """Names and what there is to say of each, below one another."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value in facts:
        table.add_row(Text(name), Text(value))
    table.columns[0].no_wrap, table.columns[1].overflow = True, "fold"
    return table


LEAST_RECIPE, WHOLE_PIECE = 16, 28  # characters: a recipe's column, and up to where a variant's name stays whole


GIVE_WAY = ("date", "stmts", "time", "pairs")


def board_tables(rows: Sequence[Row], width: int, newest: int | None = None) -> list[Table]:
    """The board for a terminal of `width` characters, the `newest` of each table; earlier editions of a track are dim.

    All tables have the same columns. Only the recipe wraps; where even that leaves no room, columns give way.
    """
    shown = [(track, title, found, [cells(row) for row in found[:newest]]) for track, title, found in sections(rows)]
    columns = [(name, justify, place) for place, (name, justify) in enumerate(COLUMNS)]
    needs = {
        name: max([len(name), *(len(line[place]) for *_, lines in shown for line in lines)])
        for name, _, place in columns
    }
    pieces = [piece for *_, lines in shown for line in lines for piece in _pieces(line[1])]
    least = min(max([LEAST_RECIPE, *map(len, pieces)]), WHOLE_PIECE)
    for name in ("", *GIVE_WAY):
        columns = [column for column in columns if column[0] != name]
        room = width + 1 - sum(needs[name] + 2 for name, *_ in columns if name != "recipe") - 2
        if room >= least:
            break
    needs["recipe"] = min(needs["recipe"], max(room, LEAST_RECIPE))
    tables = []
    for track, title, found, lines in shown:
        more = f" (the newest {len(lines)} of {len(found):,}; --all shows every one)"
        table = new_table(f"{track}: {title}{more if len(lines) < len(found) else ''}")
        for name, justify, _ in columns:
            table.add_column(name, justify=justify, overflow="fold", width=needs[name])  # type: ignore[arg-type]
        for line in lines:
            line[1] = _fold(line[1], needs["recipe"])
            table.add_row(*(line[place] for *_, place in columns), style="dim" if title == "earlier editions" else None)
        tables.append(table)
    return tables


def _fold(recipe: str, width: int) -> str:
    """In lines that begin with a variant or a word, as far as the width allows."""
    lines = [""]
    for piece in _pieces(recipe):
        lines[-1:] = [lines[-1] + piece] if len(lines[-1] + piece) <= width else [lines[-1], piece.lstrip()]
    return "\n".join(lines)


def _pieces(recipe: str) -> list[str]:
    """`base+token_smear (confirms 2)` -> `base`, `+token_smear`, ` (confirms 2)`."""
    return re.findall(r" ?\([^)]*\)|[+ ]?[^+ ]+", recipe)


def comparison_table(without: str, with_: str, rows: Sequence[Comparison]) -> Table:
    """The Without / With table for the terminal; a star is at the better value of each line."""
    table = new_table()
    table.add_column("mean over the pairs\n* the better one")
    table.add_column(f"Without\n{without}", justify="right")
    table.add_column(f"With\n{with_}", justify="right", overflow="fold")
    table.add_column("difference", justify="right")
    for row in rows:
        cells = (
            (f"{row.without}  ", f"[bold green]{row.with_} *[/]")
            if row.better
            else (f"[bold]{row.without} *[/]", f"{row.with_}  ")
        )
        table.add_row(row.metric, *cells, row.difference)
    return table


def runs_table(recipe: str, runs: Sequence[FinishedRun]) -> Table:
    """One line a seed."""
    table = new_table(recipe)
    for column in ("seed", "val loss", "accuracy", "perplexity", "bits/byte", "time", "tokens/s"):
        table.add_column(column, justify="right")
    for run in runs:
        scores = run.evaluation
        table.add_row(
            str(run.seed),
            f"{scores.val_loss:.4f}",
            f"{100 * scores.val_accuracy:.2f} %",
            f"{scores.perplexity:.2f}",
            f"{scores.bits_per_byte:.4f}",
            f"{run.training.train_s:.1f} s",
            f"{run.training.tokens / run.training.train_s:,.0f}",
        )
    table.caption = memory_remark(runs)
    return table
