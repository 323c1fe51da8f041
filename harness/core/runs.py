"""The schema of a run, and how it is written and read. It holds raw values only; scores are computed from them.

History of `schema_version`:
1 (2026-11): first version. Fields added later are optional and are not written where they are None, so that older
    files are written again byte for byte.
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
"""What every evaluation checks of a model before it has a score."""


ABSENT = Field(default=None, exclude_if=lambda value: value is None)
"""The default of a field that is not written where it is None."""


class CurvePoint(Strict):
    """One point of the learning curve."""

    step: Positive
    train_s: Seconds
    """Training clock when the step ended."""
    train_loss_nats: Nats
    """Mean per token over the steps since the point before, by the player's own words."""
    dev_loss_nats: Nats
    """Mean per token on the dev split."""


class ExpertLayer(Strict):
    """How one layer's router spread the dev split over its experts at the end of training."""

    load: Annotated[tuple[Share, ...], Field(min_length=1)]
    """Share of the assignments that each expert got, in its order; experts without matrices last."""
    balance: Annotated[float, Field(ge=0)]
    """The load-balancing loss without its weight: 1 where balanced."""


NETWORK_OPEN = "network open"
"""Stands in a training's `confinement` where its processes reached each other over the machine's own network."""


class BatchShape(Strict):
    """Steps in a row whose batches have one shape."""

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
    """Tokens of the first `step` steps."""
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
    """From the first batch handed over until the final weights are with the referee; without dev and checkpoints."""
    cpu_s: Seconds
    """Processor time of the same steps, all threads together; other load on the machine affects it less."""
    warmup_s: Seconds
    """From the player's start to the first batch: building, drawing, compiling and steps on dummy data."""
    warmup_cpu_s: Seconds | None = ABSENT
    """Processor time before the first batch."""
    wall_s: Seconds
    """The whole training process, all sessions of a resumed run together."""
    resumed: Literal[True] | None = ABSENT
    """Whether it went on from a checkpoint: then its times are compared with nothing. None if not."""
    weights_bytes: Positive | None = ABSENT
    """Size of the final weights, parameters and buffers together."""
    peak_memory_mib: Positive | None = ABSENT
    """Largest resident memory of the training process, or on a GPU what torch allocated there."""
    ended: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$")]
    """UTC time at the end of training: shows which runs were interleaved."""
    weights_sha256: Sha256
    """Of the final weights, as safetensors."""
    confinement: tuple[Line, ...]
    """What barred the training process from other files, the network and new processes; empty if nothing did."""
    curve: tuple[CurvePoint, ...]
    batches: tuple[BatchShape, ...] | None = ABSENT
    """Where a variant changes the batches' shape; None for the track's own."""
    experts: tuple[ExpertLayer, ...] | None = ABSENT
    """Layer by layer, by the player's own words; None in a model without experts."""

    def tokens_at(self, step: int) -> int:
        """Tokens that were handed out by the end of a step."""
        return step * (self.tokens // self.steps) if self.batches is None else tokens_at(self.batches, step)


class Evaluation(Strict):
    """What the evaluating process measured on the val split: sums, from which the scores follow."""

    nats: Nats
    """Sum of the cross-entropy over all predicted tokens."""
    correct: Count
    """Tokens whose most probable prediction was right."""
    tokens: Positive
    bytes: Positive
    """UTF-8 bytes of the text that the tokens stand for."""
    probes: tuple[Line, ...]
    """Names of the probes that the model passed."""
    confinement: tuple[Line, ...]
    """What barred the model's process from other files, the network and new processes; empty if nothing did."""
    eval_s: Seconds
    """Waiting for the logits of val, one pass."""
    eval_cpu_s: Seconds | None = ABSENT
    """Processor time of the player during the same pass, all threads together."""

    @property
    def val_loss(self) -> float:
        """Mean cross-entropy, nats per token."""
        return self.nats / self.tokens

    @property
    def val_accuracy(self) -> float:
        """Share of tokens predicted right, 0 to 1."""
        return self.correct / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(val_loss)."""
        return math.exp(self.val_loss) if self.val_loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Cross-entropy in bits over the bytes of the text: comparable between tokenizers."""
        return self.nats / math.log(2) / self.bytes


class Machine(Strict):
    """What times and last bits depend on. No user and no host names."""

    cpu: Line
    cores: Positive
    memory_gib: Positive
    os: Line
    python: Line
    gpu: Line | None = ABSENT
    """Name and training precision; None on a CPU track."""


class Provenance(Strict):
    """Where a run comes from."""

    revision: Line | None
    """Git commit of the checkout; None outside a repository."""
    dirty: bool
    """Whether harness/, tracks/ or models/ differed from that commit; variants aside, which have their own digests."""
    packages: dict[Line, Line]
    machine: Machine
    threads: Positive
    """Of each process."""
    processes: Positive | None = ABSENT
    """Processes that trained the run together, on a CUDA track each on its own GPU; None for one process."""
    jobs: Positive
    """Runs that shared the machine at the same time; a speed claim needs runs that ran alone."""

    @property
    def crew(self) -> str:
        """Processes and threads of a run, in words."""
        return f"{f'{self.processes} processes of ' if self.processes is not None else ''}{self.threads} thread(s)"


class RunIdentity(Strict):
    """What a run is: two runs with equal identity and provenance must give equal results."""

    schema_version: Literal[1] = 1
    track: TrackName
    training_digest: Sha256
    """Of the track, less rule and seed list."""
    recipe: Recipe
    sources: dict[VariantName, Sha256]
    """Variant name -> digest of its syntax tree (harness/variants/canonical.py)."""
    code_digest: Sha256
    """Of the base model, the training loop and the evaluator."""
    seed: Count
    provenance: Provenance


class FinishedRun(RunIdentity):
    """Trained, evaluated, all probes passed: the only kind of run that has a score."""

    status: Literal["finished"] = "finished"
    training: Training
    evaluation: Evaluation


FailureStatus = Literal["diverged", "hopeless", "invalid", "interrupted", "error"]


class FailedRun(RunIdentity):
    """A run without a score, and why. It has no metric field, so it cannot win."""

    status: FailureStatus
    reason: Line


Run = Annotated[FinishedRun | FailedRun, Field(discriminator="status")]


class RunFailedError(Exception):
    """A run ends without a result; `status` and the message say why."""

    def __init__(self, status: FailureStatus, reason: str) -> None:
        super().__init__(reason)
        self.status: FailureStatus = status


class Pair(NamedTuple):
    """Record holder and candidate with one seed."""

    record: FinishedRun
    candidate: FinishedRun


def finished(runs: Iterable[FinishedRun | FailedRun]) -> list[FinishedRun]:
    """The runs that have a score."""
    return [run for run in runs if isinstance(run, FinishedRun)]


def require_finished(runs: Sequence[FinishedRun | FailedRun]) -> list[FinishedRun]:
    """`runs`, all of which must have finished. Raises LlmbenchError with the reason of the first that did not."""
    for run in runs:
        if isinstance(run, FailedRun):
            raise LlmbenchError(f"{run.recipe} with seed {run.seed} {run.status}: {run.reason}")
    return finished(runs)


Parsed = TypeVar("Parsed", bound=BaseModel)
_RUN: TypeAdapter[FinishedRun | FailedRun] = TypeAdapter(Run)


def dump_json(content: BaseModel) -> str:
    """The JSON text that is written to a file: indented, one line feed at the end."""
    return content.model_dump_json(indent=1) + "\n"


def save_run(path: Path, run: FinishedRun | FailedRun) -> None:
    """Write one run, whole or not at all."""
    write_atomic(path, dump_json(run))


def load_run(path: Path) -> FinishedRun | FailedRun:
    """Read one run. Raises LlmbenchError with the file, the key and the fix."""
    return read_record(path, _RUN)


def parse_json(text: str) -> Any:
    """One JSON document. Raises ValueError where it is broken, nested absurdly deep, or names a key twice."""
    try:
        return json.loads(text, object_pairs_hook=_each_key_once)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, each of whose keys occurs once: of two values most programs read the last, people the first."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key '{twice[:LONGEST_QUOTE]}' stands twice in one object")
    return found


def read_record(path: Path, adapter: TypeAdapter[Parsed], text: str | None = None) -> Parsed:
    """Read and check one JSON file of any schema; `text` is its content, where that is known already.

    Raises LlmbenchError where the file is missing, truncated, of a newer schema, or breaks the schema.
    """
    text = read_text(path) if text is None else text
    try:
        return _parse(text, adapter)
    except ValueError as error:
        try:
            content = parse_json(text)
        except ValueError as broken:
            raise LlmbenchError(f"{path} is not whole JSON ({broken}); restore or delete it") from error
        version = content.get("schema_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise LlmbenchError(
                f"{path} has schema version {version}, this llmbench reads up to {SCHEMA_VERSION}; upgrade llmbench"
            ) from error
        problem = explain_validation(error) if isinstance(error, ValidationError) else str(error)
        raise LlmbenchError(f"{path}: {problem}") from error


@lru_cache(maxsize=256)  # claims measured against the same record hold the same runs
def _parse(text: str, adapter: TypeAdapter[Parsed]) -> Parsed:
    """Raises ValueError where the text is not whole JSON, names a key twice, or breaks the schema."""
    record = adapter.validate_json(text)
    if dump_json(record) != text:
        parse_json(text)  # pydantic accepts a key that occurs twice
    return record
