"""Writes the board's rows, one for each submission, as `leaderboard.csv` and as tables, and reads them back."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, create_model

from harness.board.metrics import METRICS
from harness.core.project import DEFAULT_TRACK, Project, read_text, submission_folders
from harness.core.schema import Count, Strict

HOLDING = ("opening", "record")  # kinds of submissions that can be a track's present record


class Row(Strict):
    """One line of `leaderboard.csv`: scores from the submission's runs, and numbers from its verdict. For a confirmed
    record, the verdict is that of the re-run that confirmed it.

    `verify` checks that these verdicts follow from the runs.
    """

    number: Count
    date: str
    track: str
    track_digest: str
    """First twelve digits of the digest of the track's file. Rows with different digests are not comparable."""
    kind: str
    state: str
    """For a record: `provisional`, `disputed` or `retracted`, or empty once it is confirmed. For a challenge:
    `confirms N`, `refutes N` or `leaves N open`."""
    lane: str
    recipe: str
    beaten: str
    """Recipe of the record that the candidate was measured against; empty for the base, which opens a track."""
    confirmed_by: int | None
    """For a record: number of the newest re-run (challenge) that confirmed it. Pairs, gain, interval and p-value are
    then those of the re-run."""
    pairs: Count
    val_loss: float | None
    """Mean over the candidate's seeds, in nats per token; None for a challenge if no run of the candidate finished."""
    bits_per_byte: float | None
    gain: float | None
    """The record's loss minus the candidate's, in nats per token; in the lane `speed`, the logarithm of the time ratio
    record / candidate."""
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    time_ratio: float | None
    """Ratio of training times, candidate / record."""
    statements: Count
    """Cost of the whole recipe, in statements."""
    folder: str


def _other_columns() -> dict[str, Any]:
    """Name -> (type, field), for the metrics' columns that the class `Row` does not declare."""
    found: dict[str, Any] = {}
    for metric in METRICS:
        number = int if metric.whole else float
        found[metric.mean_column] = number | None, Field(description=f"Mean {metric.name} of the candidate's runs.")
        found[metric.ratio_column] = float | None, Field(description=f"Mean {metric.name}, candidate / record.")
    return {name: field for name, field in found.items() if name and name not in Row.model_fields}


if not TYPE_CHECKING:  # adds these columns at the end of a row
    Row = create_model("Row", __base__=Row, __doc__=Row.__doc__, __module__=__name__, **_other_columns())


def format_csv(rows: Sequence[Row]) -> str:
    """The exact text of `leaderboard.csv`. A number that does not exist is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Row.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.model_dump() for row in rows)
    return text.getvalue()


def stored_rows(project: Project) -> list[Row] | None:
    """The rows as `leaderboard.csv` has them. None if the file does not list exactly the folders in submissions/."""
    names = [folder.name for folder in submission_folders(project)]
    if names and project.leaderboard.exists():
        with suppress(ValidationError, csv.Error):
            rows = [_parse_row(line) for line in csv.DictReader(io.StringIO(read_text(project.leaderboard)))]
            if [row.folder for row in rows] == names:
                return rows
    return None


_NUMBERS = {name for name, field in Row.model_fields.items() if field.annotation in (float | None, int | None)}


def _parse_row(cells: dict[str, str]) -> Row:
    """The row in one line of the CSV. Raises ValidationError if it is not a valid row."""
    content = {key: None if key in _NUMBERS and not cell else cell for key, cell in cells.items()}
    return Row.model_validate(content, strict=False)


BOARD_START, BOARD_END = "<!-- board: written by `llmbench leaderboard --rebuild` -->\n", "<!-- end of board -->"


MOST_ROWS = 10  # most records that a README shows


def with_board(text: str, rows: Sequence[Row], multiples: Mapping[str, float] | None = None) -> str:
    """`text`, the README, with the board of `rows` between the two comments that enclose it; unchanged if the comments
    are missing.

    `multiples` maps a track to the factor by which the base's compute must grow to reach the record's loss.
    """
    before, start, rest = text.partition(BOARD_START)
    _, end, after = rest.partition(BOARD_END)
    return "".join((before, start, board_markdown(rows, multiples or {}), end, after)) if start and end else text


def sections(rows: Sequence[Row]) -> list[tuple[str, str, list[Row]]]:
    """The board in sections (track, title, rows), with the newest rows first.

    For each track, its records come first, then its other submissions, then those on earlier versions of the track.
    """
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
            ("earlier versions of the track", [row for row in own if row.track_digest != edition]),
        ):
            if chosen:
                found.append((track, title, chosen))
    return found


def multiple_sentence(multiple: float) -> str:
    """A sentence with `multiple`, the factor by which the base's compute must grow to reach the record's loss."""
    return f"To reach the record's loss, the base needs about {multiple:.1f} times the compute"


def board_markdown(rows: Sequence[Row], multiples: Mapping[str, float]) -> str:
    """The board as Markdown: a table with the records of the default track, a line with the record of each other track,
    and the number of other submissions. If the default track has no records, the first track gets the table.
    """
    parts = sections(rows)
    held = [track for track, title, _ in parts if title == "records"]
    main = DEFAULT_TRACK if DEFAULT_TRACK in held else next(iter(held), None)
    table, more, others = list[str](), list[str](), Counter[str]()
    for track, title, chosen in parts:
        if title != "records":
            others[title] += len(chosen)
        elif track == main:
            table = [f"**`{track}`, records**", "", f"| {' | '.join(column.head for column in COLUMNS)} |"]
            table += [f"|{'|'.join('---:' if column.justify == 'right' else '---' for column in COLUMNS)}|"]
            for row in chosen if len(chosen) <= MOST_ROWS else (*chosen[: MOST_ROWS - 1], chosen[-1]):
                cells = [column.text(row) for column in COLUMNS]
                cells[1] = _linked(row)
                table.append(f"| {' | '.join(cells)} |")
            table.append("")
            if len(chosen) > MOST_ROWS:
                table += [f"The newest {MOST_ROWS - 1} of {len(chosen)} records, and the first one, the base.", ""]
            if track in multiples:
                table += [f"{multiple_sentence(multiples[track])} ([how that is measured](docs/scale.md)).", ""]
        else:
            loss = "" if chosen[0].val_loss is None else f", val loss {chosen[0].val_loss:.4f}"
            more.append(f"- Record of `{track}`: {_linked(chosen[0])}{loss}")
    more += [""] if more else []
    if others:
        plain = {"negative results": "ideas that were not accepted", "challenges": "records that were trained again"}
        counts = ", ".join(f"{plain.get(title, title)} ({count})" for title, count in others.items())
        more += [
            f"Other submissions: {counts}. See [all ideas](docs/ideas.md) and [all submissions](leaderboard.csv).",
            "",
        ]
    return "\n".join(table + more)


def _linked(row: Row) -> str:
    return f"[`{change_of(row)}`](submissions/{row.folder}){_remark(row)}"


@dataclass(frozen=True)
class Column:
    """One column of the board."""

    head: str
    """Title of the column."""
    about: str
    """What the column shows, in a few words."""
    field: str
    """Name of the field of `Row` that the column shows."""
    form: str = "{}"
    justify: Literal["left", "right"] = "right"

    def text(self, row: Row) -> str:
        """The text of this column for a row; empty if the number does not exist."""
        value = getattr(row, self.field)
        if value is None or (self.field == "pairs" and value == 0):
            return ""
        return f"{change_of(row)}{_remark(row)}" if self.field == "recipe" else self.form.format(value)


def change_of(row: Row) -> str:
    """How a row's recipe differs from the record that it was measured against, such as `+idea` or `-idea`.

    For the first submission of a track, which was compared with nothing, it is the name of its recipe.
    """
    ours, theirs = row.recipe.split("+"), row.beaten.split("+")
    changed = [f"+{name}" for name in ours if name not in theirs] + [f"-{name}" for name in theirs if name not in ours]
    return " ".join(changed) if row.beaten and changed else row.recipe


def _remark(row: Row) -> str:
    confirmed = f"confirmed by {row.confirmed_by}" if row.confirmed_by is not None else ""
    lane = f"lane {row.lane}" if row.lane != "loss" else ""
    remark = ", ".join(filter(None, [lane, confirmed, row.state]))
    return f" ({remark})" if remark else ""


_HEADLINES = [metric for metric in METRICS if metric.headline]
COLUMNS = (
    Column("#", "number of the submission", "number"),
    Column("change", "variants added to the record of that time (+) or removed from it (-)", "recipe", justify="left"),
    *(Column(m.short, f"{m.name}, mean over the seeds", m.mean_column, m.form) for m in _HEADLINES if m.mean_column),
    Column(
        "gain",
        "the record's val loss minus the candidate's; in the lane speed the log of the time ratio record / candidate; "
        "for a confirmed record, the gain of the re-run",
        "gain",
        "{:+.4f}",
    ),
    Column(
        "p",
        "one-sided p-value, which allows for the repeated tests of a confirmation; for a confirmed record, that of the "
        "re-run",
        "p_value",
        "{:.2g}",
    ),
    Column("pairs", "number of pairs of runs from which gain and p were computed", "pairs"),
    *(
        Column(
            f"{m.short} ratio" if m.mean_column else m.short, f"{m.name}, candidate / record", m.ratio_column, "x{:.2f}"
        )
        for m in _HEADLINES
        if m.ratio_column
    ),
    Column("stmts", "Python statements of all the recipe's variants", "statements"),
    Column("date", "date of the submission", "date", justify="left"),
)
