"""What passes between a referee and a player: fixed headers, then raw bytes of a size that the referee knows or caps.

A request is a header and a body, an answer too. Numbers are little-endian; tokens are int64, logits float32, weights
the bytes of each tensor in the order of `Built.tensors`. JSON is read with a schema. Neither end unpickles what the
other says; a saved state is opaque to the referee, and a player's own state is loaded by a player.
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
ANSWER = struct.Struct("<B")  # whether it was done; the body follows
DONE, FAILED = 0, 1

LONGEST_WORD = 1 << 20
"""Bytes of JSON in one answer."""
LONGEST_REASON = 300
"""Characters of why a player failed that are kept."""
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
    """What a player is asked. Each answer's body is named here."""

    BUILD = 1
    """JSON of `Assignment` -> JSON of `Built`. First, and once."""
    JOIN = 2
    """JSON of a port, or of null for the rank that opens one -> JSON of the port. Connects the ranks of a run."""
    LOAD = 3
    """Weights -> nothing."""
    STEP = 4
    """Tokens (B, T + 1), number: the step, from 0 -> the losses read since the answer before, float64."""
    SCORE = 5
    """Tokens (B, T) -> logits (B, T, V), in evaluation mode."""
    SNAPSHOT = 6
    """Nothing -> weights."""
    SAVE = 7
    """Nothing -> everything that training goes on from, opaque."""
    RESUME = 8
    """What SAVE answered, number: the step that comes next -> nothing."""
    REPORT = 9
    """Nothing -> JSON of `Report`, the player's own words."""


class TensorSpec(Strict):
    """One tensor of the weights: a parameter or a persistent buffer."""

    name: Annotated[str, Field(pattern=r"^[ -~]+$", max_length=LONGEST_NAME)]
    dtype: str
    shape: Annotated[tuple[Annotated[Count, Field(le=LONGEST_AXIS)], ...], Field(max_length=8)]
    is_parameter: bool
    tied_to: str | None = None
    """Another tensor that is the same memory."""

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


class Assignment(Strict):
    """What a player builds."""

    track: Track
    sources: tuple[tuple[str, str], ...]
    """Name and text of each variant, in the recipe's order."""
    seed: Count
    separator: Count
    """Token that begins each document."""
    num_steps: Positive | None = None
    """What the schedule is told, where it is not the number that the recipe's batches make."""
    start: Literal["drawn", "noisy", "empty"]
    """`drawn`: from the seed; `noisy`: random values everywhere, where a leak cannot hide behind a zero; `empty`: for
    weights that are loaded."""
    trains: bool
    """Whether it gets optimizers, and warms up for batches of `rows` sequences."""
    rank: Count = 0
    rows: Positive = 1
    """Sequences of a batch that this player gets."""
    read_steps: tuple[Count, ...] | None = None
    """Numbers of steps done after which all losses are read, where these are not those after which dev is scored;
    elsewhere a GPU reads some together."""
    compiled: str | None = None
    """Folder of what `torch.compile` makes, where the model is compiled."""
    compiles: bool = False
    """Whether it fills that folder, and sees no batch; else it reads what another left there."""


class Built(Strict):
    """A player is ready for its first tokens."""

    tensors: Annotated[tuple[TensorSpec, ...], Field(max_length=MOST_TENSORS)]
    batches: Annotated[tuple[BatchShape, ...], Field(max_length=MOST_SHAPES)] | None = None
    """Of one that trains, where the recipe changes the track's batches."""

    @property
    def num_params(self) -> int:
        """Of what is trained, tied ones once, by the player's word."""
        return sum(math.prod(spec.shape) for spec in self.tensors if spec.is_parameter and spec.tied_to is None)


class Failure(Strict):
    """Why a player cannot go on. It ends after it."""

    status: Literal["refused", "invalid", "diverged", "error"]
    """`refused`: it cannot start as it is, and the reason is for the user."""
    reason: str


class Report(Strict):
    """What a player says of itself; nothing depends on it."""

    peak_memory_mib: Positive | None
    experts: tuple[ExpertLayer, ...] | None
    """Loads of the experts over all that it scored since its weights were loaded."""
