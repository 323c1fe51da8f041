"""Events of a run, which processes send each other. The field `event` tells the kinds apart."""

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
    """Training tokens handed to the player so far."""
    loss_nats: Nats
    """Mean loss per token of that step's batch, as the player reports it."""
    train_s: Seconds
    """Time on the training clock so far."""


class Refused(Strict):
    """The run cannot start; `message` is shown to the user."""

    event: Literal["refused"] = "refused"
    message: str


class Evaluating(Strict):
    """Training has ended and the weights are being scored."""

    event: Literal["evaluating"] = "evaluating"


class Lost(Strict):
    """The run was lost for this reason and starts again."""

    event: Literal["lost"] = "lost"
    reason: str


class Waiting(Strict):
    """Another llmbench process trains this run now."""

    event: Literal["waiting"] = "waiting"


class Done(Strict):
    """The run has ended."""

    event: Literal["done"] = "done"
    result: FinishedRun | FailedRun
    reused: bool
    """Whether the result was kept from an earlier command."""


RunEvent = Step | Evaluating | Lost | Waiting | Done
"""What an observer of a run receives."""


class Made(Strict):
    """A machine of a cluster has made the run; its files are in `folder` on that machine."""

    event: Literal["made"] = "made"
    run: Run
    folder: str


class Ended(Strict):
    """The process on a machine of a cluster ended; `log` is the end of its stderr."""

    event: Literal["ended"] = "ended"
    code: int
    """Exit code; negative for a signal."""
    log: str


NodeEvent = Step | Evaluating | Lost | Waiting | Made | Refused | Ended
NODE_EVENT: TypeAdapter[NodeEvent] = TypeAdapter(Annotated[NodeEvent, Field(discriminator="event")])
