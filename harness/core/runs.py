"""The schema of a run, and functions that read and write it. A run holds raw values; scores are computed from them.

History of `schema_version`:
1 (2026-11): first version. Fields added later are optional and are not written if they are None. So an older file
    that is read and written again stays the same, byte for byte.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from harness.core.errors import LlmbenchError
from harness.core.project import read_text, write_atomic
from harness.core.schema import Count, Line, Positive, Recipe, Sha256, Strict, TrackName, VariantName
from harness.core.track import LONGEST_QUOTE, explain_validation

SCHEMA_VERSION = 1
Seconds = Annotated[float, Field(ge=0)]
Nats = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]

PROBES = ("batch_independence", "causality", "finiteness", "shape", "statelessness", "weights")
"""The probes: tests that a trained model must pass before it gets a score."""


ABSENT = Field(default=None, exclude_if=lambda value: value is None)
"""An optional field: its default is None, and None is not written to the file."""


class CurvePoint(Strict):
    """One point of the learning curve."""

    step: Positive
    train_s: Seconds
    """Training time at the end of the step, without evaluations on dev and checkpoints."""
    train_loss_nats: Nats
    """Mean loss per token over the steps since the previous point, as reported by the training process."""
    dev_loss_nats: Nats
    """Mean loss per token on the dev split."""


class ExpertLayer(Strict):
    """How one layer's router distributed the dev split's tokens over the experts at the end of training."""

    load: Annotated[tuple[Share, ...], Field(min_length=1)]
    """For each expert, its share of the assignments of tokens to experts. Experts without matrices come last."""
    balance: Annotated[float, Field(ge=0)]
    """The load-balancing loss, not multiplied by its weight. It is 1 if all experts get the same share."""


NETWORK_OPEN = "network open"
"""Entry of `Training.confinement`. The run's processes had the network, because they exchange data over it."""


class BatchShape(Strict):
    """Consecutive steps whose batches have the same shape."""

    steps: Positive
    sequences: Positive
    length: Positive

    @property
    def batch_tokens(self) -> int:
        return self.sequences * self.length

    @property
    def tokens(self) -> int:
        return self.steps * self.batch_tokens


def tokens_at(shapes: Iterable[BatchShape], step: int) -> int:
    """Number of training tokens in the first `step` steps of a run whose batches have these `shapes`."""
    tokens = 0
    for shape in shapes:
        tokens += min(step, shape.steps) * shape.batch_tokens
        step -= min(step, shape.steps)
    return tokens


class Training(Strict):
    """What the training process measured."""

    steps: Positive
    tokens: Positive
    num_params: Positive
    train_s: Seconds
    """Time from the first batch to the final weights, without evaluations on dev and checkpoints."""
    cpu_s: Seconds
    """Processor time in that period, summed over threads. Other load on the machine changes it less than `train_s`."""
    warmup_s: Seconds
    """Time from the process's start to the first batch: building the model, compiling, steps on dummy data."""
    warmup_cpu_s: Seconds | None = ABSENT
    """Processor time used before the first batch."""
    wall_s: Seconds
    """Wall-clock time of the training process. If a run was resumed, the sum over all its processes."""
    resumed: Literal[True] | None = ABSENT
    """True if the run was resumed from a checkpoint, else None. Times of resumed runs are not compared."""
    weights_bytes: Positive | None = ABSENT
    """Size of the final weights: parameters and buffers."""
    peak_memory_mib: Positive | None = ABSENT
    """Peak resident memory of the training process. On a GPU, the peak memory that torch allocated there."""
    ended: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$")]
    """UTC time at the end of training. It shows which runs were trained at the same time."""
    weights_sha256: Sha256
    """SHA-256 of the final weights as a safetensors file."""
    confinement: tuple[Line, ...]
    """Mechanisms that kept the training process from other files, the network and new processes; empty if none did."""
    curve: tuple[CurvePoint, ...]
    batches: tuple[BatchShape, ...] | None = ABSENT
    """Batch shapes, if a variant changes them; None if all batches have the track's shape."""
    experts: tuple[ExpertLayer, ...] | None = ABSENT
    """One entry for each layer, as reported by the training process; None for a model without experts."""

    def tokens_at(self, step: int) -> int:
        """Number of training tokens up to the end of `step`."""
        return step * (self.tokens // self.steps) if self.batches is None else tokens_at(self.batches, step)


class Evaluation(Strict):
    """Measurements on val. Cross-entropy and hits are stored as sums, from which the scores are computed."""

    nats: Nats
    """Cross-entropy in nats, summed over all predicted tokens."""
    correct: Count
    """Number of tokens that were predicted right: the most probable token was the true one."""
    tokens: Positive
    bytes: Positive
    """Number of UTF-8 bytes of the predicted text."""
    probes: tuple[Line, ...]
    """Names of the probes that the model passed."""
    confinement: tuple[Line, ...]
    """Mechanisms that kept the model's process from other files, the network and new processes; empty if none did."""
    eval_s: Seconds
    """Wall-clock time of one pass over val."""
    eval_cpu_s: Seconds | None = ABSENT
    """Processor time of the model's process in the same pass, summed over threads."""

    @property
    def val_loss(self) -> float:
        """Mean cross-entropy in nats per token."""
        return self.nats / self.tokens

    @property
    def val_accuracy(self) -> float:
        """Share of the tokens, 0 to 1, for which the most probable token was the true one."""
        return self.correct / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(val_loss)."""
        return math.exp(self.val_loss) if self.val_loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Cross-entropy in bits per byte of the text. Runs with different tokenizers can be compared by it."""
        return self.nats / math.log(2) / self.bytes


class Machine(Strict):
    """Properties of the machine that affect times and the last bits of a loss. It holds no user or host name."""

    cpu: Line
    cores: Positive
    memory_gib: Positive
    os: Line
    python: Line
    gpu: Line | None = ABSENT
    """The GPU's name and the training precision; None on a CPU track."""


class Provenance(Strict):
    """The code, the packages and the machine that made a run."""

    revision: Line | None
    """Id of the checkout's git commit; None outside a repository."""
    dirty: bool
    """Whether harness/, tracks/ or models/ had uncommitted changes. Variants do not count, as they have digests."""
    packages: dict[Line, Line]
    machine: Machine
    threads: Positive
    """Threads of each process."""
    processes: Positive | None = ABSENT
    """Number of processes that trained the run; None for one process. On a CUDA track each process has a GPU."""
    jobs: Positive
    """Number of runs that shared the machine at the same time. It must be 1 if a candidate claims to save time."""

    @property
    def crew(self) -> str:
        """Processes and threads of a run as text, such as `2 processes of 1 thread(s)`."""
        return f"{f'{self.processes} processes of ' if self.processes is not None else ''}{self.threads} thread(s)"


class RunIdentity(Strict):
    """What defines a run. Runs with equal identity and provenance must give equal results."""

    schema_version: Literal[1] = 1
    track: TrackName
    training_digest: Sha256
    """SHA-256 over the track without its rule and seeds."""
    recipe: Recipe
    sources: dict[VariantName, Sha256]
    """Variant name -> SHA-256 of its code (harness/variants/canonical.py)."""
    code_digest: Sha256
    """SHA-256 over the code of the base model, the training loop and the evaluation."""
    seed: Count
    provenance: Provenance


class FinishedRun(RunIdentity):
    """A run that was trained, passed all probes and was evaluated. Only a finished run has a score."""

    status: Literal["finished"] = "finished"
    training: Training
    evaluation: Evaluation


FailureStatus = Literal["diverged", "hopeless", "invalid", "interrupted", "error"]


class FailedRun(RunIdentity):
    """A run without a score, with the reason. It has no field for a loss, so it cannot win against another run."""

    status: FailureStatus
    reason: Line


Run = Annotated[FinishedRun | FailedRun, Field(discriminator="status")]


class RunFailedError(Exception):
    """A run ended without a score; `status` and the message say why."""

    def __init__(self, status: FailureStatus, reason: str) -> None:
        super().__init__(reason)
        self.status: FailureStatus = status


class Pair(NamedTuple):
    """The record's run and the candidate's run with the same seed."""

    record: FinishedRun
    candidate: FinishedRun


def finished(runs: Iterable[FinishedRun | FailedRun]) -> list[FinishedRun]:
    """Those of `runs` that have a score, in the same order."""
    return [run for run in runs if isinstance(run, FinishedRun)]


def require_finished(runs: Sequence[FinishedRun | FailedRun]) -> list[FinishedRun]:
    """Returns `runs` if each has a score. Otherwise raises LlmbenchError with the reason of the first failed run."""
    for run in runs:
        if isinstance(run, FailedRun):
            raise LlmbenchError(f"{run.recipe} with seed {run.seed} has no val loss ({run.status}): {run.reason}")
    return finished(runs)


Parsed = TypeVar("Parsed", bound=BaseModel)
_RUN: TypeAdapter[FinishedRun | FailedRun] = TypeAdapter(Run)


def dump_json(content: BaseModel) -> str:
    """The JSON text that is written to a file for `content`: indented, with one line feed at the end."""
    return content.model_dump_json(indent=1) + "\n"


def save_run(path: Path, run: FinishedRun | FailedRun) -> None:
    """Write one run to a file. If writing fails, an older file at `path` stays as it was."""
    write_atomic(path, dump_json(run))


def load_run(path: Path) -> FinishedRun | FailedRun:
    """Read one run. If the file is not valid, raises a LlmbenchError that names file and key and says what to do."""
    return read_record(path, _RUN)


def parse_json(text: str) -> Any:
    """Parse one JSON document. Raises ValueError if `text` is not valid JSON, is nested too deep, or repeats a key."""
    try:
        return json.loads(text, object_pairs_hook=_each_key_once)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dictionary of `pairs`. Raises ValueError for a repeated key: programs may read different values."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key '{twice[:LONGEST_QUOTE]}' occurs twice in one object")
    return found


def read_record(path: Path, adapter: TypeAdapter[Parsed], text: str | None = None) -> Parsed:
    """Read one JSON file of any schema and check it. `text` is the file's content if the caller has already read it.

    Raises LlmbenchError if the file is missing or truncated, has a newer schema version, or does not fit the schema.
    """
    text = read_text(path) if text is None else text
    try:
        return _parse(text, adapter)
    except ValueError as error:
        try:
            content = parse_json(text)
        except ValueError as broken:
            raise LlmbenchError(f"{path} is not valid JSON ({broken}); restore or delete it") from error
        version = content.get("schema_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise LlmbenchError(
                f"{path} has schema version {version}; this llmbench reads 1 to {SCHEMA_VERSION}; upgrade llmbench"
            ) from error
        problem = explain_validation(error) if isinstance(error, ValidationError) else str(error)
        raise LlmbenchError(f"{path}: {problem}") from error


@lru_cache(maxsize=256)  # many submissions hold the same runs of a record
def _parse(text: str, adapter: TypeAdapter[Parsed]) -> Parsed:
    """Parse `text`. Raises ValueError if it is not valid JSON, repeats a key, or does not fit the schema."""
    record = adapter.validate_json(text)
    if dump_json(record) != text:
        parse_json(text)  # pydantic accepts a repeated key
    return record
