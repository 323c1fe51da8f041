"""Reads the input of `llmbench judge`: a text file, standard input, or a folder of runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from harness.core.errors import LlmbenchError, did_you_mean
from harness.core.project import read_bytes
from harness.core.runs import parse_json
from harness.core.track import LONGEST_QUOTE, explain_validation
from harness.rule.external import Judgement, Numbers, judge_numbers
from harness.rule.files.folders import EVENTS, STATE, read_folder
from harness.rule.files.rows import Names, Read, sort_rows
from harness.rule.files.tables import read_lines, read_table

STDIN = Path("-")
LARGEST_BYTES = 32 * 2**20
TABLES = (".csv", ".tsv")
NO_NAMES = Names()
WHOLE = (
    "name a folder with one folder for the record's runs and one for the candidate's, each with one folder for each run"
)


class Found(NamedTuple):
    """The numbers of a file, and notes on how they were read."""

    numbers: Numbers
    notes: tuple[str, ...] = ()


def judge_file(path: Path, options: Mapping[str, object] | None = None, names: Names = NO_NAMES) -> Judgement:
    """Read a file, standard input (`-`) or a folder, and judge its numbers.

    Raises LlmbenchError if the input cannot be read. Raises UndecidedError if no look (test) has decided, and there are
    more pairs than one look needs but too few for the next look.
    """
    return judge_numbers(*read_numbers(path, options, names))


def read_numbers(path: Path, options: Mapping[str, object] | None = None, names: Names = NO_NAMES) -> Found:
    """The numbers of the file. `options` override the keys of a JSON file.

    Raises LlmbenchError if the file is not as expected. The message names the file and the place, and says what to do.
    """
    given = dict(options or {})
    name = "standard input" if path == STDIN else str(path)
    if path.is_dir():
        names.refuse_others(("record_arm", "candidate_arm", "tag"), "a folder of runs")
        rows, notes = read_folder(path, names.tag)
        content, more = _sorted(name, rows, names, given)
        return Found(_numbers(name, content | given), (*notes, *more))
    if STATE in path.name or EVENTS in path.name:
        raise LlmbenchError(f"{name} belongs to a single run; {WHOLE}")
    text = _text(path, name)
    start, suffix = text.lstrip()[:1], path.suffix.lower()
    if suffix in TABLES or (start not in ("{", "[") and suffix != ".json"):
        found = read_table(name, text, names)
    elif (lists := _whole_json(name, text, suffix, names)) is not None:
        names.refuse_others((), "a JSON file of two lists, whose keys name the arms")
        known = lists | given
        if known.get("looks") and known.get("target") is None:
            known.setdefault("paired", True)
        return Found(_numbers(name, known))
    else:
        found = read_lines(name, text, names)
    content, more = _sorted(name, found[0], names, given)
    return Found(_numbers(name, content | given), (*found[1], *more))


def _sorted(name: str, rows: Any, names: Names, options: Mapping[str, object]) -> Read:
    try:
        return sort_rows(rows, names, options)
    except LlmbenchError as error:
        raise LlmbenchError(f"{name}: {error}") from error


def _numbers(name: str, content: Mapping[str, object]) -> Numbers:
    known = list(Numbers.model_fields)
    if unknown := [key[:LONGEST_QUOTE] for key in content if key not in known]:
        meant = did_you_mean(unknown[0], known)
        raise LlmbenchError(f"{name}: unknown key '{unknown[0]}'{meant}; known keys are {', '.join(known)}")
    try:
        return Numbers.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise LlmbenchError(f"{name}: {explain_validation(error)}") from error


def _text(path: Path, name: str) -> str:
    """The file's text, without a byte order mark and with line feeds as line ends."""
    try:
        size = 0 if path == STDIN else path.stat().st_size
    except OSError:
        size = 0  # reading it below raises the error
    data = (
        b"" if size > LARGEST_BYTES else sys.stdin.buffer.read(LARGEST_BYTES + 1) if path == STDIN else read_bytes(path)
    )
    if max(size, len(data)) > LARGEST_BYTES:
        raise LlmbenchError(
            f"{name} is larger than {LARGEST_BYTES // 2**20} MiB; give one line for each run, with its final number"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LlmbenchError(f"{name} is not UTF-8 text: {error}; save it as CSV or JSON, in UTF-8") from error
    if "\0" in text:
        raise LlmbenchError(f"{name} is not UTF-8 text: it contains a zero byte; save it as CSV or JSON, in UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _whole_json(name: str, text: str, suffix: str, names: Names) -> dict[str, Any] | None:
    """The one JSON object that the text holds; None if it holds something else, such as one object in each line."""
    try:
        content = parse_json(text)
    except ValueError as error:
        first = text.lstrip().split("\n", 1)
        if suffix != ".jsonl" and (len(first) == 1 or not _is_object(first[0])):
            raise LlmbenchError(f"{name} is not valid JSON ({error}); correct it") from error
        return None
    if not isinstance(content, dict):
        raise LlmbenchError(
            f"{name} must contain either one JSON object with 'candidate' and one of 'record' and 'target', or in "
            f"each line an object with 'arm', 'seed' and 'value'"
        )
    if "log_history" in content:
        raise LlmbenchError(f"{name} belongs to a single run; {WHOLE}")
    return None if (names.arm_column or "arm") in content else content


def _is_object(line: str) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False
