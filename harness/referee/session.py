"""The referee's side of a player: each request is a method, answers are checked before use, nothing is unpickled.

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
"""Largest saved training state, as a multiple of the weights' bytes. Usual optimizers need three to five."""
STATE_BASE_BYTES = 64 << 20
WEIGHTS_SHARE, STATE_SHARE = 4, 2
"""Weights may take a quarter of a player's memory, a saved state half. The memory also holds gradients and optimizer
states, and a saved state twice. The limits protect the referee too, which copies weights and states."""
LARGEST_MEMORY = 64 << 30  # bytes, where a player has no limit of its own
RESERVED = "__metadata__"  # in a safetensors file
_PORT: TypeAdapter[int] = TypeAdapter(int)


class ProbeFailedError(Exception):
    """The model broke a rule, so that its val loss is not valid; the message starts with the rule's name."""


class Session(AbstractContextManager["Session"]):
    """A player that has built its model. Its methods raise the same errors as those of `Player`."""

    def __init__(self, player: Player, assignment: Assignment) -> None:
        """Make the player build its model. Raises LlmbenchError if the recipe cannot be built."""
        self.player, self.assignment = player, assignment
        self.wall_s = self.cpu_s = 0.0
        """Seconds of loading weights and computing logits so far. `cpu_s` also counts the time between requests."""
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
            raise RunFailedError("error", f"weights: a tensor has type {unknown[0][:40]}; use a float or integer type")
        if len(names) < len(self.built.tensors):
            raise RunFailedError("error", "weights: two tensors have the same name; rename one of them")
        if RESERVED in names:
            raise RunFailedError("error", f"weights: a tensor is called {RESERVED}, a reserved name; rename it")
        if self.weights_bytes > self._room // WEIGHTS_SHARE:
            raise RunFailedError(
                "error",
                f"memory: the weights take {self.weights_bytes / 2**30:.1f} GiB, more than a quarter of the run's "
                f"memory limit of {self._room / 2**30:.1f} GiB; make the model smaller or use fewer jobs",
            )

    @property
    def _room(self) -> int:
        """Bytes of memory that the player may take."""
        return self.player.cell.memory_bytes or LARGEST_MEMORY

    @property
    def confinement(self) -> tuple[str, ...]:
        """Names of the mechanisms that confine the player's process, such as `landlock`."""
        return self.player.confinement

    @cached_property
    def plan(self) -> Plan:
        """The batches with which the recipe trains.

        Raises RunFailedError if they do not fit the track's token budget.
        """
        try:
            return plan_of(self.assignment.track, self.built.batches)
        except LlmbenchError as error:
            raise RunFailedError("invalid", str(error)) from error

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        return self.built.tensors

    @property
    def weights_bytes(self) -> int:
        """Bytes of all parameters and persistent buffers together."""
        return sum(spec.num_bytes for spec in self.tensors)

    def load(self, weights: bytes) -> None:
        """Load these weights into the player's model."""
        self.wall_s += self.player.ask(Verb.LOAD, weights, exactly=0).wall_s

    def tell_step(self, tokens_BT1: NDArray[np.int64], step: int) -> None:
        """Send the player the batch of training step `step`, counted from 0; call `hear_step` for the answer."""
        rows, columns = tokens_BT1.shape
        body = np.ascontiguousarray(tokens_BT1, dtype="<i8").data.cast("B")
        self.player.tell(Verb.STEP, body, rows=rows, columns=columns, number=step)

    def hear_step(self) -> list[float]:
        """The answer to `tell_step`: the player's training losses since its previous answer, in nats per token."""
        body = self.player.hear(at_most=8 * (self.assignment.num_steps or self.plan.num_steps)).body
        if len(body) % 8:
            raise RunFailedError("error", "the run's process sent an invalid answer")
        losses: list[float] = np.frombuffer(body, dtype="<f8").tolist()
        return losses

    def ask(self, tokens_BT: NDArray[np.int64]) -> NDArray[np.float32]:
        """The model's logits_BTV for tokens_BT. The next request overwrites them.

        Raises ProbeFailedError if a logit is not finite.
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
            raise ProbeFailedError("finiteness: a logit of the model is NaN or infinite")
        return logits_BTV

    def snapshot(self) -> bytes:
        """The model's weights, in the order of `tensors`."""
        return bytes(self.player.ask(Verb.SNAPSHOT, exactly=self.weights_bytes).body)

    def save(self) -> bytes:
        """The player's training state, which only a player of the same run loads."""
        at_most = min(STATE_BASE_BYTES + MOST_STATE * self.weights_bytes, self._room // STATE_SHARE)
        return bytes(self.player.ask(Verb.SAVE, at_most=at_most).body)

    def resume(self, saved: bytes) -> None:
        """Load a training state that `save` returned."""
        self.player.ask(Verb.RESUME, saved, exactly=0)

    def open_port(self) -> int:
        """Make the player open the port at which the ranks (processes of one run) find each other."""
        answered = self.player.ask(Verb.JOIN, b"null")
        try:
            return _PORT.validate_json(bytes(answered.body))
        except ValidationError as error:
            raise RunFailedError("error", "the run's process sent an invalid answer") from error

    def tell_join(self, port: int) -> None:
        """Send the player the port at which the ranks of the run find each other.

        Call this for all ranks, then `hear_join`, which returns when the player is connected to the other ranks.
        """
        self.player.tell(Verb.JOIN, str(port).encode())

    def hear_join(self) -> None:
        self.player.hear(at_most=8)

    def report(self) -> Report:
        """The player's peak memory and the load of its experts, as it reports them."""
        return self.player.read_json(Report, self.player.ask(Verb.REPORT))

    def __exit__(self, *error: object) -> None:
        self.player.close()
