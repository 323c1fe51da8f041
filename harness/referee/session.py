"""One player as the referee uses it: named requests, and answers checked before use. Nothing is unpickled.

Shapes: B sequences, T positions, V vocabulary.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from harness.core.errors import LlmbenchError
from harness.core.runs import RunFailedError
from harness.data.plan import Plan, plan_of
from harness.player.process import Player
from harness.player.protocol import ITEM_BYTES, Assignment, Built, Report, TensorSpec, Verb

if TYPE_CHECKING:
    from harness.core.track import Track

MOST_STATE = 16
"""Largest saved state, as a multiple of the weights' bytes. Weights and optimizers take three to five."""
STATE_BASE_BYTES = 64 << 20
WEIGHTS_SHARE, STATE_SHARE = 4, 2
"""Weights may take a quarter of a player's memory, a saved state half: it also holds gradients and optimizer states,
and a saved state twice. The limits protect the referee too, which copies both."""
LARGEST_MEMORY = 64 << 30  # bytes, where a player has no limit of its own
RESERVED = "__metadata__"  # in a safetensors file
_PORT: TypeAdapter[int] = TypeAdapter(int)


class ProbeFailedError(Exception):
    """The model breaks a rule that its score depends on; the message starts with the rule's name."""


class Session(AbstractContextManager["Session"]):
    """A player that has built its model. Its methods raise what `Player` does."""

    def __init__(self, player: Player, assignment: Assignment) -> None:
        """Have the player build its model. Raises LlmbenchError where the recipe cannot be built."""
        self.player, self.assignment = player, assignment
        self.wall_s = self.cpu_s = 0.0
        """Seconds of loading weights and scoring so far; processor time includes what lies in between."""
        self._began_cpu_s = 0.0
        try:
            answered = player.ask(Verb.BUILD, assignment.model_dump_json().encode())
            self.built = player.read_json(Built, answered)
            self._check_built(assignment.track)
        except BaseException:
            player.close()
            raise
        player.is_built = True
        self._began_cpu_s = player.cpu_s()

    def _check_built(self, track: Track) -> None:
        names = {spec.name for spec in self.built.tensors}
        unknown = [spec.dtype for spec in self.built.tensors if spec.dtype not in ITEM_BYTES]
        if unknown:
            raise RunFailedError("error", f"weights: a tensor has type {unknown[0][:40]}; use a usual type of torch")
        if len(names) < len(self.built.tensors):
            raise RunFailedError("error", "weights: two tensors have the same name; rename one")
        if RESERVED in names:
            raise RunFailedError("error", f"weights: a tensor is called {RESERVED}; rename it")
        if self.weights_bytes > self._room // WEIGHTS_SHARE:
            raise RunFailedError(
                "error", f"memory: the weights take {self.weights_bytes / 2**30:.1f} GiB, over a quarter of its limit"
            )

    @property
    def _room(self) -> int:
        """Bytes of memory that the player may take."""
        return self.player.cell.memory_bytes or LARGEST_MEMORY

    @property
    def confinement(self) -> tuple[str, ...]:
        """What keeps the player's process from the rest of the machine."""
        return self.player.confinement

    @cached_property
    def plan(self) -> Plan:
        """The batches of its recipe, checked. Raises RunFailedError where they break the budget."""
        try:
            return plan_of(self.assignment.track, self.built.batches)
        except LlmbenchError as error:
            raise RunFailedError("invalid", str(error)) from error

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        return self.built.tensors

    @property
    def weights_bytes(self) -> int:
        """Of all parameters and persistent buffers together."""
        return sum(spec.num_bytes for spec in self.tensors)

    def load(self, weights: bytes) -> None:
        """Load these weights into its model."""
        self.wall_s += self.player.ask(Verb.LOAD, weights, exactly=0).wall_s

    def tell_step(self, tokens_BT1: NDArray[np.int64], step: int) -> None:
        """Hand it the batch of a step, counted from 0; `hear_step` waits for its answer."""
        rows, columns = tokens_BT1.shape
        body = np.ascontiguousarray(tokens_BT1, dtype="<i8").data.cast("B")
        self.player.tell(Verb.STEP, body, rows=rows, columns=columns, number=step)

    def hear_step(self) -> list[float]:
        """The losses since the previous answer, nats per token, as it reports them."""
        body = self.player.hear(at_most=8 * (self.assignment.num_steps or self.plan.num_steps)).body
        if len(body) % 8:
            raise RunFailedError("error", "its process sent an invalid answer")
        losses: list[float] = np.frombuffer(body, dtype="<f8").tolist()
        return losses

    def ask(self, tokens_BT: NDArray[np.int64]) -> NDArray[np.float32]:
        """The model's logits_BTV for tokens_BT, valid until the next question.

        Raises ProbeFailedError where one is not finite.
        """
        rows, columns = tokens_BT.shape
        body = np.ascontiguousarray(tokens_BT, dtype="<i8").data.cast("B")
        shape = (rows, columns, self.assignment.track.model.vocab_size)
        try:
            answered = self.player.ask(Verb.SCORE, body, rows=rows, columns=columns, exactly=4 * math.prod(shape))
        except RunFailedError as error:
            if error.status == "invalid":
                raise ProbeFailedError(str(error)) from error
            raise
        self.wall_s += answered.wall_s
        self.cpu_s = self.player.cpu_s() - self._began_cpu_s
        logits_BTV: NDArray[Any] = np.frombuffer(answered.body, dtype="<f4").reshape(shape)
        if not np.isfinite(logits_BTV).all():
            raise ProbeFailedError("finiteness: a logit is not a finite number")
        return logits_BTV

    def snapshot(self) -> bytes:
        """Its weights, in the order of `tensors`."""
        return bytes(self.player.ask(Verb.SNAPSHOT, exactly=self.weights_bytes).body)

    def save(self) -> bytes:
        """Its training state; only a player of the same run loads it."""
        at_most = min(STATE_BASE_BYTES + MOST_STATE * self.weights_bytes, self._room // STATE_SHARE)
        return bytes(self.player.ask(Verb.SAVE, at_most=at_most).body)

    def resume(self, saved: bytes) -> None:
        """Load what `save` returned into its training."""
        self.player.ask(Verb.RESUME, saved, exactly=0)

    def open_port(self) -> int:
        """Have it open the port at which the ranks find each other."""
        answered = self.player.ask(Verb.JOIN, b"null")
        try:
            return _PORT.validate_json(bytes(answered.body))
        except ValidationError as error:
            raise RunFailedError("error", "its process sent an invalid answer") from error

    def tell_join(self, port: int) -> None:
        """Tell it where the ranks find each other; `hear_join` waits until all have."""
        self.player.tell(Verb.JOIN, str(port).encode())

    def hear_join(self) -> None:
        self.player.hear(at_most=8)

    def report(self) -> Report:
        """What it reports about itself."""
        return self.player.read_json(Report, self.player.ask(Verb.REPORT))

    def __exit__(self, *error: object) -> None:
        self.player.close()
