"""The board's rows: `leaderboard.csv` and the tables that are made of it. How a row is made is in leaderboard.py."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import suppress

from pydantic import ValidationError

from harness.core.project import Project, read_text, submission_folders
from harness.core.schema import Count, Strict

HOLDING = ("opening", "record")  # kinds of submission that can hold a track


class Row(Strict):
    """One line of `leaderboard.csv`: scores from the submission's runs, and the numbers of its verdict.

    Whether that is the verdict on those runs, `verify` says, which judges every one anew.
    """

    number: Count
    date: str
    track: str
    track_digest: str
    """The first twelve digits: rows of different editions of a track are not one contest."""
    kind: str
    state: str
    """Of a record: empty, `disputed` or `retracted`. Of a challenge: `confirms N`, `refutes N` or `leaves N open`."""
    lane: str
    recipe: str
    beaten: str
    """The recipe that it was measured against; empty for an opening."""
    pairs: Count
    val_loss: float | None
    """Mean over the candidate's seeds, nats per token; None in a challenge where no run of the candidate finished."""
    bits_per_byte: float | None
    gain: float | None
    """Nats per token, record minus candidate."""
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    time_ratio: float | None
    """Training time, candidate / record."""
    statements: Count
    """Cost of the recipe."""
    folder: str


def format_csv(rows: Sequence[Row]) -> str:
    """The exact text of `leaderboard.csv`; an empty cell is a number that there is not."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Row.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.model_dump() for row in rows)
    return text.getvalue()


def stored_rows(project: Project) -> list[Row] | None:
    """The board as `leaderboard.csv` has it, which `verify` proves; None where it is not about these folders."""
    names = [folder.name for folder in submission_folders(project)]
    if names and project.leaderboard.exists():
        with suppress(ValidationError, csv.Error):
            rows = [_parse_row(line) for line in csv.DictReader(io.StringIO(read_text(project.leaderboard)))]
            if [row.folder for row in rows] == names:
                return rows
    return None


_NUMBERS = {name for name, field in Row.model_fields.items() if field.annotation == float | None}


def _parse_row(cells: dict[str, str]) -> Row:
    """One line of the CSV. Raises ValidationError where it is none."""
    content = {key: None if key in _NUMBERS and not cell else cell for key, cell in cells.items()}
    return Row.model_validate(content, strict=False)


BOARD_START, BOARD_END = "<!-- board: written by `llmbench leaderboard --rebuild` -->\n", "<!-- end of board -->"


def with_board(text: str, rows: Sequence[Row]) -> str:
    """A README's text with the board between its two marks; unchanged where it has no marks."""
    before, start, rest = text.partition(BOARD_START)
    _, end, after = rest.partition(BOARD_END)
    return "".join((before, start, board_markdown(rows), end, after)) if start and end else text


def sections(rows: Sequence[Row]) -> list[tuple[str, str, list[Row]]]:
    """(track, title, rows): for each track what stands, newest first, what fell or did not win, earlier editions."""
    found = []
    for track in sorted({row.track for row in rows}):
        own = sorted((row for row in rows if row.track == track), key=lambda row: -row.number)
        edition = next((row.track_digest for row in own if row.kind == "opening"), None)
        current = [row for row in own if row.track_digest == edition]
        for title, chosen in (
            ("records", [row for row in current if row.kind in HOLDING and row.state != "retracted"]),
            ("retracted records", [row for row in current if row.state == "retracted"]),
            ("negative results", [row for row in current if row.kind == "negative"]),
            ("challenges", [row for row in current if row.kind == "challenge"]),
            ("earlier editions", [row for row in own if row.track_digest != edition]),
        ):
            if chosen:
                found.append((track, title, chosen))
    return found


def board_markdown(rows: Sequence[Row]) -> str:
    """The board as Markdown tables."""
    lines = []
    for track, title, chosen in sections(rows):
        lines += [f"**`{track}`, {title}**", "", "| " + " | ".join(name for name, _ in COLUMNS) + " |"]
        lines += ["|" + "|".join("---:" if justify == "right" else "---" for _, justify in COLUMNS) + "|"]
        for row in chosen:
            number, _, *rest = cells(row)
            recipe = f"[`{row.recipe}`](submissions/{row.folder}){_remark(row)}"
            lines += ["| " + " | ".join((number, recipe, *rest)) + " |"]
        lines.append("")
    return "\n".join(lines)


COLUMNS = (
    ("#", "right"),
    ("recipe", "left"),
    ("val loss", "right"),
    ("gain", "right"),
    ("p", "right"),
    ("pairs", "right"),
    ("time", "right"),
    ("stmts", "right"),
    ("date", "left"),
)


def cells(row: Row) -> list[str]:
    """A row as the board shows it, one text a column."""
    return [
        str(row.number),
        row.recipe + _remark(row),
        "" if row.val_loss is None else f"{row.val_loss:.4f}",
        "" if row.gain is None else f"{row.gain:+.4f}",
        "" if row.p_value is None else f"{row.p_value:.2g}",
        str(row.pairs) if row.pairs else "",
        "" if row.time_ratio is None else f"x{row.time_ratio:.2f}",
        str(row.statements),
        row.date,
    ]


def _remark(row: Row) -> str:
    return f" ({row.state})" if row.state else ""
