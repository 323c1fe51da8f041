"""Reads rows from text: a table with a header, or one JSON object in each line."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.errors import LlmbenchError, did_you_mean
from harness.core.runs import parse_json
from harness.rule.files.rows import Names, Row, as_float, listed, quote

COLUMNS = ("arm", "seed", "value")
SEPARATORS = ",;\t"
EXPECTED = "the first line must be 'arm,seed,value'"


def read_table(name: str, text: str, names: Names) -> tuple[list[Row], list[str]]:
    """The rows of a table with a header, and notes on its columns.

    Cells are separated by commas, semicolons or tabs. Columns that are not needed are ignored. Raises LlmbenchError if
    a line is not as expected. The message names the file and the line, and says what to do.
    """
    first = next(filter(str.strip, text.splitlines()), "")
    separator = max(SEPARATORS, key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        every = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise LlmbenchError(f"{name}, line {reader.line_num}: not a valid CSV line ({error}); correct it") from error
    lines = [(number, cells) for number, cells in every if any(cells)]  # a spreadsheet may have empty rows at its end
    if not lines:
        raise LlmbenchError(f"{name} is empty; {EXPECTED}, and each line below it must be one run")
    (number, header), *rest = lines
    where = f"{name}, line {number}"
    if len(header) == 1:
        raise LlmbenchError(
            f"{where}: {EXPECTED}; these three names may be in another order, and separated by commas, semicolons or "
            f"tabs; found {quote(header[0])}"
        )
    if twice := [column for column in header if column and header.count(column) > 1]:
        raise LlmbenchError(f"{where}: two columns are named {quote(twice[0])}; rename one")
    rows = []
    for number, cells in rest:
        if len(cells) != len(header):
            raise LlmbenchError(
                f"{name}, line {number}: expected {len(header)} values, one for each column, found {len(cells)}"
            )
        rows.append((f"line {number}", dict(zip(header, cells, strict=True))))
    return _rows(name, where, header, rows, names)


def read_lines(name: str, text: str, names: Names) -> tuple[list[Row], list[str]]:
    """The rows of JSON lines, and notes on their keys.

    Each line is the JSON object of one run. Its keys are named like the columns of a table; other keys are ignored.
    Raises LlmbenchError if a line is not as expected. The message names the file and the line, and says what to do.
    """
    rows: list[tuple[str, dict[str, Any]]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = parse_json(line)
        except ValueError as error:
            raise LlmbenchError(
                f"{name}, line {number}: not valid JSON ({error}); write one JSON object in each line"
            ) from error
        if not isinstance(found, dict):
            raise LlmbenchError(f"{name}, line {number}: must be one JSON object, with arm, seed and value")
        rows.append((f"line {number}", found))
    keys = list(dict.fromkeys(key for _, row in rows for key in row))
    return _rows(name, f"{name}, line 1", keys, rows, names)


def _rows(
    name: str, head: str, columns: Sequence[str], rows: Sequence[tuple[str, Mapping[str, Any]]], names: Names
) -> tuple[list[Row], list[str]]:
    names.refuse_others(("record_arm", "candidate_arm", "arm_column", "seed_column", "value_column"), "a table")
    arm = _column(head, columns, "arm", names.arm_column)
    seed = _column(head, columns, "seed", names.seed_column)
    value, notes = names.value_column, []
    if value is None and "value" not in columns:
        numeric = [
            one for one in columns if one not in (arm, seed) and rows and _all_numbers(row.get(one) for _, row in rows)
        ]
        if len(numeric) == 1:
            value, notes = numeric[0], [f"values from the column {quote(numeric[0])}"]
        elif numeric:
            raise LlmbenchError(
                f"{head}: no column is named 'value', and {listed(numeric)} contain numbers; choose one of these with "
                f"--value-column"
            )
    value = _column(head, columns, "value", value)
    found = []
    for place, row in rows:
        for column in (arm, seed, value):
            if row.get(column) is None or row[column] == "":
                raise LlmbenchError(f"{name}, {place}: there is no {column}; fill it in, or delete the line")
        if not isinstance(row[arm], str | int):
            raise LlmbenchError(
                f"{name}, {place}: {quote(str(row[arm]))} cannot be the name of an arm; write it as text"
            )
        try:
            found.append(Row(str(row[arm]), _whole(row[seed]), _number(row[value]), place))
        except ValueError as error:
            raise LlmbenchError(f"{name}, {place}: {error}") from error
    return found, notes


def _column(head: str, columns: Sequence[str], role: str, given: str | None) -> str:
    """Name of the column with the role `role` (arm, seed or value). Raises LlmbenchError if there is no such column."""
    column = given or role
    if column in columns:
        return column
    option, found = f"--{role}-column", f"found {listed(columns)}"
    if given is not None:
        raise LlmbenchError(f"{head}: {option} {given}: there is no such column{did_you_mean(given, columns)}; {found}")
    raise LlmbenchError(f"{head}: no column is named '{role}' ({found}); {EXPECTED}, or name the column with {option}")


def _all_numbers(cells: Any) -> bool:
    for cell in cells:
        try:
            _number(cell)
        except ValueError:
            return False
    return True


def _number(cell: object) -> float:
    """The number in a cell, which may be NaN or infinite. Raises ValueError that says what is wrong."""
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        return as_float(cell)
    if isinstance(cell, str) and "_" not in cell:  # 1_000 is a number in Python, but not in a table
        try:
            return float(cell)
        except ValueError:
            pass
    point = str(cell).replace(",", ".", 1) if isinstance(cell, str) and cell.count(",") == 1 else ""
    fix = f"; write {point}" if point and _all_numbers([point]) else ""
    raise ValueError(f"{quote(str(cell))} is not a number{fix}")


def _whole(cell: object) -> int:
    """The seed in a cell. `3.0` is read as 3, because pandas may write it so.

    Raises ValueError that says what is wrong.
    """
    try:
        if isinstance(cell, str) and "_" not in cell and "." not in cell:
            found: float = int(cell)
        else:
            found = _number(cell)
        if found < 0 or found != int(found):
            raise ValueError
        return int(found)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{quote(str(cell))} is not a seed; a seed is a whole number, 0 or more") from error
