"""The schema of a track, which is read from `tracks/NAME.toml`. The schema of its table `[data]` is in dataspec.py."""

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
from harness.core.schema import Positive, Sha256, Strict, TrackName
from models.parts import ModelConfig, OptimConfig

FEWEST_STORED = 8
"""Smallest allowed `stored_runs` (assumption): with fewer, the deviation of the record's loss is too uncertain."""
LONGEST_QUOTE = 120  # characters of an untrusted file that an error may quote
# tomllib's time and memory grow with the square of a dotted key's length: 100 kB took 10 GB (measured 2026-11).
LONGEST_FILE, LONGEST_LINE = 50_000, 1_000


class Budget(Strict):
    """The tokens on which every run of the track trains, the shape of the batches, and the number of evaluations."""

    tokens: Positive
    """Number of training tokens. It must be a multiple of the tokens in a batch."""
    batch_sequences: Positive
    seq_len: Positive
    """Length of a training sequence and of the evaluation context, in tokens."""
    dev_evaluations: Positive
    """Number of evaluations on dev during a run, including the one at the end of training."""
    eval_sequences: Positive
    """Sequences in one evaluation batch."""

    @property
    def batch_tokens(self) -> int:
        return self.batch_sequences * self.seq_len

    @property
    def num_steps(self) -> int:
        return self.tokens // self.batch_tokens

    @model_validator(mode="after")
    def _whole_batches(self) -> Budget:
        if self.tokens % self.batch_tokens:
            raise ValueError(f"tokens ({self.tokens}) must be a multiple of the {self.batch_tokens} tokens in a batch")
        if self.dev_evaluations > self.num_steps:
            raise ValueError(
                f"dev_evaluations ({self.dev_evaluations}) must not exceed the number of steps, {self.num_steps}"
            )
        return self


class Rule(Strict):
    """The constants by which candidates are accepted or rejected. Comments in the track's file name their sources."""

    noise_variant: str
    """A variant that changes only one part's initial values. `llmbench noise` measures seed noise with it."""
    noise_nats: Annotated[float, Field(gt=0, lt=10)] | None = None
    """Standard deviation of the loss difference of a pair, in nats: the median over the variants of the noise study.
    The screen (the cheap first test) uses it as its unit. None if there was no study; then the track has no screen."""
    screen_looks: tuple[Positive, ...] = ()
    """Numbers of runs after which the screen drops a candidate, passes it on, or needs more runs."""
    screen_pass: tuple[float, ...] = ()
    """One value for each entry of `screen_looks`, in units of `noise_nats`. The candidate passes if its mean gain minus
    its price is at least this value."""
    screen_drop: tuple[float, ...] = ()
    """One value for each entry of `screen_looks`, in units of `noise_nats`. The candidate is dropped if its mean gain
    minus its price is below this value. The last value equals the last one of `screen_pass`."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)]
    """Probability that the confirmation (deciding stage) accepts a candidate without a gain, over all `looks`."""
    looks: tuple[Positive, ...]
    """Numbers of pairs after which the confirmation may decide."""
    levels: tuple[Annotated[float, Field(gt=0, lt=0.5)], ...]
    """One-sided significance level of the test after each number in `looks`. Together they give `alpha`."""
    stored_runs: Positive | None = None
    """Number of stored runs of the record that each candidate is compared with; None if both are trained in pairs."""
    futility_alpha: Annotated[float, Field(gt=0, le=0.5)] | None
    """Before the last of `looks`, a candidate is rejected early if the gain's one-sided upper confidence bound at this
    level is not above the margin, the value that the gain must exceed. At 0.5 the bound is the mean gain. With None, as
    in a re-run, it is the upper end of the confidence interval."""
    loss_per_statement: Annotated[float, Field(ge=0, lt=1)]
    """Price of each added statement: the gain, in nats, that it must bring."""
    max_slowdown: Annotated[float, Field(gt=0, lt=10)]
    """With `--lane loss`: largest allowed ratio of training times, candidate / record, minus one."""
    time_level: Annotated[float, Field(gt=0, lt=0.5)]
    """With `--lane loss`: one-sided level of the tests whether the time ratio is below or above `max_slowdown`."""
    milestone: Annotated[float, Field(gt=0, lt=1)]
    """Share of the steps after which the candidate's first run may be stopped early."""
    milestone_deficit: Annotated[float, Field(gt=0)]
    """The candidate's first run is stopped if its dev loss is this many nats above the record's with the same seed."""
    speed_per_statement: Annotated[float, Field(ge=0, lt=1)]
    """With `--lane speed`: share of the training time that each added statement must save."""
    loss_tolerance: Annotated[float, Field(gt=0, lt=10)]
    """With `--lane speed` or `simplicity`: nats by which the candidate's loss may be worse."""
    time_tolerance: Annotated[float, Field(gt=0, lt=10)]
    """With `--lane simplicity`: largest time ratio candidate / record, minus one, that counts as equally fast."""
    holds_on: Annotated[dict[TrackName, Sha256], Field(min_length=1)] | None = None
    """With `--lane loss`: other sizes of this track (name -> digest). A record must not be shown to be worse on any of
    them. None if no other size is tested."""

    @property
    def record_runs(self) -> int:
        """The largest number of runs of the record on public seeds that judging one candidate can need."""
        return max(self.screen_looks[-1:] + self.looks[:1] + (self.stored_runs or 1,))

    @property
    def design(self) -> Literal["paired", "stored"]:
        """`paired`: both recipes are trained. `stored`: the candidate is compared with stored runs of the record."""
        return "paired" if self.stored_runs is None else "stored"

    @model_validator(mode="after")
    def _fits_together(self) -> Rule:
        if not self.looks or list(self.looks) != sorted(set(self.looks)) or self.looks[0] < 2:
            raise ValueError(f"looks ({list(self.looks)}) must increase, and the first must be 2 pairs or more")
        if len(self.levels) != len(self.looks):
            raise ValueError(
                f"levels has {len(self.levels)} entries, but looks has {len(self.looks)}; give one level for each look"
            )
        if self.futility_alpha is not None and self.futility_alpha < max(self.levels):
            # otherwise a change and its reverse could both be accepted
            raise ValueError(
                f"futility_alpha ({self.futility_alpha}) must be at least the largest of levels, {max(self.levels)}"
            )
        if self.stored_runs is not None and self.stored_runs < FEWEST_STORED:
            raise ValueError(f"stored_runs ({self.stored_runs}) must be {FEWEST_STORED} or more")
        screen = (self.screen_looks, self.screen_pass, self.screen_drop)
        if len(set(map(len, screen))) != 1 or list(self.screen_looks) != sorted(set(self.screen_looks)):
            raise ValueError(
                "screen_looks must increase, and screen_pass and screen_drop must have as many entries as screen_looks"
            )
        above = all(drop <= passed for drop, passed in zip(self.screen_drop, self.screen_pass, strict=True))
        if self.screen_looks and (not above or self.screen_drop[-1] != self.screen_pass[-1]):
            raise ValueError(
                "screen_drop must not exceed screen_pass at any place, and their last numbers must be equal"
            )
        return self


class Reported(Strict):
    """A result that others published for this model and data. `llmbench tracks NAME` shows it, the README does not."""

    what: str
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    source: str
    """Where the result is published, such as a repository's page or an issue."""
    train_loss: Annotated[float, Field(ge=0)] | None = None
    val_loss: Annotated[float, Field(ge=0)] | None = None
    """Nats per token."""
    val_accuracy: Annotated[float, Field(ge=0, le=100)] | None = None
    """In percent."""
    perplexity: Annotated[float, Field(ge=1)] | None = None
    time: str | None = None
    """Training time as published. `what` names the hardware."""


class Track(Strict):
    """A fixed training task and the rule for it. Runs may be compared only if their tracks have equal digests."""

    name: TrackName
    summary: str
    device: Literal["cpu", "cuda"]
    """Device for training and evaluation. With `cuda` each process has one NVIDIA GPU."""
    threads: Positive
    """Number of threads of each process. It is fixed because the last bits of a loss depend on it."""
    processes: Annotated[Positive | None, AfterValidator(lambda count: None if count == 1 else count)] = None
    """Number of processes that train one run, each on an equal share of every batch. Default: one."""
    compile: bool | None = None
    """Whether `torch.compile` compiles the model. It is fixed because the last bits of a loss depend on it."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...]
    """Public seeds, in the order in which runs use them."""
    data: DataSpec
    model: ModelConfig
    optim: OptimConfig
    budget: Budget
    rule: Rule
    reported: tuple[Reported, ...] = ()
    """Results that others published for this model and data. No digest includes them."""

    @model_validator(mode="after")
    def _fits_together(self) -> Track:
        if self.model.vocab_size > 2**32:
            raise ValueError(
                f"model.vocab_size ({self.model.vocab_size}) must be {2**32} or less, because tokens are uint32"
            )
        fewest = self.rule.record_runs
        if len(set(self.seeds)) != len(self.seeds) or len(self.seeds) < fewest:
            raise ValueError(
                f"seeds must be {fewest} or more different numbers, because the rule needs that many runs of the record"
            )
        if self.compile and self.num_processes > 1:
            raise ValueError("compile and processes cannot be combined yet; leave one of them out")
        if self.budget.batch_sequences % self.num_processes:
            raise ValueError(
                f"budget.batch_sequences ({self.budget.batch_sequences}) must be a multiple of processes "
                f"({self.num_processes}), because each process takes an equal share of a batch"
            )
        return self

    @property
    def num_processes(self) -> int:
        """Number of processes that train one run."""
        return 1 if self.processes is None else self.processes

    @property
    def num_threads(self) -> int:
        """Number of threads of one run, summed over its processes."""
        return self.threads * self.num_processes

    @property
    def digest(self) -> str:
        """SHA-256 over all values except `summary` and `reported`. Comments and layout of the file do not change it."""
        return self._digest()

    @property
    def training_digest(self) -> str:
        """SHA-256 over the values that a single run depends on: like `digest`, but without the rule and the seeds."""
        return self._digest("rule", "seeds")

    def _digest(self, *but: str) -> str:
        """SHA-256 over all keys except `but`. Absent keys are left out, so a new optional key changes no old digest."""
        beside = {"summary", "reported", "settings"}  # they change neither training nor rule
        content = self.model_dump(mode="json", exclude={*beside, *but}, exclude_none=True)
        return sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


class ExploratoryTrack(Track):
    """A track changed by `--set`. Its runs can be trained, but not submitted."""

    settings: tuple[str, ...]
    """The settings as given, each `key=value`."""


EXPLORATORY = "exploratory-"
"""Prefix of the names of exploratory tracks. It keeps their runs apart from other runs."""


def settings_of(track: Track) -> tuple[str, ...]:
    """The `--set` options that changed an exploratory track; empty for any other track."""
    return track.settings if isinstance(track, ExploratoryTrack) else ()


def track_names(project: Project) -> list[str]:
    """Names of the tracks in `tracks/`, sorted."""
    return sorted(path.stem for path in project.tracks.glob("*.toml"))


def load_track(project: Project, name: str, settings: Sequence[str] = ()) -> Track:
    """Read the track `name`, changed by the `--set` options `settings`. Raises LlmbenchError if it is not valid."""
    name = name.removeprefix(EXPLORATORY) if settings else name
    path = project.tracks / f"{name}.toml"
    if not path.is_file():
        raise LlmbenchError(
            f"there is no track '{name}'{did_you_mean(name, track_names(project))}; `llmbench tracks` lists them"
        )
    return parse_track(path, settings=settings)


def parse_track(path: Path, name: str | None = None, settings: Sequence[str] = (), *, text: str | None = None) -> Track:
    """Parse one track file. Its key `name` must have the value `name` (default: the file's name without `.toml`).

    `text` is the file's content if the caller has already read it. If the file is not valid, raises a LlmbenchError
    that names file and key and says what to do.
    """
    text = read_text(path) if text is None else text
    if len(text) > LONGEST_FILE or max(map(len, text.splitlines()), default=0) > LONGEST_LINE:
        raise LlmbenchError(
            f"{path} is too long; it may have at most {LONGEST_FILE} characters, and {LONGEST_LINE} in each line"
        )
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
    except (ValueError, RecursionError) as error:  # also for a number with thousands of digits
        raise LlmbenchError(f"{where} is not valid TOML ({error}); correct or restore it") from error


# The schema of each table in a track's file. The key is the end of the location that pydantic's errors give.
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
    """A sentence about the first problem that pydantic found: it names the key and says what to do."""
    unknown = (
        "extra_forbidden",
        "unexpected_keyword_argument",
    )  # first, because a misspelt key also makes another one missing
    problem = min(error.errors(), key=lambda problem: problem["type"] not in unknown)
    *table, key = problem["loc"] or ("",)
    pairs = zip((None, *table), (*table, key), strict=False)
    location = ".".join(str(part) for before, part in pairs if (before, part) not in _TABLES)[:LONGEST_QUOTE]
    others = error.error_count() - 1
    more = f" (and {others} more problem{'s' * (others > 1)})" if others else ""
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
