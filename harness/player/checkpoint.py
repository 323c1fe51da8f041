"""The state of a run while it trains: clock, tokens and losses so far, and the file from which it resumes.

Shapes: R processes of the run, S steps.
"""

from __future__ import annotations

import io
import math
import pickle
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.core.errors import LlmbenchError
from harness.core.project import read_bytes, sha256, write_atomic
from harness.player.ranks import Ranks, RunEndedError

DIGEST_BYTES = 32  # of SHA-256
PROGRESS = ("step", "tokens", "train_s", "cpu_s", "loss_sum", "loss_steps", "curve", "ended")
"""What is saved besides weights, optimizers and wall time."""


class DivergedError(RunEndedError):
    """The loss is no longer a finite number."""

    status = "diverged"


class Checkpoint:
    """Everything that changes during a run, so that a resumed run equals an uninterrupted one.

    Random streams are keyed by step, so it holds no generator's state.
    """

    def __init__(self, path: Path, model: nn.Module, optimizers: list[Optimizer], started: float) -> None:
        """`started` is when the process began, by time.perf_counter."""
        self.path, self.model, self.optimizers, self.started = path, model, optimizers, started
        self.step, self.tokens, self.train_s, self.cpu_s, self.earlier_wall_s = 0, 0, 0.0, 0.0, 0.0
        self.loss_sum, self.loss_steps = 0.0, 0
        self.curve: list[dict[str, Any]] = []
        self.ended = ""
        self.unread_tokens = 0
        self.saved = time.perf_counter()
        self.start_clock()

    @property
    def wall_s(self) -> float:
        """All sessions of the run together."""
        return self.earlier_wall_s + time.perf_counter() - self.started

    def start_clock(self) -> None:
        """Training time counts from here to `stop_clock`."""
        self._tick, self._cpu_tick = time.perf_counter(), time.process_time()

    def stop_clock(self) -> None:
        self.train_s += time.perf_counter() - self._tick
        self._unread_cpu_s = time.process_time() - self._cpu_tick

    def read(self, losses: list[Tensor], ranks: Ranks) -> float:
        """Add up processor time, tokens and losses of the steps since the clock was started, over all processes.

        Empties `losses`, one a step. Returns the last step's mean over the whole batch, nats per token.
        """
        told = self._unread_cpu_s, self.unread_tokens, [loss.item() for loss in losses]
        cpu_s_R, tokens_R, losses_RS = zip(*ranks.gather(told), strict=True)
        self.cpu_s += sum(cpu_s_R)
        self.tokens += sum(tokens_R)
        for loss_R in zip(*losses_RS, strict=True):
            mean_nats = sum(loss_R) / len(loss_R)
            self.loss_sum += mean_nats
        self.loss_steps += len(losses)
        self.unread_tokens = 0
        losses.clear()
        return mean_nats

    def count_tokens(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """A hook before every forward pass, in either mode: every token that the model sees counts."""
        self.unread_tokens += inputs[0].numel()

    def end_interval(self, dev_loss: float) -> None:
        """Add a point to the curve; the next training mean starts here.

        Raises DivergedError where the loss is not finite.
        """
        self.unread_tokens = 0  # comparing the two models on dev is no training
        if not math.isfinite(dev_loss):
            raise DivergedError(f"the dev loss is not finite at step {self.step}")
        self.curve.append(
            {
                "step": self.step,
                "train_s": self.train_s,
                "train_loss_nats": self.loss_sum / self.loss_steps,
                "dev_loss_nats": dev_loss,
            }
        )
        self.loss_sum, self.loss_steps = 0.0, 0

    def save(self) -> None:
        """Write the file, atomically."""
        buffer = io.BytesIO()
        progress = {name: getattr(self, name) for name in PROGRESS} | {"earlier_wall_s": self.wall_s}
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        torch.save({"progress": progress, "model": self.model.state_dict(), "optimizers": optimizers}, buffer)
        payload = buffer.getvalue()
        write_atomic(self.path, bytes.fromhex(sha256(payload)) + payload)
        self.saved = time.perf_counter()

    def load(self) -> None:
        """Continue from the checkpoint file where there is one.

        Its digest comes first: torch loads 97 of 100 flipped bits without a word (measured 2026-11).
        """
        if not self.path.exists():
            return
        data = read_bytes(self.path)
        try:
            if bytes.fromhex(sha256(data[DIGEST_BYTES:])) != data[:DIGEST_BYTES]:
                raise ValueError("its digest is another")
            content = torch.load(io.BytesIO(data[DIGEST_BYTES:]), weights_only=True)
            self.model.load_state_dict(content["model"])
            for optimizer, state in zip(self.optimizers, content["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            for name, value in content["progress"].items():
                setattr(self, name, value)
        except (RuntimeError, ValueError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise LlmbenchError(f"the checkpoint {self.path} is broken; delete it to train this run anew") from error
