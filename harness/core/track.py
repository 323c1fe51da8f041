"""A track: one fixed contest, read from `tracks/NAME.toml`, with a digest. `[data]` is in harness/core/dataspec.py."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from harness.core.dataspec import DataSpec, FilesData, HubData, HubTokenizer, PackageData, SplitPin, TrainedTokenizer
from harness.core.errors import LlmbenchError, did_you_mean
from harness.core.overrides import apply_setting
from harness.core.project import Project, read_text, sha256
from harness.core.schema import Positive, Strict, TrackName
from models.parts import ModelConfig, OptimConfig

FEWEST_STORED = 8
"""Runs of a record; fewer know its spread too badly to serve every candidate (assumption)."""
LONGEST_QUOTE = 120  # characters of an untrusted file in an error
# tomllib's time and memory grow with the square of a dotted key: 100 kB took 10 GB (measured 2026-11).
LONGEST_FILE, LONGEST_LINE = 50_000, 1_000


class Budget(Strict):
    """What every run may spend."""

    tokens: Positive
    """Training tokens; a whole number of batches."""
    batch_sequences: Positive
    seq_len: Positive
    """Positions of a training sequence and of the evaluation context."""
    dev_evaluations: Positive
    """Points on the dev curve, the end included."""
    eval_sequences: Positive
    """Sequences of one evaluation batch."""

    @property
    def batch_tokens(self) -> int:
        return self.batch_sequences * self.seq_len

    @property
    def num_steps(self) -> int:
        return self.tokens // self.batch_tokens

    @model_validator(mode="after")
    def _whole_batches(self) -> Budget:
        if self.tokens % self.batch_tokens:
            raise ValueError(f"tokens ({self.tokens}) must be a multiple of a batch's {self.batch_tokens} tokens")
        if self.dev_evaluations > self.num_steps:
            raise ValueError(f"dev_evaluations ({self.dev_evaluations}) is more than the {self.num_steps} steps")
        return self


class Rule(Strict):
    """The constants of the stopping rule; the track file gives the source of each."""

    noise_variant: str
    """A variant that changes only the initial values of one part; `llmbench noise` measures seed noise with it."""
    noise_nats: Annotated[float, Field(gt=0, lt=10)] | None = None
    """The unit of the screen: deviation of the difference of a pair, the median over the variants of the noise study.
    None where no study is there: then there is no screen."""
    screen_looks: tuple[Positive, ...] = ()
    """Numbers of runs after which the screen drops a candidate, passes it on, or goes on looking."""
    screen_pass: tuple[float, ...] = ()
    """For each of these looks: it passes from this mean gain beyond its price on, in units of `noise_nats`."""
    screen_drop: tuple[float, ...] = ()
    """And is dropped below this one. At the last look both are the same."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)]
    """One-sided false-accept rate of the confirmation over all looks."""
    looks: tuple[Positive, ...]
    """Numbers of pairs after which the confirmation may decide."""
    levels: tuple[Annotated[float, Field(gt=0, lt=0.5)], ...]
    """One-sided level of each look; together they spend `alpha` (harness/rule/sequential.py)."""
    stored_runs: Positive | None = None
    """Runs of the record that are kept and compared with every candidate, where a pair is too dear; None for pairs."""
    futility_alpha: Annotated[float, Field(gt=0, le=0.5)] | None
    """An earlier look stops where the gain's one-sided upper bound at this level is not above the margin: at 0.5, where
    the mean gain is not. None: where the interval of that look is not, as when a claim is trained again."""
    loss_per_statement: Annotated[float, Field(ge=0, lt=1)]
    """Nats that each added statement must bring."""
    max_slowdown: Annotated[float, Field(gt=0, lt=10)]
    """Loss lane: largest time ratio candidate / record, minus one."""
    time_level: Annotated[float, Field(gt=0, lt=0.5)]
    """Loss lane: one-sided level at which a time ratio is clearly under that limit, or clearly over it."""
    milestone: Annotated[float, Field(gt=0, lt=1)]
    """Share of the steps after which the candidate's first run may be given up."""
    milestone_deficit: Annotated[float, Field(gt=0)]
    """It is given up where its dev loss is this many nats above that of the record's run with the same seed."""
    speed_per_statement: Annotated[float, Field(ge=0, lt=1)]
    """Speed lane: share of the training time that each added statement must save."""
    loss_tolerance: Annotated[float, Field(gt=0, lt=10)]
    """Speed and simplicity lanes: nats by which the candidate's loss may be worse."""
    time_tolerance: Annotated[float, Field(gt=0, lt=10)]
    """Simplicity lane: time ratio candidate / record, minus one, that still counts as no slower."""

    @property
    def record_runs(self) -> int:
        """Runs of the record on public seeds that a contest may need, and an opening has."""
        return max(self.screen_looks[-1:] + self.looks[:1] + (self.stored_runs or 1,))

    @property
    def design(self) -> Literal["paired", "stored"]:
        """Fresh pairs, or candidate runs against stored runs of the record."""
        return "paired" if self.stored_runs is None else "stored"

    @model_validator(mode="after")
    def _fits_together(self) -> Rule:
        if not self.looks or list(self.looks) != sorted(set(self.looks)) or self.looks[0] < 2:
            raise ValueError(f"looks ({list(self.looks)}) must rise, starting from 2 or more")
        if len(self.levels) != len(self.looks):
            raise ValueError(f"levels has {len(self.levels)} entries, looks {len(self.looks)}; give one level a look")
        if self.futility_alpha is not None and self.futility_alpha < max(self.levels):
            # else a change and its reverse could both be accepted
            raise ValueError(f"futility_alpha ({self.futility_alpha}) must be at least {max(self.levels)}, a level")
        if self.stored_runs is not None and self.stored_runs < FEWEST_STORED:
            raise ValueError(f"stored_runs ({self.stored_runs}) must be {FEWEST_STORED} or more")
        screen = (self.screen_looks, self.screen_pass, self.screen_drop)
        if len(set(map(len, screen))) != 1 or list(self.screen_looks) != sorted(set(self.screen_looks)):
            raise ValueError("screen_looks must rise, and screen_pass and screen_drop have an entry for each of them")
        above = all(drop <= passed for drop, passed in zip(self.screen_drop, self.screen_pass, strict=True))
        if self.screen_looks and (not above or self.screen_drop[-1] != self.screen_pass[-1]):
            raise ValueError("screen_drop must not exceed screen_pass, and the last entries must be equal")
        return self


class Reported(Strict):
    """A result that others report for this system: shown beside the track, never on the leaderboard."""

    what: str
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    source: str
    """Where it is published: a repository's page, an issue."""
    train_loss: Annotated[float, Field(ge=0)] | None = None
    val_loss: Annotated[float, Field(ge=0)] | None = None
    """Nats per token."""
    val_accuracy: Annotated[float, Field(ge=0, le=100)] | None = None
    """Per cent."""
    perplexity: Annotated[float, Field(ge=1)] | None = None
    time: str | None = None
    """As published; the hardware is in `what`."""


class Track(Strict):
    """One contest. Two runs may be compared only if their tracks' digests are equal."""

    name: TrackName
    summary: str
    device: Literal["cpu", "cuda"]
    """Device of training and evaluation; `cuda` is one NVIDIA GPU for each process."""
    threads: Positive
    """Threads of each process; fixed because the last bits of a sum depend on them."""
    processes: Annotated[Positive | None, AfterValidator(lambda count: None if count == 1 else count)] = None
    """Processes that train one run together, each on an equal share of every batch. Default: one."""
    compile: bool | None = None
    """Whether the model is compiled with `torch.compile`; fixed because the last bits depend on it."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...]
    """Public seeds for exploration, in the order of use."""
    data: DataSpec
    model: ModelConfig
    optim: OptimConfig
    budget: Budget
    rule: Rule
    reported: tuple[Reported, ...] = ()
    """Results of others for this system; in no digest."""

    @model_validator(mode="after")
    def _fits_together(self) -> Track:
        if self.model.vocab_size > 2**32:
            raise ValueError(f"model.vocab_size ({self.model.vocab_size}) must be {2**32} or less: tokens are uint32")
        fewest = self.rule.record_runs
        if len(set(self.seeds)) != len(self.seeds) or len(self.seeds) < fewest:
            raise ValueError(f"seeds must be {fewest} or more different numbers, one for each run of the record")
        if self.compile and self.num_processes > 1:
            raise ValueError("compile and processes do not go together yet; leave one of them out")
        if self.budget.batch_sequences % self.num_processes:
            raise ValueError(
                f"budget.batch_sequences ({self.budget.batch_sequences}) must be a multiple of processes "
                f"({self.num_processes}): each takes an equal share of a batch"
            )
        return self

    @property
    def num_processes(self) -> int:
        """Processes that train one run together."""
        return 1 if self.processes is None else self.processes

    @property
    def num_threads(self) -> int:
        """Threads of one run over all its processes."""
        return self.threads * self.num_processes

    @property
    def digest(self) -> str:
        """SHA-256 over all values but the summary and others' results; comments and layout do not count."""
        return self._digest()

    @property
    def training_digest(self) -> str:
        """SHA-256 over what a single run depends on: all of `digest` but the rule and the list of seeds."""
        return self._digest("rule", "seeds")

    def _digest(self, *but: str) -> str:
        """Absent keys do not count, so an optional key added later changes no digest."""
        beside = {"summary", "reported", "settings"}  # they do not define the contest
        content = self.model_dump(mode="json", exclude={*beside, *but}, exclude_none=True)
        return sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


class ExploratoryTrack(Track):
    """A track changed by `--set`: it can train, but nothing of it enters the board."""

    settings: tuple[str, ...]
    """`key=value` each, as given."""


EXPLORATORY = "exploratory-"
"""Prefix of exploratory tracks' names, so that their runs are kept apart."""


def settings_of(track: Track) -> tuple[str, ...]:
    """The settings of an exploratory track; empty for a contest."""
    return track.settings if isinstance(track, ExploratoryTrack) else ()


def track_names(project: Project) -> list[str]:
    """Names of the tracks in `tracks/`, sorted."""
    return sorted(path.stem for path in project.tracks.glob("*.toml"))


def load_track(project: Project, name: str, settings: Sequence[str] = ()) -> Track:
    """The track called `name`; with settings, an exploratory one. Raises LlmbenchError with file, key and fix."""
    name = name.removeprefix(EXPLORATORY) if settings else name
    path = project.tracks / f"{name}.toml"
    if not path.is_file():
        raise LlmbenchError(
            f"there is no track '{name}'{did_you_mean(name, track_names(project))}; `llmbench tracks` lists them"
        )
    return parse_track(path, settings=settings)


def parse_track(path: Path, name: str | None = None, settings: Sequence[str] = (), *, text: str | None = None) -> Track:
    """Parse one track file strictly; `name` is the name that it must state (default: the file's name).

    `text` is the file's content, where that is known already. Raises LlmbenchError with the file, the key and the fix.
    """
    text = read_text(path) if text is None else text
    if len(text) > LONGEST_FILE or max(map(len, text.splitlines()), default=0) > LONGEST_LINE:
        raise LlmbenchError(f"{path} is no track: longer than {LONGEST_FILE} characters, or {LONGEST_LINE} in a line")
    kind, name, where = ExploratoryTrack if settings else Track, name or path.stem, str(path)
    try:
        content = tomllib.loads(text)
        if content.get("name", name) != name:
            raise LlmbenchError(f"{path}: name is '{str(content['name'])[:LONGEST_QUOTE]}'; set it to '{name}'")
        if settings:
            where = f"{path} with --set {' --set '.join(settings)[:LONGEST_QUOTE]}"
            content |= {"name": f"{EXPLORATORY}{name}", "settings": list(settings)}
        for setting in settings:
            apply_setting(content, setting)
        return kind.model_validate_json(json.dumps(content, default=str))  # TOML arrays become tuples
    except ValidationError as error:
        raise LlmbenchError(f"{where}: {explain_validation(error)}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise LlmbenchError(f"{where} is not readable TOML ({error}); restore it") from error


# Schemas of a track file's tables, by the last two parts of pydantic's location, of which the second may be a tag.
_TABLES: dict[tuple[str | int, ...], Any] = {
    (): Track,
    ("model",): ModelConfig,
    ("optim",): OptimConfig,
    ("budget",): Budget,
    ("rule",): Rule,
    ("data", "package"): PackageData,
    ("data", "hub"): HubData,
    ("data", "files"): FilesData,
    ("tokenizer", "hub"): HubTokenizer,
    ("tokenizer", "trained"): TrainedTokenizer,
}


def explain_validation(error: ValidationError) -> str:
    """The first problem that pydantic found, as a sentence with the key and the fix."""
    unknown = ("extra_forbidden", "unexpected_keyword_argument")  # first: a misspelt key also makes one missing
    problem = min(error.errors(), key=lambda problem: problem["type"] not in unknown)
    *table, key = problem["loc"] or ("",)
    pairs = zip((None, *table), (*table, key), strict=False)
    location = ".".join(str(part) for before, part in pairs if (before, part) not in _TABLES)[:LONGEST_QUOTE]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] in unknown:
        absent = [str(p["loc"][-1]) for p in error.errors() if [*p["loc"][:-1]] == table and "missing" in p["type"]]
        schema = _TABLES.get(tuple(table[-2:]), SplitPin)
        known = getattr(schema, "model_fields", None) or schema.__dataclass_fields__
        meant = did_you_mean(str(key)[:LONGEST_QUOTE], [*absent, *known])
        return f"unknown key '{location}'{meant}; remove or rename it{more}"
    if problem["type"] in ("missing", "missing_keyword_only", "missing_argument", "union_tag_not_found"):
        key = f"{location}.source" if problem["type"] == "union_tag_not_found" else location
        return f"key '{key}' is missing; add it{more}"
    message = problem["msg"].removeprefix("Value error, ")[: 4 * LONGEST_QUOTE]
    found = "" if problem["type"] == "value_error" else f", found {problem['input']!r}"[:LONGEST_QUOTE]
    return f"{location + ': ' if location else ''}{message[0].lower() + message[1:]}{found}{more}"
