"""Checkpoints of a run: how far its training is, and the training state, which only the run's players read.

A resumed run must end with the same weights as an uninterrupted one. `resumes_exactly` checks this for a recipe by a
short training, because a recipe's optimizer and modules may have state that a checkpoint does not contain.
"""

from __future__ import annotations

import struct

import numpy as np
from pydantic import ValidationError

from harness.core.errors import LlmbenchError
from harness.core.project import derive_seed, exists, read_bytes, sha256, write_atomic
from harness.core.runs import CurvePoint, RunFailedError, Seconds
from harness.core.schema import Count, Strict
from harness.referee.casting import Casting
from harness.referee.job import Job
from harness.referee.session import Session

DIGEST_BYTES = 32  # of SHA-256
LENGTH = struct.Struct("<Q")

# The short training has SMALL_STEPS steps on dummy tokens and goes through the whole schedule. It is saved after the
# steps SAVED_AFTER, odd and even, early and late ones, because a recipe's state may depend on the progress.
SMALL_STEPS, SAVED_AFTER, SMALL_ROWS = 12, (1, 6, 7, 10, 11), 2


class Progress(Strict):
    """What the referee stores about a run after a training step: counts, times and losses so far."""

    step: Count = 0
    tokens: Count = 0
    train_s: Seconds = 0.0
    cpu_s: Seconds = 0.0
    warmup_s: Seconds = 0.0
    warmup_cpu_s: Seconds = 0.0
    wall_s: Seconds = 0.0
    loss_sum: float = 0.0
    """Sum of the losses that the player reported, nats per token, of the `loss_steps` steps since the curve's last
    point."""
    loss_steps: Count = 0
    curve: tuple[CurvePoint, ...] = ()


def save_checkpoint(job: Job, progress: Progress, saved: bytes) -> None:
    """Write the checkpoint's file, atomically. Raises LlmbenchError if the disk is full."""
    account = progress.model_dump_json().encode()
    payload = LENGTH.pack(len(account)) + account + saved
    write_atomic(job.checkpoint, bytes.fromhex(sha256(payload)) + payload)


def load_checkpoint(job: Job) -> tuple[Progress, bytes] | None:
    """The progress and the training state in the run's checkpoint; None if there is no checkpoint.

    Raises LlmbenchError if the file cannot be read.
    """
    if not exists(job.checkpoint):
        return None
    data = read_bytes(job.checkpoint)
    payload = data[DIGEST_BYTES:]
    try:
        if bytes.fromhex(sha256(payload)) != data[:DIGEST_BYTES]:
            raise ValueError("its digest differs")
        (length,) = LENGTH.unpack_from(payload)
        start = LENGTH.size + length
        return Progress.model_validate_json(payload[LENGTH.size : start]), payload[start:]
    except (ValueError, struct.error, ValidationError) as error:
        raise LlmbenchError(
            f"the checkpoint {job.checkpoint} cannot be read; delete it to train this run from its start"
        ) from error


def resumes_exactly(casting: Casting) -> bool:
    """Whether a player that loads a saved state ends with the same weights, bit for bit, as the player that saved
    it."""
    budget, vocab_size = casting.track.budget, casting.track.model.vocab_size
    generator = np.random.default_rng(derive_seed("rehearsal"))
    batches = generator.integers(0, vocab_size, (SMALL_STEPS, SMALL_ROWS, budget.seq_len + 1))
    assignment = casting.assignment(
        start="drawn", trains=True, num_steps=SMALL_STEPS, rows=SMALL_ROWS, read_steps=tuple(range(SMALL_STEPS + 1))
    )

    def go_on(session: Session, first: int) -> dict[int, bytes]:
        """Train from step `first` to the last.

        Returns step -> the state saved after it; for the last step, the weights.
        """
        found = {}
        for step in range(first, SMALL_STEPS):
            session.tell_step(batches[step], step)
            session.hear_step()
            if first == 0 and step + 1 in SAVED_AFTER:
                found[step + 1] = session.save()
        return {**found, SMALL_STEPS: session.snapshot()}

    with casting.start("train", assignment) as session:
        states = go_on(session, 0)
    for step in SAVED_AFTER:
        try:
            with casting.start("resume", assignment) as session:
                session.resume(states[step])
                if go_on(session, step)[SMALL_STEPS] != states[SMALL_STEPS]:
                    return False
        except RunFailedError:
            return False
    return True
