"""Reads the settings of a comparison, from the options of `llmbench compare` and the file `llmbench.toml`."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from harness.compare.metric import check_patterns
from harness.core.errors import LlmbenchError, did_you_mean
from harness.core.project import read_text, sha256
from harness.core.schema import Count, Positive, Strict, parse_duration
from harness.core.track import LONGEST_QUOTE, explain_validation
from harness.rule.sequential import check_levels, spend, usual_weights

FILE = "llmbench.toml"
SEED, OUT = "{seed}", "{out}"
USUAL_LOOKS, USUAL_LEVELS = (3, 4, 6, 8), (0.001438, 0.001869, 0.002876, 0.005751)
"""Numbers of pairs after which the test may decide (looks), and the significance level at each, as on the tracks.

The false-accept rate over all looks together is 0.01 (benchmarks/verdict).
"""
FUTILITY = 0.5  # one-sided level: stop early if the mean gain is not above its margin, as on the tracks
TIME_LEVEL = 0.2  # significance level of the test on training time, as on the tracks
FEWEST_STORED = 3
MOST_PAIRS = 50
"""Largest number of pairs of a comparison. With more pairs, the levels take long to compute and lose precision."""


class Declared(Strict):
    """The numbers of pairs after which the test may decide (looks), and the significance level at each.

    The rule uses it as a `harness.rule.sequential.Looks`.
    """

    looks: tuple[Positive, ...]
    levels: tuple[float, ...]
    alpha: float
    futility_alpha: float | None = FUTILITY
    design: Literal["paired", "stored"]


class Settings(Strict):
    """The settings of a comparison. In commands, `{seed}` becomes the run's seed and `{out}` the run's own folder."""

    run: str | None = None
    """The command of both arms, if two revisions of a git repository are compared."""
    record: str | None = None
    """The record's command, if two commands are compared."""
    candidate: str | None = None
    metric: Annotated[str, Field(min_length=1)]
    """How the run's number is found. Either a regular expression with one group, whose last match in the output counts.
    Or the `name` in a printed line `METRIC name=value`. Or, with `metric_file`, a key of that file."""
    metric_file: str | None = None
    """A JSON or JSON-lines file that the trainer writes. In its path, `{out}` and `{seed}` are replaced."""
    lower_is_better: bool = True
    also: dict[str, str] = Field(default_factory=dict)
    """Further numbers that are shown but not judged: name -> regular expression."""
    curve: str | None = None
    """A regular expression with two groups, a step and a number. Its matches are drawn as a curve, but not judged."""
    seed_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """An environment variable that gets the run's seed, in addition to `{seed}` or instead of it."""
    seeds: tuple[Count, ...] | None = None
    """Fixed seeds. By default seeds are computed from both arms, so that nobody can choose seeds with known results."""
    looks: tuple[Positive, ...] = USUAL_LOOKS
    """Numbers of pairs after which the test may decide."""
    alpha: Annotated[float, Field(ge=1e-6, lt=0.5)] = 0.01
    """One-sided false-accept rate over all tests of the comparison together."""
    design: Literal["paired", "stored"] = "paired"
    """`paired`: each comparison trains its own pairs. `stored`: every candidate is compared with the same runs of the
    record, as many as `stored_runs` says."""
    stored_runs: Annotated[int, Field(ge=FEWEST_STORED)] = 8
    margin: Annotated[float, Field(ge=0)] = 0.0
    """The value that the gain must exceed, in the metric's unit."""
    price: Annotated[float, Field(ge=0)] = 0.0
    """Amount that each added Python statement adds to the margin, in the metric's unit."""
    max_slowdown: Annotated[float, Field(gt=0)] | None = None
    """Allowed slowdown: 0.25 allows the candidate 25 % more time than the record. By default, time is not judged."""
    timeout: str | None = None
    """Longest time of one run, such as `2h` or `90m`. By default there is no limit."""
    setup: str | None = None
    """A command that runs once in each revision's worktree."""
    link: tuple[str, ...] = ()
    """Untracked paths, such as a data folder, that are linked into each worktree."""

    @field_validator("timeout")
    @classmethod
    def _is_a_time(cls, text: str | None) -> str | None:
        if text is not None:
            _as_value(parse_duration, text)
        return text

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if (self.record is None) != (self.candidate is None) or (self.run is None) == (self.record is None):
            raise ValueError(
                "give either 'run', to compare two revisions, or both 'record' and 'candidate', to compare two commands"
            )
        for command in self.commands:
            if SEED not in command and self.seed_variable is None:
                raise ValueError(
                    f"the command '{command[:LONGEST_QUOTE]}' has no place for the seed; put {{seed}} where the "
                    f"trainer takes its seed, or set seed_variable to an environment variable that the trainer reads"
                )
        if list(self.looks) != sorted(set(self.looks)) or self.looks[:1] < (2,):
            raise ValueError(
                f"looks ({list(self.looks)}) must be increasing numbers of pairs, and the first must be 2 or more"
            )
        if self.looks[-1] > MOST_PAIRS:
            raise ValueError(f"looks ({list(self.looks)}) are numbers of pairs; the last must be {MOST_PAIRS} or less")
        if self.seeds is not None and (len(self.seeds) < self.seeds_needed or len(set(self.seeds)) != len(self.seeds)):
            found = f"{len(self.seeds)} given, {len(set(self.seeds))} of them different"
            raise ValueError(f"seeds must be {self.seeds_needed} or more numbers, all different ({found})")
        if self.run is None and (self.setup or self.link):
            raise ValueError("setup and link are for comparing two revisions; leave them out to compare two commands")
        _as_value(check_patterns, self.metric, self.metric_file, self.also, self.curve)
        return self

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands that the settings give: one for both arms, or one for each arm."""
        return tuple(command for command in (self.run, self.record, self.candidate) if command is not None)

    @property
    def seeds_needed(self) -> int:
        """Largest number of seeds that an arm of the comparison can use."""
        return max(self.looks[-1], self.stored_runs if self.design == "stored" else 0)

    @property
    def timeout_s(self) -> float | None:
        return None if self.timeout is None else parse_duration(self.timeout)

    @property
    def reading(self) -> str:
        """Digest of the settings that say how to read numbers. If it changes, the numbers of kept runs are read
        again."""
        return sha256(self.model_dump_json(include={"metric", "metric_file", "also", "curve"}).encode())

    def declared(self) -> Declared:
        """The settings' looks (numbers of pairs after which the test may decide), and a significance level for each.
        Together the levels give the false-accept rate `alpha`."""
        if self.design == "stored":  # a union bound: the levels add up to alpha
            weights = usual_weights(self.looks)
            levels = tuple(self.alpha * weight / math.fsum(weights) for weight in weights)
        elif (self.looks, self.alpha) == (USUAL_LOOKS, 0.01):
            levels = USUAL_LEVELS
        else:
            levels = spend(self.looks, usual_weights(self.looks), self.alpha)
        found = Declared(looks=self.looks, levels=levels, alpha=self.alpha, design=self.design)
        check_levels(found)
        return found


def _as_value(check: object, *values: object) -> None:
    """Call `check` with `values`. Turns its LlmbenchError into a ValueError, which pydantic reports with the key."""
    try:
        check(*values)  # type: ignore[operator]
    except LlmbenchError as error:
        raise ValueError(str(error)) from error


def read_settings(folder: Path, given: Mapping[str, object]) -> Settings:
    """The settings of `llmbench.toml` in `folder`, if it exists, overridden by the options in `given`.

    Raises LlmbenchError if they are not valid. The message names the file, the key and the fix.
    """
    path = folder / FILE
    content: dict[str, object] = {}
    if path.exists():
        try:
            content = tomllib.loads(read_text(path))
        except tomllib.TOMLDecodeError as error:
            raise LlmbenchError(f"{path} is not readable TOML ({error}); fix that line") from error
    known = list(Settings.model_fields)
    if unknown := [key for key in content if key not in known]:
        meant = did_you_mean(unknown[0], known)
        raise LlmbenchError(
            f"{path}: unknown key '{unknown[0][:LONGEST_QUOTE]}'{meant}; the known keys are {', '.join(known)}"
        )
    options = {key: value for key, value in given.items() if value is not None}
    if "run" in options:  # an option to compare revisions replaces two commands in the file, and the reverse
        content.pop("record", None), content.pop("candidate", None)
    if "record" in options or "candidate" in options:
        content.pop("run", None)
    where = f"{path}{' and the options' if options else ''}: " if content else ""
    return make_settings(content | options, where)


def make_settings(content: Mapping[str, object], where: str = "") -> Settings:
    """The settings that `content` gives. Raises LlmbenchError if it is not valid. The message begins with `where`."""
    try:
        return Settings.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        said = explain_validation(error)
        if "'metric' is missing" in said:
            said = (
                "no metric is given; say which number to compare, as in --metric 'val loss ([0-9.]+)'; `llmbench "
                "compare --help` has an example, and `llmbench init` writes an example of llmbench.toml"
            )
        raise LlmbenchError(f"{where}{said}") from error
