"""Settings of a comparison and its rule: the options of `llmbench compare`, or the file `llmbench.toml`."""

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
"""Looks, in pairs, and levels, as on the tracks: the false-accept rate over all looks is 0.01 (benchmarks/verdict)."""
FUTILITY = 0.5  # stop early if the mean gain is not above its margin, as on the tracks
TIME_LEVEL = 0.2  # level of the test on training time, as on the tracks
FEWEST_STORED = 3
MOST_PAIRS = 50
"""Most pairs of the last look. With more, the levels take long to compute and lose precision."""


class Declared(Strict):
    """The looks and their levels, a `harness.rule.sequential.Looks`."""

    looks: tuple[Positive, ...]
    levels: tuple[float, ...]
    alpha: float
    futility_alpha: float | None = FUTILITY
    design: Literal["paired", "stored"]


class Settings(Strict):
    """The settings of a comparison. In commands, `{seed}` becomes the run's seed and `{out}` its own folder."""

    run: str | None = None
    """The command of both arms, if two revisions of the repository are compared."""
    record: str | None = None
    """The record's command, if two commands are compared."""
    candidate: str | None = None
    metric: Annotated[str, Field(min_length=1)]
    """Where the number is: a regular expression with one group, of which the last match counts; or the name in printed
    lines `METRIC name=value`; or, with `metric_file`, a key of that file."""
    metric_file: str | None = None
    """A JSON or JSON-lines file that the trainer writes; `{out}` and `{seed}` are replaced."""
    lower_is_better: bool = True
    also: dict[str, str] = Field(default_factory=dict)
    """Further numbers, name -> regular expression: shown, not judged."""
    curve: str | None = None
    """A regular expression with two groups, a step and a number. Its matches are drawn as a curve, not judged."""
    seed_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """An environment variable that is set to the seed; can be used in addition to `{seed}` or instead of it."""
    seeds: tuple[Count, ...] | None = None
    """Fixed seeds. By default seeds follow from both arms, so that nobody can choose seeds with known results."""
    looks: tuple[Positive, ...] = USUAL_LOOKS
    """Numbers of pairs after which the comparison may be decided."""
    alpha: Annotated[float, Field(ge=1e-6, lt=0.5)] = 0.01
    """One-sided false-accept rate over all looks."""
    design: Literal["paired", "stored"] = "paired"
    """`paired`: fresh pairs. `stored`: every candidate is compared with the same `stored_runs` runs of the record."""
    stored_runs: Annotated[int, Field(ge=FEWEST_STORED)] = 8
    margin: Annotated[float, Field(ge=0)] = 0.0
    """The value that the gain must exceed, in the metric's unit."""
    price: Annotated[float, Field(ge=0)] = 0.0
    """Gain that each added Python statement requires in addition, in the metric's unit."""
    max_slowdown: Annotated[float, Field(gt=0)] | None = None
    """Largest allowed time ratio candidate / record, minus one. By default, time is shown and not judged."""
    timeout: str | None = None
    """Longest time of one run, as `2h` or `90m`. Default: none."""
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
            raise ValueError("give either 'run', for two revisions, or both 'record' and 'candidate', two commands")
        for command in self.commands:
            if SEED not in command and self.seed_variable is None:
                raise ValueError(
                    f"'{command[:LONGEST_QUOTE]}' takes no seed; put {{seed}} where the trainer takes it, or name "
                    f"an environment variable with seed_variable"
                )
        if list(self.looks) != sorted(set(self.looks)) or self.looks[:1] < (2,):
            raise ValueError(f"looks ({list(self.looks)}) must rise, starting from 2 or more")
        if self.looks[-1] > MOST_PAIRS:
            raise ValueError(f"looks ({list(self.looks)}) must end with {MOST_PAIRS} pairs or fewer")
        if self.seeds is not None and (len(self.seeds) < self.seeds_needed or len(set(self.seeds)) != len(self.seeds)):
            found = len(set(self.seeds))
            raise ValueError(f"seeds must be {self.seeds_needed} or more different numbers, found {found}")
        if self.run is None and (self.setup or self.link):
            raise ValueError("setup and link are for the worktrees of two revisions; two commands run in this folder")
        _as_value(check_patterns, self.metric, self.metric_file, self.also, self.curve)
        return self

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands that are given."""
        return tuple(command for command in (self.run, self.record, self.candidate) if command is not None)

    @property
    def seeds_needed(self) -> int:
        """Largest number of seeds that the comparison can use."""
        return max(self.looks[-1], self.stored_runs if self.design == "stored" else 0)

    @property
    def timeout_s(self) -> float | None:
        return None if self.timeout is None else parse_duration(self.timeout)

    @property
    def reading(self) -> str:
        """Digest of the settings by which numbers are read. If it changes, the numbers of kept runs are read again."""
        return sha256(self.model_dump_json(include={"metric", "metric_file", "also", "curve"}).encode())

    def declared(self) -> Declared:
        """The looks with their levels. Over all looks, the levels give the false-accept rate alpha."""
        if self.design == "stored":  # a union bound
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
    """Call `check`. Turns its LlmbenchError into a ValueError, which pydantic reports with the key."""
    try:
        check(*values)  # type: ignore[operator]
    except LlmbenchError as error:
        raise ValueError(str(error)) from error


def read_settings(folder: Path, given: Mapping[str, object]) -> Settings:
    """The settings of `llmbench.toml` in `folder`, if it exists, overridden by the options in `given`.

    Raises LlmbenchError, which names the file, the key and the fix.
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
        raise LlmbenchError(f"{path}: unknown key '{unknown[0][:LONGEST_QUOTE]}'{meant}; known are {', '.join(known)}")
    options = {key: value for key, value in given.items() if value is not None}
    if "run" in options:  # an option for commands or revisions replaces the other kind in the file
        content.pop("record", None), content.pop("candidate", None)
    if "record" in options or "candidate" in options:
        content.pop("run", None)
    where = f"{path}{' and the options' if options else ''}: " if content else ""
    return make_settings(content | options, where)


def make_settings(content: Mapping[str, object], where: str = "") -> Settings:
    """Settings from a mapping of keys. Raises LlmbenchError, which names `where`, the key and the fix."""
    try:
        return Settings.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        said = explain_validation(error)
        if "'metric' is missing" in said:
            said = (
                "no metric; say which number to compare, as --metric 'val loss ([0-9.]+)'; `llmbench compare --help` "
                "has an example, and `llmbench init` writes a file"
            )
        raise LlmbenchError(f"{where}{said}") from error
