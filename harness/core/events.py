"""What processes tell each other about a run: one small record an event, told apart by its field `event`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from harness.core.runs import Evaluation, FailedRun, FailureStatus, FinishedRun, Nats, Run, Seconds, Training
from harness.core.schema import Positive, Sha256, Strict


class Step(Strict):
    """Training has come to the end of a step."""

    event: Literal["step"] = "step"
    step: Positive
    loss_nats: Nats
    """Of that step's whole batch, mean per token."""
    train_s: Seconds
    """Training clock by then."""


class Rehearsed(Strict):
    """A run got as far as its first step."""

    event: Literal["rehearsed"] = "rehearsed"


class Trained(Strict):
    """A run's training ended well."""

    event: Literal["trained"] = "trained"
    training: Training


class Evaluated(Strict):
    """The weights were scored on val, and passed every probe."""

    event: Literal["evaluated"] = "evaluated"
    evaluation: Evaluation
    weights_sha256: Sha256
    """Of the weights that were scored."""


class Failed(Strict):
    """The run has no score, and why."""

    event: Literal["failed"] = "failed"
    status: FailureStatus
    reason: str


class Stopped(Strict):
    """The run was asked to stop; its checkpoint is written."""

    event: Literal["stopped"] = "stopped"


class Refused(Strict):
    """The run cannot start: an error for the user."""

    event: Literal["refused"] = "refused"
    message: str


Answer = Rehearsed | Trained | Evaluated | Failed | Stopped | Refused
"""A worker's last event."""
WorkerEvent = Step | Answer
WORKER_EVENT: TypeAdapter[WorkerEvent] = TypeAdapter(Annotated[WorkerEvent, Field(discriminator="event")])


class Evaluating(Strict):
    """Training is over, the weights are being scored."""

    event: Literal["evaluating"] = "evaluating"


class Lost(Strict):
    """The machine that made the run is gone; it starts again."""

    event: Literal["lost"] = "lost"
    reason: str


class Waiting(Strict):
    """Another llmbench trains this very run."""

    event: Literal["waiting"] = "waiting"


class Done(Strict):
    """The run is there."""

    event: Literal["done"] = "done"
    result: FinishedRun | FailedRun
    reused: bool
    """Whether it was trained before."""


RunEvent = Step | Evaluating | Lost | Waiting | Done
"""What whoever watches a run is told."""


class Made(Strict):
    """A machine of a cluster has made the run; its files lie in `folder` there."""

    event: Literal["made"] = "made"
    run: Run
    folder: str


class Ended(Strict):
    """The process on a machine of a cluster ended, with the end of its stderr."""

    event: Literal["ended"] = "ended"
    code: int
    """Negative for a signal."""
    log: str


NodeEvent = Step | Evaluating | Lost | Waiting | Made | Refused | Ended
NODE_EVENT: TypeAdapter[NodeEvent] = TypeAdapter(Annotated[NodeEvent, Field(discriminator="event")])
