"""`llmbench judge FILE`: the tests of `stats` for anyone's per-seed numbers, from any trainer, at one fixed look."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from harness.core.errors import LlmbenchError, did_you_mean
from harness.core.project import read_text
from harness.core.runs import parse_json
from harness.core.schema import Count, Strict
from harness.core.track import LONGEST_QUOTE, explain_validation
from harness.rule.stats import GainTest, TestName, gain_test, seed_problems
from harness.rule.verdict import Decision

CSV_COLUMNS = ("arm", "seed", "value")
ARMS = ("candidate", "record")
Value = Annotated[float, Field(allow_inf_nan=True)]  # a diverged run's NaN gets a verdict, not a parse error


class Numbers(Strict):
    """The content of a file: one number for each seed and arm, and how to compare them."""

    candidate: tuple[Value, ...]
    record: tuple[Value, ...] | None = None
    target: float | None = None
    """A fixed number to beat, instead of a record."""
    paired: bool = False
    """Values at the same place (in a CSV: with the same seed) are a pair."""
    margin: float = 0.0
    """What the gain must exceed, in the values' unit."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """One-sided level of the test."""
    sigma: Annotated[float, Field(gt=0)] | None = None
    """Standard deviation of a single value, if known beforehand: a z-test instead of a t-test."""
    lower_is_better: bool = True
    candidate_seeds: tuple[Count, ...] | None = None
    """Seeds of the candidate's values, if known: a seed must not count twice."""
    record_seeds: tuple[Count, ...] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Numbers:
        if (self.record is None) == (self.target is None):
            raise ValueError("give either 'record' (a list) or 'target' (a number)")
        if self.paired and self.record is None:
            raise ValueError("'paired' needs a 'record', a target has no pairs")
        if self.paired and self.sigma is not None:
            raise ValueError("'sigma' is the deviation of single values and does not go with 'paired'; drop one")
        for name in ARMS:
            seeds = getattr(self, f"{name}_seeds")
            if seeds is not None and len(seeds) != len(getattr(self, name) or ()):
                raise ValueError(f"'{name}_seeds' must have one seed for each value of '{name}'")
        return self


class Judgement(Strict):
    """The result of the test."""

    decision: Decision
    """`accepted` if p <= alpha, `undecided` if the test could not be made, else `rejected`."""
    test: TestName
    p_value: float | None
    """One-sided."""
    gain: float | None
    """Record (or target) minus candidate; candidate minus record where higher is better."""
    ci_low: float | None
    """Ends of the two-sided interval at level 1 - 2 alpha."""
    ci_high: float | None
    n: Count
    """Number of the candidate's values."""
    reasons: tuple[str, ...]
    """Codes for `reasons.explain`."""


def read_numbers(path: Path, options: Mapping[str, object] | None = None) -> Numbers:
    """Parse a `.csv` (columns arm, seed, value) or a JSON file strictly; `options` override its keys.

    Raises LlmbenchError with the file, the place and the fix.
    """
    text = read_text(path).removeprefix("\ufeff")  # spreadsheets start their files with a byte order mark
    content = (_from_csv(path, text) if path.suffix.lower() == ".csv" else _from_json(path, text)) | dict(options or {})
    known = list(Numbers.model_fields)
    if unknown := [key[:LONGEST_QUOTE] for key in content if key not in known]:
        meant = did_you_mean(unknown[0], known)
        raise LlmbenchError(f"{path}: unknown key '{unknown[0]}'{meant}; known keys are {', '.join(known)}")
    try:
        return Numbers.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise LlmbenchError(f"{path}: {explain_validation(error)}") from error


def judge_numbers(numbers: Numbers) -> Judgement:
    """Make the test that the design calls for; the values have no influence on the choice."""
    sign = 1.0 if numbers.lower_is_better else -1.0
    found = gain_test(
        [sign * value for value in numbers.record or ()] if numbers.target is None else sign * numbers.target,
        [sign * value for value in numbers.candidate],
        paired=numbers.paired,
        sigma=numbers.sigma,
        margin=numbers.margin,
        alpha=numbers.alpha,
    )
    problems = seed_problems(numbers.record_seeds or (), numbers.candidate_seeds or (), paired=numbers.paired)
    if problems:  # a test that counts a seed twice means nothing
        found = GainTest(found.test, found.n, found.alpha, reasons=tuple(dict.fromkeys(problems + found.reasons)))
    fields = found._asdict() | {"reasons": found.reasons or (("gain_shown",) if found.passes else ("not_shown",))}
    decision: Decision = "undecided" if found.reasons else "accepted" if found.passes else "rejected"
    return Judgement(decision=decision, **{key: fields[key] for key in Judgement.model_fields if key in fields})


def judge_file(path: Path, options: Mapping[str, object] | None = None) -> Judgement:
    """Read one file and judge it. Raises LlmbenchError where the file cannot be understood."""
    return judge_numbers(read_numbers(path, options))


def _from_json(path: Path, text: str) -> dict[str, Any]:
    """The object that a JSON file holds."""
    try:
        content = parse_json(text)
    except ValueError as error:
        raise LlmbenchError(f"{path} is not whole JSON: {error}") from error
    if not isinstance(content, dict):
        raise LlmbenchError(f"{path} must hold one JSON object with 'candidate' and 'record' or 'target'")
    return content


def _from_csv(path: Path, text: str) -> dict[str, Any]:
    """The arms of a CSV, each in the order of its seeds, so that equal seeds are paired."""
    rows = csv.DictReader(io.StringIO(text), strict=True)
    arms: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    try:
        if sorted(rows.fieldnames or ()) != sorted(CSV_COLUMNS):
            raise ValueError(f"the first line must be '{','.join(CSV_COLUMNS)}', found {rows.fieldnames}"[:800])
        for row in rows:
            if None in row or None in row.values():
                raise ValueError(f"expected {len(CSV_COLUMNS)} values, one for each column")
            if row["arm"] not in arms:
                raise ValueError(f"arm must be 'record' or 'candidate', found '{row['arm'][:LONGEST_QUOTE]}'")
            arms[row["arm"]].append((_number(int, row["seed"]), _number(float, row["value"])))
    except (csv.Error, ValueError) as error:
        what = "not a CSV line: " if isinstance(error, csv.Error) else ""
        raise LlmbenchError(f"{path}, line {rows.line_num}: {what}{error}") from error
    content: dict[str, Any] = {}
    for arm, values in arms.items():
        if values:
            content[f"{arm}_seeds"], content[arm] = zip(*sorted(values, key=lambda pair: pair[0]), strict=True)
    return content


def _number(kind: type[int] | type[float], text: str) -> float:
    try:
        if "_" in text:  # Python's own notation, not a table's
            raise ValueError
        return kind(text)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"'{text[:LONGEST_QUOTE]}' is not {what}") from error
