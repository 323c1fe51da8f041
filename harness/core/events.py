"""What processes tell each other about a run: one small record an event, told apart by its field `event`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from harness.core.runs import FailedRun, FinishedRun, Nats, Run, Seconds
from harness.core.schema import Positive, Strict


class Step(Strict):
    """Training has come to the end of a step."""

    event: Literal["step"] = "step"
    step: Positive
    tokens: Positive
    """That were handed out by then."""
    loss_nats: Nats
    """Of that step's whole batch, mean per token, by the player's words."""
    train_s: Seconds
    """Training clock by then."""


class Refused(Strict):
    """The run cannot start: an error for the user."""

    event: Literal["refused"] = "refused"
    message: str


class Evaluating(Strict):
    """Training is over, the weights are being scored."""

    event: Literal["evaluating"] = "evaluating"


class Lost(Strict):
    """The run starts again, and why."""

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
