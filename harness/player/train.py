"""The training loop. It gets train and dev tokens and never opens val.

Shapes: B sequences, T positions, V vocabulary; a batch holds T + 1 tokens a sequence.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.core.errors import LlmbenchError
from harness.core.events import Failed, Rehearsed, Step, Stopped, Trained
from harness.core.project import derive_seed, sha256, write_atomic
from harness.core.runs import CurvePoint, Training
from harness.core.track import Budget, Track
from harness.data.batches import Batches, eval_batches
from harness.data.cache import open_split
from harness.player.checkpoint import Checkpoint, DivergedError
from harness.player.compiler import compile_forward, forbid_compiling
from harness.player.device import Device, open_device, set_up_torch
from harness.player.job import Job
from harness.player.loss import RuleBrokenError, cross_entropy, dev_loss, expert_layers
from harness.player.process import Emit
from harness.player.ranks import ALONE, Ranks, RunEndedError, open_ranks
from harness.variants.recipe import Recipe, draw_parameters


class HopelessError(RunEndedError):
    """At its milestone the run is too far behind the record's for its contest to go on."""

    status = "hopeless"


class StopRequestedError(RunEndedError):
    """SIGINT or SIGTERM; the checkpoint is written."""


def train(
    track: Track,
    recipe: Recipe,
    tokens: dict[str, Any],
    job: Job,
    emit: Emit,
    should_stop: Callable[[], bool] = lambda: False,
    confinement: tuple[str, ...] = (),
    device: Device | None = None,
    ranks: Ranks = ALONE,
) -> Training:
    """Train one recipe with one seed, from its checkpoint where there is one.

    The clock covers training steps only, gathering their batches included. Dev evaluations, checkpoints and the
    warm-up on dummy data are outside it; `wall_s` covers everything. On a GPU the loop synchronises, and reads clock
    and loss, at some steps only. Every rank of a run calls this; the first one scores on dev, sends events and writes.

    Raises DivergedError, HopelessError, RuleBrokenError, StopRequestedError.
    """
    started = time.perf_counter()
    budget, num_steps = track.budget, track.budget.num_steps
    device = device or open_device(track)
    model = recipe.build()
    draw_parameters(model, job.seed)
    model.to(device.name)
    if track.compile:
        compile_forward(model, job.compiled)
    optimizers = build_optimizers(recipe, model)
    batches = Batches(tokens["train"], budget.seq_len, budget.batch_sequences, job.seed)
    # A GPU and a compiler warm up for the shape of a batch; elsewhere one sequence shows that the model works.
    for_shape = track.compile or track.device != "cpu"
    like_BT1 = ranks.share(batches.batch(0))[: None if for_shape else 1]
    warmup_s = warm_up(model, device, like_BT1, track.model.vocab_size)
    if track.compile:
        forbid_compiling(confinement)
    state = Checkpoint(Path(job.folder) / "checkpoint.pt", model, optimizers, started)
    state.load()
    model.register_forward_pre_hook(state.count_tokens)
    together = ranks.spread(model)
    dev_batches = eval_batches(tokens["dev"], budget.seq_len, budget.eval_sequences)
    dev = [device.tensor(batch.astype("int64")) for batch in dev_batches]
    first = _FirstRank(budget, state, recipe.renew().build().to(device.name), dev, job, emit, should_stop)
    unread: list[Tensor] = []

    state.start_clock()
    for step in range(state.step, num_steps):
        torch.manual_seed(derive_seed("dropout", job.seed, step, *ranks.key))
        lr_scale = recipe.parts.schedule(step, num_steps, recipe.parts.optim)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["initial_lr"] * lr_scale
        tokens_BT1 = device.tensor(ranks.share(batches.batch(step)))
        with device.autocast():
            logits_BTV, aux_loss = together(tokens_BT1[:, :-1])
            loss = cross_entropy(logits_BTV, tokens_BT1[:, 1:])
        (loss if aux_loss is None else loss + aux_loss).backward()
        if ranks.size > 1:  # an optimizer that draws at random draws the same on each rank
            torch.manual_seed(derive_seed("optimizer", job.seed, step))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        unread.append(loss.detach())
        state.step = step + 1
        if state.step % device.steps_between_waits and state.step not in budget.dev_steps:
            continue

        device.wait()
        state.stop_clock()
        loss_nats = state.read(unread, ranks)
        if not math.isfinite(state.loss_sum):
            raise DivergedError(f"the training loss is not finite at step {state.step} of {num_steps}")
        asked_to_stop = ranks.of_first(first.look, loss_nats, tokens_BT1)
        if asked_to_stop and state.step < num_steps:
            raise StopRequestedError
        state.start_clock()

    check_rules(track, state, ranks)
    peaks_mib = [peak for peak in ranks.gather(device.peak_memory_mib()) if peak is not None]
    return ranks.of_first(first.finish, warmup_s, max(peaks_mib, default=None), confinement)


@dataclass
class _FirstRank:
    """What the first rank does beside training: scores on dev, sends events, saves, writes the result."""

    budget: Budget
    state: Checkpoint
    judged: nn.Module
    """A second model, which shares no object with the one that trains."""
    dev: list[Tensor]
    job: Job
    emit: Emit
    should_stop: Callable[[], bool]

    def look(self, loss_nats: float, tokens_BT1: Tensor) -> bool:
        """Dev, event and checkpoint after a step, where they are due; whether the run is asked to stop.

        Raises DivergedError, HopelessError, RuleBrokenError.
        """
        state, job, limit = self.state, self.job, self.job.give_up
        is_last = state.step == self.budget.num_steps
        if state.step in self.budget.dev_steps:
            loss = dev_loss(state.model, self.judged, self.dev, tokens_BT1)
            state.end_interval(loss)
            if limit is not None and state.step == limit.step and loss > limit.dev_loss_nats:
                raise HopelessError(
                    f"dev loss {loss:.4f} at step {limit.step}, where {limit.dev_loss_nats:.4f} was the limit"
                )
        self.emit(Step(step=state.step, loss_nats=loss_nats, train_s=state.train_s))
        stop = self.should_stop()
        if is_last:
            state.ended = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if stop or is_last or time.perf_counter() - state.saved > job.checkpoint_every_s:
            state.save()
        return stop

    def finish(self, warmup_s: float, peak_memory_mib: int | None, confinement: tuple[str, ...]) -> Training:
        """Write the weights; the run's record of training."""
        state, model = self.state, self.state.model
        weights = save({name: tensor.cpu().clone() for name, tensor in model.state_dict().items()})  # tied ones twice
        write_atomic(self.job.weights, weights)
        return Training(
            steps=state.step,
            tokens=state.tokens,
            num_params=sum(parameter.numel() for parameter in model.parameters()),
            train_s=state.train_s,
            cpu_s=state.cpu_s,
            warmup_s=warmup_s,
            wall_s=state.wall_s,
            peak_memory_mib=peak_memory_mib,
            ended=state.ended,
            weights_sha256=sha256(weights),
            confinement=confinement,
            curve=tuple(CurvePoint.model_validate(point) for point in state.curve),
            experts=expert_layers(model, self.judged, self.dev),
        )


def check_rules(track: Track, state: Checkpoint, ranks: Ranks) -> None:
    """Raises RuleBrokenError where a finished run broke its budget, coverage, or the equality of its ranks."""
    if state.tokens != track.budget.tokens:
        raise RuleBrokenError(f"budget: {state.tokens} tokens passed the model in training, not {track.budget.tokens}")
    if not cover_everything(state.optimizers, state.model):
        raise RuleBrokenError("coverage: by the end of training the optimizers do not cover every parameter once")
    if ranks.size > 1 and track.device == "cpu":  # GPUs may round differently
        weights = save({name: parameter.detach().clone() for name, parameter in state.model.named_parameters()})
        if len(set(ranks.gather(sha256(weights)))) > 1:
            raise RuleBrokenError("processes: their weights have parted; move parameters by their gradients alone")


def build_optimizers(recipe: Recipe, model: nn.Module) -> list[Optimizer]:
    """The recipe's optimizers, proved to cover every parameter exactly once."""
    optimizers = recipe.parts.optimizer(model, recipe.parts.optim)
    if not cover_everything(optimizers, model):
        raise LlmbenchError("the optimizers do not cover every parameter exactly once; fix `optimizer` in the variant")
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["initial_lr"] = group["lr"]
    return optimizers


def cover_everything(optimizers: list[Optimizer], model: nn.Module) -> bool:
    """Whether the optimizers cover every parameter of the model exactly once."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    covered = [parameter for group in groups for parameter in group["params"]]
    return len(covered) == len(set(covered)) and set(covered) == set(model.parameters())


def warm_up(model: nn.Module, device: Device, like_BT1: Any, vocab_size: int) -> float:
    """One forward and backward pass on dummy tokens; returns its seconds and leaves no trace.

    Raises LlmbenchError where the model returns something other than logits for every position.
    """
    tick = time.perf_counter()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}  # a buffer may have moved
    tokens_BT = torch.zeros(like_BT1.shape, dtype=torch.int64, device=device.name)[:, :-1]  # in memory as a batch is
    with device.autocast():
        output = model(tokens_BT)
    is_pair = isinstance(output, tuple) and len(output) == 2 and isinstance(output[0], Tensor)
    if not is_pair or output[0].shape != (*tokens_BT.shape, vocab_size):
        raise LlmbenchError(
            f"the model must return Output(logits_BTV, aux_loss) with logits of shape {(*tokens_BT.shape, vocab_size)}"
        )
    logits_BTV, aux_loss = output
    (logits_BTV.sum() if aux_loss is None else logits_BTV.sum() + aux_loss).backward()
    model.zero_grad(set_to_none=True)
    model.load_state_dict(before)
    device.wait()
    return time.perf_counter() - tick


def rehearse(job: Job, emit: Emit) -> None:
    """Build one job's model and pass a batch through it; answer with `Rehearsed`, or fail as training would.

    Asked before a contest trains its record for minutes, only to learn that the candidate cannot start.
    """
    track = job.load_track()
    job.confine(track, ("train",), writes=True)
    recipe = job.load_recipe(track)
    set_up_torch(track)
    device, budget = open_device(track), track.budget
    model = recipe.build()
    draw_parameters(model, job.seed)
    model.to(device.name)
    build_optimizers(recipe, model)
    batch_BT1 = Batches(open_split(track, "train"), budget.seq_len, budget.batch_sequences, job.seed).batch(0)
    warm_up(model, device, Ranks(size=track.num_processes).share(batch_BT1), track.model.vocab_size)
    emit(Rehearsed())


def work(job: Job, emit: Emit) -> None:
    """Train one job; answer with `Trained`, `Failed` or `Stopped`."""
    stop = threading.Event()  # the loop asks for it between two steps
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    track = job.load_track()
    with open_ranks(track) as ranks:
        confinement = job.confine(track, ("train", "dev"), writes=True)
        recipe = job.load_recipe(track)
        set_up_torch(track)
        tokens = {"train": open_split(track, "train"), "dev": open_split(track, "dev")}
        try:
            training = train(track, recipe, tokens, job, emit, stop.is_set, confinement, ranks=ranks)
        except StopRequestedError:
            emit(Stopped())
        except RunEndedError as error:
            emit(Failed(status=error.status, reason=str(error)))
        else:
            emit(Trained(training=training))
