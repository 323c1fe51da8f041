"""Reads a run's number: a match of a regular expression, a key of a JSON file, or a line `METRIC name=value`.

If the last value is NaN or infinite, the run has no number and so has failed. NaN and infinity are therefore searched
for as well, because an expression such as `([0-9.]+)` would skip the NaN of a diverged run and find an earlier, good
number.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from harness.core.errors import LlmbenchError
from harness.core.project import sha256
from harness.core.track import LONGEST_QUOTE
from harness.rule.stats import LARGEST

LONGEST_LOG = 64 << 20
"""Largest number of bytes that are read from the end of a log."""
TAIL_LINES = 15
MOST_POINTS = 1000
"""Largest number of points of a curve. Of a longer curve, every second, third, ... point is kept."""
NOT_A_NUMBER = rb"([+-]?(?:[nN][aA][nN]|[iI][nN][fF](?:[iI][nN][iI][tT][yY])?))"
ALONE = rb"(?![A-Za-z_])"
"""Follows NOT_A_NUMBER in an expression, so that the words `nanoGPT` and `info` do not match."""


class NoNumberError(Exception):
    """Raised if a run has no number; the message says why."""


class Reading(NamedTuple):
    """The numbers of one run."""

    value: float
    also: dict[str, float]
    """Name -> value of each further number that was found."""
    curve: tuple[tuple[float, float], ...]
    """The points of the curve, each (step, number)."""
    trace: str
    """SHA-256 of all numbers of the run, in order. It is the same for two seeds if the trainer ignores its seed."""


def check_patterns(metric: str, metric_file: str | None, also: Mapping[str, str], curve: str | None) -> None:
    """Raises LlmbenchError if a setting cannot be used, such as an invalid regular expression."""
    if metric_file is None and "(" in metric:
        _compile(metric, 1, "metric")
    elif metric_file is None and not re.fullmatch(r"[\w./-]+", metric):
        raise LlmbenchError(
            f"metric '{metric}' is neither a name nor a regular expression with a group around the number, such as "
            f"'val loss ([0-9.]+)'; write it as one of these"
        )
    for name, pattern in also.items():
        _compile(pattern, 1, f"also.{name}")
    if curve is not None:
        _compile(curve, 2, "curve")


def _compile(pattern: str, groups: int, name: str) -> re.Pattern[bytes]:
    try:
        found = re.compile(pattern.encode(), re.MULTILINE)
    except (re.error, OverflowError, RecursionError) as error:
        raise LlmbenchError(f"{name} '{pattern[:LONGEST_QUOTE]}' is not a valid regular expression: {error}") from error
    if found.groups != groups:
        what = "one group, (...), around the number" if groups == 1 else "two groups, around the step and the number"
        raise LlmbenchError(f"{name} '{pattern}' must have {what}; write any other group as (?:...)")
    return found


def read_run(
    metric: str, file: Path | None, also: Mapping[str, str], curve: str | None, log: Path, *, since: float
) -> Reading:
    """The numbers of a run that has ended. `file` must be written after `since`, a time in seconds since 1970.

    Raises NoNumberError if the run has no number.
    """
    text = read_log(log).replace(b"\r", b"\n")  # a progress bar ends lines with \r
    if file is not None:
        found = [*_numbers_in(file, metric, since)]
    elif "(" in metric:
        found = [*_matches(metric, text)]
    else:
        found = [*_matches(rf"^METRIC[ \t]+{re.escape(metric)}[ \t]*=[ \t]*(\S+)", text, metric)]
    if not found:
        raise NoNumberError(f"no number: '{metric}' is not in {file or 'the output of the command'}")
    value = found[-1]
    if not _is_usable(value):
        beyond = f", which is beyond {LARGEST:g}" if math.isfinite(value) else ""
        raise NoNumberError(f"no number: the last value of '{metric}' is {value}{beyond}")
    others = {}
    for name, pattern in also.items():
        with suppress(NoNumberError):
            own = [*_matches(pattern, text)]
            if own and _is_usable(own[-1]):
                others[name] = own[-1]
    points = _points(curve, text) if curve is not None else ()
    return Reading(value, others, points, sha256(repr((found, sorted(others.items()), points)).encode()))


def read_log(log: Path, longest: int = LONGEST_LOG) -> bytes:
    """The last `longest` bytes of a run's output."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - longest))
        return file.read()


def tail_of(text: bytes, count: int = TAIL_LINES) -> tuple[str, ...]:
    """The last `count` lines of a log that are not empty."""
    lines = [line.rsplit("\r", 1)[-1] for line in text.decode(errors="backslashreplace").split("\n")]
    return tuple([line for line in map(str.rstrip, lines) if line][-count:])


def _is_usable(value: float) -> bool:
    return abs(value) <= LARGEST  # false for NaN too


def _matches(pattern: str, text: bytes, name: str | None = None) -> Iterator[float]:
    """All numbers that the expression matches, including NaN and infinity, in the order of the text."""
    expressions = (_compile(pattern, 1, "metric"), _with_not_a_number(pattern))
    matches = [one for expression in expressions if expression is not None for one in expression.finditer(text)]
    for _, found in sorted({(one.start(1), one[1]) for one in matches if one[1] is not None}):
        try:
            yield float(found)
        except ValueError as error:
            shown = found[:80].decode(errors="backslashreplace")
            raise NoNumberError(f"no number: '{name or pattern}' matched '{shown}', which is not a number") from error


def _with_not_a_number(pattern: str) -> re.Pattern[bytes] | None:
    """The expression, with its group replaced by a group that matches NaN and infinity; None if that is impossible."""
    place = _group(pattern)
    if place is None:
        return None
    before, after = pattern[: place[0]].encode(), pattern[place[1] :].encode()
    alone = b"" if after[:1].isalpha() else ALONE  # a letter after the number belongs to a unit
    try:
        return re.compile(before + NOT_A_NUMBER + alone + after, re.MULTILINE)
    except re.error:
        return None


def _group(pattern: str) -> tuple[int, int] | None:
    """The positions at which an expression's only capturing group begins and ends; None if it has none."""
    open_at: list[int | None] = []
    place, in_set = 0, False
    while place < len(pattern):
        sign = pattern[place]
        if sign == "\\":
            place += 1
        elif in_set:
            in_set = sign != "]"
        elif sign == "[":
            in_set = True
            place += pattern[place + 1 : place + 2] == "^"
            place += pattern[place + 1 : place + 2] == "]"  # a "]" may be the first character of a set
        elif sign == "(":
            plain = pattern[place + 1 : place + 2] != "?" or pattern[place + 1 : place + 4] == "?P<"
            open_at.append(place if plain else None)
        elif sign == ")" and open_at:
            start = open_at.pop()
            if start is not None:
                return start, place + 1
        place += 1
    return None


def _points(curve: str, text: bytes) -> tuple[tuple[float, float], ...]:
    points = []
    for one in _compile(curve, 2, "curve").finditer(text):
        try:
            point = float(one[1]), float(one[2])
        except (TypeError, ValueError):
            continue
        if all(map(_is_usable, point)):
            points.append(point)
    return tuple(points[:: max(1, math.ceil(len(points) / MOST_POINTS))])


def _numbers_in(file: Path, key: str, since: float) -> Iterator[float]:
    """All values of a key in a JSON or JSON-lines file. `eval.loss` is the key `loss` within the key `eval`."""
    try:
        written = file.stat().st_mtime
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NoNumberError(f"no number: the trainer did not write {file}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise NoNumberError(f"no number: {file} cannot be read ({error})") from error
    if written < since - 2:  # some file systems store times in whole seconds
        raise NoNumberError(
            f"no number: the trainer did not write {file}; the file with this name is older than the run"
        )
    for content in _documents(file, text):
        for part in key.split("."):
            content = content.get(part) if isinstance(content, dict) else None
        if isinstance(content, int | float) and not isinstance(content, bool):
            try:
                yield float(content)
            except OverflowError:  # an integer of 400 digits
                yield math.inf
        elif content is not None:
            raise NoNumberError(f"no number: '{key}' in {file} is {content!r:.80}, which is not a number")


def _documents(file: Path, text: str) -> Iterator[object]:
    """The content of a JSON file or, for a JSON-lines file, the content of each line."""
    try:
        yield json.loads(text)
        return
    except RecursionError as error:
        raise NoNumberError(f"no number: the JSON in {file} has too many levels") from error
    except ValueError as error:
        whole = error
    for line in filter(str.strip, text.splitlines()):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise NoNumberError(f"no number: {file} is neither JSON nor JSON lines ({whole})") from error
