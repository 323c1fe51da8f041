"""The messages between referee and player: a fixed header, then a body whose size the referee knows or limits.

Each request and each answer is a header and a body. Numbers are little-endian: tokens are int64, logits are float32.
Weights are the bytes of all tensors, in the order of `Built.tensors`. JSON is checked against a schema. Neither side
unpickles what the other sends. The referee stores a player's training state without reading it; only a player loads it.
Shapes: B sequences, T positions, V vocabulary.
"""

from __future__ import annotations

import math
import struct
from enum import IntEnum
from typing import Annotated, Literal

from pydantic import Field

from harness.core.runs import BatchShape, ExpertLayer
from harness.core.schema import Count, Positive, Strict
from harness.core.track import Track
from harness.data.plan import MOST_SHAPES

REQUEST = struct.Struct("<Bqqq")  # verb, rows, columns, number; the body's length follows from its message
ANSWER = struct.Struct("<B")  # DONE or FAILED; the body follows
DONE, FAILED = 0, 1

LONGEST_WORD = 1 << 20
"""Largest number of bytes of JSON in one answer."""
LONGEST_REASON = 300
"""Number of characters that are kept of the reason for a failure."""
MOST_TENSORS = 20_000
LONGEST_NAME = 300  # characters of a tensor's name, printable ASCII
LONGEST_AXIS = 1 << 40


class RuleBrokenError(Exception):
    """The recipe broke a rule of training; the message starts with the rule's name."""


ITEM_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1,
    "bool": 1,
}  # fmt: skip
"""Types that weights may have, by torch's names."""


class Verb(IntEnum):
    """Requests to a player.

    Each docstring says what the two bodies contain: body of the request -> body of the answer.
    """

    BUILD = 1
    """JSON of `Assignment` -> JSON of `Built`. The first request, sent once."""
    JOIN = 2
    """JSON of a port, or of null for the rank that opens one -> JSON of the port. Connects the ranks
    (processes) of a run."""
    LOAD = 3
    """Weights -> nothing."""
    STEP = 4
    """Tokens (B, T + 1); number: the step, from 0 -> the training losses read since the previous answer, float64."""
    SCORE = 5
    """Tokens (B, T) -> logits (B, T, V), in evaluation mode."""
    SNAPSHOT = 6
    """Nothing -> weights."""
    SAVE = 7
    """Nothing -> the whole training state, opaque."""
    RESUME = 8
    """The training state that SAVE answered; number: the next step -> nothing."""
    REPORT = 9
    """Nothing -> JSON of `Report`, which the referee does not check."""


class TensorSpec(Strict):
    """One tensor of the weights: a parameter or a persistent buffer."""

    name: Annotated[str, Field(pattern=r"^[ -~]+$", max_length=LONGEST_NAME)]
    dtype: str
    shape: Annotated[tuple[Annotated[Count, Field(le=LONGEST_AXIS)], ...], Field(max_length=8)]
    is_parameter: bool
    tied_to: str | None = None
    """The name of another tensor with the same memory."""

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


class Assignment(Strict):
    """The model that a player has to build, and how the player trains it if it trains."""

    track: Track
    sources: tuple[tuple[str, str], ...]
    """Name and text of each variant, in the recipe's order."""
    seed: Count
    separator: Count
    """Token that begins each document."""
    num_steps: Positive | None = None
    """Number of training steps that the learning-rate schedule gets; None for the number of the recipe's batches."""
    start: Literal["drawn", "noisy", "empty"]
    """Initial weights. `drawn`: from the seed; `noisy`: random values everywhere, so that no zero hides a leak;
    `empty`: they are loaded later."""
    trains: bool
    """Whether the player gets optimizers, and warms up for batches of `rows` sequences."""
    rank: Count = 0
    rows: Positive = 1
    """Number of sequences of a batch that this player gets."""
    read_steps: tuple[Count, ...] | None = None
    """Numbers of finished steps after which all losses are read; None means the steps after which the dev loss is
    computed. In between, a GPU reads the losses of several steps at once."""
    compiled: str | None = None
    """Folder for the files of `torch.compile`; None if the model is not compiled."""
    compiles: bool = False
    """Whether the player compiles into that folder and sees no batch; otherwise it only reads the folder."""


class Built(Strict):
    """The answer to the request BUILD: the model is built, and the player can get tokens."""

    tensors: Annotated[tuple[TensorSpec, ...], Field(max_length=MOST_TENSORS)]
    batches: Annotated[tuple[BatchShape, ...], Field(max_length=MOST_SHAPES)] | None = None
    """Shapes of the batches of a player that trains; None if they are those of the track."""

    @property
    def num_params(self) -> int:
        """Number of parameters as the player reports it; tied parameters count once."""
        return sum(math.prod(spec.shape) for spec in self.tensors if spec.is_parameter and spec.tied_to is None)


class Failure(Strict):
    """Why a player cannot continue. The player exits after sending this."""

    status: Literal["refused", "invalid", "diverged", "error"]
    """`refused` means that the player cannot start. The reason is shown to the user."""
    reason: str


class Report(Strict):
    """What a player reports about itself. The report is not checked, and no verdict depends on it."""

    peak_memory_mib: Positive | None
    experts: tuple[ExpertLayer, ...] | None
    """Loads of the experts over all tokens evaluated since the weights were loaded."""
