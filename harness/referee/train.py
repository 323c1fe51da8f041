"""The referee's side of training: it sends one batch at a time, measures time, and has the dev loss computed.

Shapes: B sequences, T positions; a batch has T + 1 tokens of each sequence.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.dataspec import SplitName
from harness.core.errors import InterruptedRunError
from harness.core.events import Lost, RunEvent, Step
from harness.core.project import sha256, write_atomic
from harness.core.runs import CurvePoint, ExpertLayer, RunFailedError, Training, tokens_at
from harness.data.batches import Batches, Tokens, eval_batches
from harness.player.process import INTERRUPTED
from harness.referee.casting import Casting
from harness.referee.checkpoint import Progress, load_checkpoint, resumes_exactly, save_checkpoint
from harness.referee.clock import Clock
from harness.referee.probes import mean_nats
from harness.referee.session import Session
from harness.referee.weights import count_trained, parameters_of, serialize, split

# Largest difference in loss of two players with the same weights, nats: a GPU may sum in another order.
MAX_COPY_SHIFT = 1e-3
# Number of sequences of the last batch on which these losses must agree. State outside the weights changes all losses.
NUM_COPY_SEQUENCES = 2
# Words in the errors of the libraries that connect ranks (processes of one run): gloo's source path, names of torch
# and of NCCL.
LOST_RANK = ("gloo/transport", "DistBackendError", "DistNetworkError", "DistStoreError", "NCCL")

Batch = NDArray[np.int64]


def train(
    casting: Casting, tokens: Mapping[SplitName, Tokens], watch: Callable[[RunEvent], None] = lambda event: None
) -> Training:
    """Train one run, from its checkpoint if it has one, and write its weights to the job's folder.

    Raises RunFailedError if the run fails, InterruptedRunError if it has to stop (its checkpoint is written), and
    LlmbenchError if the run cannot start.
    """
    started = time.perf_counter()
    track, job, budget = casting.track, casting.job, casting.track.budget
    found = load_checkpoint(job)
    if found is not None and not resumes_exactly(casting):
        watch(Lost(reason="a part of its training state cannot be saved in a checkpoint"))
        found = None
    progress, saved = found or (Progress(), None)
    with ExitStack() as stack:
        ranks = start_ranks(casting, stack)
        start, plan = ranks[0].snapshot(), ranks[0].plan
        if tokens_at(plan.shapes, progress.step) != progress.tokens:
            reason = "budget: the batches have other shapes than before the run was interrupted; let batch_shape depend"
            raise RunFailedError("invalid", f"{reason} only on its arguments")
        run = _Run(casting, ranks, Dev(casting, tokens["dev"], stack), progress, watch, started)
        batches = Batches(tokens["train"], budget.seq_len, budget.batch_sequences, job.seed)
        run.preparation = (
            time.perf_counter() - ranks[0].player.started + progress.warmup_s,
            sum(session.player.cpu_s() for session in ranks) + progress.warmup_cpu_s,
        )
        clock = run.clock = Clock([session.player for session in ranks], progress.train_s, progress.cpu_s)
        if saved is not None:
            for session in ranks:
                session.resume(saved)
        while run.step < plan.num_steps:
            if run.step in run.dev_steps and not run.is_scored:
                run.score_dev(batches.rows(*plan.place(run.step - 1)))
            run.save_where_due()
            batch_BT1 = batches.rows(*plan.place(run.step))
            rows = len(batch_BT1) // len(ranks)
            for rank, session in enumerate(ranks):
                session.tell_step(batch_BT1[rank * rows : (rank + 1) * rows], run.step)
            run.read(hear_all(ranks, Session.hear_step), batch_BT1[:, 1:].size)
        weights = [session.snapshot() for session in ranks]
        cpu_s = clock.stop()
        run.score_dev(batches.rows(*plan.place(run.step - 1)), weights[0])
        parameters = {parameters_of(ranks[0].tensors, each) for each in weights}
        if len(parameters) > 1 and track.device == "cpu":  # GPUs may round differently
            reason = "processes: the run's processes have different weights; update parameters only by their gradients"
            raise RunFailedError("invalid", reason)
        return run.finish(start, weights[0], cpu_s)


def start_ranks(casting: Casting, stack: ExitStack) -> list[Session]:
    """The players that train the run together, ready for their first batch and connected to each other."""
    track, size = casting.track, casting.track.num_processes
    assignment = casting.assignment(
        start="drawn",
        trains=True,
        rows=track.budget.batch_sequences // size,
        compiled=str(casting.job.compiled) if track.compile else None,
    )
    done = casting.job.compiled / "done"
    if track.compile and not done.exists():  # a player without batches compiles; the players that train read its files
        casting.start("compile", assignment.model_copy(update={"compiles": True})).player.close()
        write_atomic(done, "")
    ranks = []
    for rank in range(size):
        own = assignment.model_copy(update={"rank": rank})
        ranks.append(stack.enter_context(casting.start(f"train-{rank}" if rank else "train", own)))
    if any(session.built != ranks[0].built for session in ranks):
        raise RunFailedError(
            "invalid", "processes: the run's processes built different models; build the same model in each"
        )
    if size > 1:
        port = ranks[0].open_port()
        for session in ranks:
            session.tell_join(port)
        hear_all(ranks, Session.hear_join)
    return ranks


def hear_all(ranks: Sequence[Session], hear: Callable[[Session], Any]) -> list[Any]:
    """The answers of all ranks, each read by `hear`.

    If a rank fails, the others fail because of it. The error of the rank that failed first is raised.
    """
    answers, failures = [], []
    for session in ranks:
        try:
            answers.append(hear(session))
        except RunFailedError as error:
            failures.append(error)
            if len(ranks) > 1:
                session.player.close()  # so that the other ranks do not wait for it
    if failures:
        raise min(failures, key=_is_consequence)
    return answers


def _is_consequence(error: RunFailedError) -> tuple[bool, bool]:
    """Sort key: errors that begin in a rank come before errors because the connection to another rank was lost."""
    named = error.status == "error" and any(word in str(error) for word in LOST_RANK)
    return named, error.status == "error"


@dataclass
class Dev:
    """Computes the dev loss in a separate player, which is suspended in between and cannot reach other players."""

    casting: Casting
    tokens: Tokens
    stack: ExitStack
    session: Session | None = None
    experts: tuple[ExpertLayer, ...] | None = None
    """The loads of the model's experts with the last evaluated weights, as the player reports them."""

    def score(self, weights: bytes, rows_BT1: Batch) -> tuple[float, float]:
        """Mean nats per token on dev and on `rows_BT1`. Raises RunFailedError if the evaluation changes the weights."""
        budget = self.casting.track.budget
        if self.session is None:
            assignment = self.casting.assignment(start="empty")
            self.session = self.stack.enter_context(self.casting.start("dev", assignment))
        session = self.session
        session.player.thaw()
        session.load(weights)
        loss = mean_nats(session, eval_batches(self.tokens, budget.seq_len, budget.eval_sequences))
        self.experts = session.report().experts
        again = mean_nats(session, [rows_BT1])
        if (after := session.snapshot()) != weights:
            pairs = zip(session.tensors, split(session.tensors, after), split(session.tensors, weights), strict=True)
            moved = next(spec.name for spec, one, other in pairs if one != other)
            reason = f"evaluation_mode: computing the dev loss changed {moved}; change no tensor in evaluation mode"
            raise RunFailedError("invalid", reason)
        session.player.freeze()
        return loss, again


@dataclass
class _Run:
    """What the referee knows about a run during its training."""

    casting: Casting
    ranks: list[Session]
    dev: Dev
    progress: Progress
    watch: Callable[[RunEvent], None]
    started: float
    preparation: tuple[float, float] = (0.0, 0.0)
    """Wall and processor seconds before the first batch."""
    clock: Clock = field(init=False)
    saved: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        progress = self.progress
        self.step, self.tokens, self.curve = progress.step, progress.tokens, list(progress.curve)
        self.loss_sum, self.loss_steps = progress.loss_sum, progress.loss_steps
        self.dev_steps = self.ranks[0].plan.dev_steps(self.casting.track.budget.dev_evaluations)
        self.unread = 0
        """Number of steps whose losses the players have not read yet; several on a GPU."""

    @property
    def is_scored(self) -> bool:
        """Whether the dev loss was computed after the last finished step."""
        return bool(self.curve) and self.curve[-1].step == self.step

    def read(self, losses_R: Sequence[Sequence[float]], num_tokens: int) -> None:
        """Add a finished step: the losses that each rank reports after it, and the number of tokens of its batch."""
        self.step += 1
        self.tokens += num_tokens
        self.unread += 1
        num_told, must = len(losses_R[0]), self.step in self.dev_steps
        if num_told not in ({self.unread} if must else {0, self.unread}) or any(
            len(losses) != num_told or min(losses, default=0.0) < 0 for losses in losses_R
        ):
            raise RunFailedError("error", "the run's process reported too many or too few losses, or a negative loss")
        self.unread -= num_told
        for told in zip(*losses_R, strict=True):
            self.loss_sum += sum(told) / len(told)
            self.loss_steps += 1
        if not math.isfinite(self.loss_sum):
            raise RunFailedError(
                "diverged",
                f"the training loss is NaN or infinite at step {self.step} of {self.ranks[0].plan.num_steps}",
            )
        if losses_R[0]:
            loss_nats = sum(losses[-1] for losses in losses_R) / len(losses_R)
            self.watch(Step(step=self.step, tokens=self.tokens, loss_nats=loss_nats, train_s=self.clock.train_s))

    def score_dev(self, batch_BT1: Batch, weights: bytes | None = None) -> None:
        """Compute the dev loss, and compare the losses of the training and of the evaluating player on a few sequences.

        Raises RunFailedError if the losses differ or are not finite, or if the dev loss is above the run's limit.
        """
        first, limit = self.ranks[0], self.casting.job.give_up
        rows_BT1, train_s = batch_BT1[:NUM_COPY_SEQUENCES], self.clock.train_s
        weights = first.snapshot() if weights is None else weights
        own = mean_nats(first, [rows_BT1])
        with self.clock.paused():
            loss, again = self.dev.score(weights, rows_BT1)
        if not abs(own - again) <= MAX_COPY_SHIFT:
            raise RunFailedError(
                "invalid",
                "weights: the model in training and a copy with its saved weights give different losses; store all "
                "that the model learns in parameters or persistent buffers",
            )
        point = CurvePoint(
            step=self.step, train_s=train_s, train_loss_nats=self.loss_sum / self.loss_steps, dev_loss_nats=loss
        )
        self.curve.append(point)
        self.loss_sum, self.loss_steps = 0.0, 0
        if limit is not None and len(self.curve) == limit.evaluation and loss > limit.dev_loss_nats:
            raise RunFailedError(
                "hopeless",
                f"dev loss {loss:.4f} at step {self.step} is above the run's limit {limit.dev_loss_nats:.4f}",
            )

    def save_where_due(self) -> None:
        """Write a checkpoint if it is time for one. Raises InterruptedRunError if the run has to stop."""
        job, stops = self.casting.job, self.casting.should_stop()
        if not stops and time.perf_counter() - self.saved < job.checkpoint_every_s:
            return
        if self.step > self.progress.step:
            saved = self.ranks[0].save()
            with self.clock.paused():
                save_checkpoint(job, self._progress(), saved)
            self.saved = time.perf_counter()
        if stops:
            raise InterruptedRunError(INTERRUPTED)

    def _progress(self) -> Progress:
        return Progress(
            step=self.step,
            tokens=self.tokens,
            train_s=self.clock.train_s,
            cpu_s=self.clock.cpu_s,
            warmup_s=self.preparation[0],
            warmup_cpu_s=self.preparation[1],
            wall_s=self.wall_s,
            loss_sum=self.loss_sum,
            loss_steps=self.loss_steps,
            curve=tuple(self.curve),
        )

    @property
    def wall_s(self) -> float:
        return self.progress.wall_s + time.perf_counter() - self.started

    def finish(self, start: bytes, weights: bytes, cpu_s: float) -> Training:
        """Write the weights and return the results of training. `start` are the weights before the first batch."""
        first, job = self.ranks[0], self.casting.job
        content = serialize(first.tensors, weights)
        write_atomic(job.weights, content)
        peaks = [session.report().peak_memory_mib for session in self.ranks]  # of a GPU only the player can read it
        if self.casting.track.device == "cpu":
            peaks = [session.player.peak_memory_mib() or peak for session, peak in zip(self.ranks, peaks, strict=True)]
        training = Training(
            steps=self.step,
            tokens=self.tokens,
            num_params=count_trained(first.tensors, start, weights),
            train_s=self.clock.train_s,
            cpu_s=cpu_s,
            warmup_s=self.preparation[0],
            warmup_cpu_s=self.preparation[1],
            wall_s=self.wall_s,
            peak_memory_mib=max((peak for peak in peaks if peak is not None), default=None),
            ended=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            weights_sha256=sha256(content),
            weights_bytes=len(weights),
            confinement=first.player.confinement,
            curve=tuple(self.curve),
            batches=first.built.batches,
            experts=self.dev.experts,
            resumed=True if self.progress.step else None,
        )
        write_atomic(job.trained, training.model_dump_json())
        return training
