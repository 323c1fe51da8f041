"""Events of a run, sent from one process to another. The field `event` names the kind of the event."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from harness.core.runs import FailedRun, FinishedRun, Nats, Run, Seconds
from harness.core.schema import Positive, Strict


class Step(Strict):
    """A training step has ended."""

    event: Literal["step"] = "step"
    step: Positive
    tokens: Positive
    """Number of training tokens so far."""
    loss_nats: Nats
    """Mean loss per token of that step's batch, as the training process reports it."""
    train_s: Seconds
    """Training time so far, without evaluations on dev and checkpoints."""


class Refused(Strict):
    """The run cannot start; `message` is shown to the user."""

    event: Literal["refused"] = "refused"
    message: str


class Evaluating(Strict):
    """Training has ended, and the model is being evaluated on val."""

    event: Literal["evaluating"] = "evaluating"


class Lost(Strict):
    """The run's training state was lost, so the run starts again; `reason` says why."""

    event: Literal["lost"] = "lost"
    reason: str


class Waiting(Strict):
    """Another llmbench process is training this run now."""

    event: Literal["waiting"] = "waiting"


class Done(Strict):
    """The run has ended."""

    event: Literal["done"] = "done"
    result: FinishedRun | FailedRun
    reused: bool
    """Whether the result comes from an earlier command instead of new training."""


RunEvent = Step | Evaluating | Lost | Waiting | Done
"""Any event of a run that is passed to the code that shows progress."""


class Made(Strict):
    """A machine of the cluster has finished the run. The run's files are in `folder` on that machine."""

    event: Literal["made"] = "made"
    run: Run
    folder: str


class Ended(Strict):
    """The process that made a run on a machine of the cluster has ended. `log` is the last part of its stderr."""

    event: Literal["ended"] = "ended"
    code: int
    """Exit code of the process; if a signal ended it, minus the signal's number."""
    log: str


NodeEvent = Step | Evaluating | Lost | Waiting | Made | Refused | Ended
NODE_EVENT: TypeAdapter[NodeEvent] = TypeAdapter(Annotated[NodeEvent, Field(discriminator="event")])
