"""The training loop. It is given train and dev tokens and never opens val.

Shapes: B sequences, T positions, V vocabulary; a batch holds T + 1 tokens a sequence.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.catalog import Recipe
from harness.confine import forbid_programs
from harness.data import Batches, derive_seed, eval_batches, open_split
from harness.device import Device, open_device
from harness.devset import RuleBrokenError, cross_entropy, dev_loss, expert_layers
from harness.errors import LlmbenchError
from harness.job import Emit, GiveUp, Job, draw_parameters, set_up_torch
from harness.project import make_folder, read_bytes, sha256, write_atomic
from harness.results import CurvePoint, Training
from harness.track import Track

DIGEST_BYTES = 32  # of SHA-256


class DivergedError(Exception):
    """The loss is no longer a finite number."""


class HopelessError(Exception):
    """The run is so far behind at its milestone that its contest ends here."""


class StopRequestedError(Exception):
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
) -> Training:
    """Train one recipe with one seed, from its checkpoint where there is one.

    The clock covers training steps only, the gathering of their batch included. Dev evaluations,
    checkpoints and a warm-up on dummy data are outside it; `wall_s` covers everything. A GPU works on while the loop
    prepares the next steps: it is waited for, and its loss looked at, at some steps only.

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
    judged = recipe.renew().build().to(device.name)
    dev = [
        device.tensor(batch.astype("int64"))
        for batch in eval_batches(tokens["dev"], budget.seq_len, budget.eval_sequences)
    ]
    dev_steps = {round(num_steps * (i + 1) / budget.dev_evaluations) for i in range(budget.dev_evaluations)}
    warmup_s = warm_up(model, device, batches.batch(0), track.model.vocab_size)
    if track.compile:
        forbid_compiling(confinement)
    state = _Checkpoint(Path(job.folder) / "checkpoint.pt", model, optimizers)
    state.load()
    model.register_forward_pre_hook(state.count_tokens)
    unread: list[Tensor] = []
    saved = tick = time.perf_counter()
    cpu_tick = time.process_time()

    for step in range(state.step, num_steps):
        torch.manual_seed(derive_seed("dropout", job.seed, step))
        lr_scale = recipe.parts.schedule(step, num_steps, recipe.parts.optim)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["initial_lr"] * lr_scale
        tokens_BT1 = device.tensor(batches.batch(step))
        with device.autocast():
            logits_BTV, aux_loss = model(tokens_BT1[:, :-1])
            loss = cross_entropy(logits_BTV, tokens_BT1[:, 1:])
        (loss if aux_loss is None else loss + aux_loss).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        unread.append(loss.detach())
        state.step = step + 1
        if state.step % device.steps_between_waits and state.step not in dev_steps:
            continue

        device.wait()
        state.train_s += time.perf_counter() - tick
        state.cpu_s += time.process_time() - cpu_tick
        for loss in unread:
            state.loss_sum += loss.item()
        state.loss_steps += len(unread)
        unread.clear()
        if not math.isfinite(state.loss_sum):
            raise DivergedError(f"the training loss is not finite at step {state.step} of {num_steps}")
        if state.step in dev_steps:
            paid = state.tokens
            loss_on_dev = dev_loss(model, judged, dev, tokens_BT1)
            state.tokens = paid  # the harness's own comparison of the two models is on the house
            state.end_interval(loss_on_dev)
            if job.give_up is not None and state.step == job.give_up.step:
                check_milestone(state.curve[-1]["dev_loss_nats"], job.give_up)
        emit({"event": "step", "step": state.step, "loss": loss.item(), "train_s": state.train_s})
        stop = should_stop()
        if state.step == num_steps:
            state.ended = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if stop or time.perf_counter() - saved > job.checkpoint_every_s or state.step == num_steps:
            state.save(wall_s=time.perf_counter() - started)
            saved = time.perf_counter()
        if stop and state.step < num_steps:
            raise StopRequestedError
        tick, cpu_tick = time.perf_counter(), time.process_time()

    if state.tokens != budget.tokens:
        raise RuleBrokenError(f"budget: {state.tokens} tokens passed the model in training, not {budget.tokens}")
    if not cover_everything(optimizers, model):
        raise RuleBrokenError(
            "coverage: parameters and what the optimizers cover have parted in the course of training"
        )
    weights = save({name: tensor.cpu().clone() for name, tensor in model.state_dict().items()})  # tied ones twice
    write_atomic(job.weights, weights)
    return Training(
        steps=state.step,
        tokens=state.tokens,
        num_params=sum(parameter.numel() for parameter in model.parameters()),
        train_s=state.train_s,
        cpu_s=state.cpu_s,
        warmup_s=warmup_s,
        wall_s=state.earlier_wall_s + time.perf_counter() - started,
        peak_memory_mib=device.peak_memory_mib(),
        ended=state.ended,
        weights_sha256=sha256(weights),
        confinement=confinement,
        curve=tuple(CurvePoint.model_validate(point) for point in state.curve),
        experts=expert_layers(model, judged, dev),
    )


def check_milestone(dev_loss_nats: float, give_up: GiveUp) -> None:
    """Raises HopelessError where the dev loss exceeds the limit."""
    if dev_loss_nats > give_up.dev_loss_nats:
        raise HopelessError(
            f"dev loss {dev_loss_nats:.4f} at step {give_up.step}, where {give_up.dev_loss_nats:.4f} was the limit"
        )


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


def compile_forward(model: nn.Module, folder: Path) -> None:
    """Have training compile the model's forward and backward pass; what evaluates it stays eager.

    What the compiler makes is kept in `folder`, so that another seed takes seconds where the first took a minute.
    """
    make_folder(folder)
    tempfile.tempdir = str(folder)
    os.environ["TMPDIR"] = os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # more would be processes that stay
    import torch._dynamo  # a second: only where it is asked for

    eager = model.forward
    compiled = torch.compile(eager, dynamic=False)

    def forward(tokens_BT: Tensor) -> Any:
        if not model.training:
            return eager(tokens_BT)
        try:
            return compiled(tokens_BT)
        except torch._dynamo.exc.TorchDynamoException as error:
            why = " ".join(str(error).split())[:300]
            raise RuleBrokenError(
                f"compile: the model does not compile once and for all; keep what changes from step to step in "
                f"tensors, and Python out of their values ({why})"
            ) from error

    model.forward = forward


def forbid_compiling(confinement: tuple[str, ...]) -> None:
    """From here on what was compiled is used: a model that would be compiled again breaks the rule `compile`."""
    torch._dynamo.config.error_on_recompile = True
    if "seccomp" in confinement:
        forbid_programs()


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


class _Checkpoint:
    """Everything that changes during a run, so that a resumed run equals an uninterrupted one.

    Random streams are keyed by step, so no generator's state is among it.
    """

    def __init__(self, path: Path, model: nn.Module, optimizers: list[Optimizer]) -> None:
        self.path, self.model, self.optimizers = path, model, optimizers
        self.step, self.tokens, self.train_s, self.cpu_s, self.earlier_wall_s = 0, 0, 0.0, 0.0, 0.0
        self.loss_sum, self.loss_steps = 0.0, 0
        self.curve: list[dict[str, Any]] = []
        self.ended = ""

    def count_tokens(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """A hook before every forward pass, in whatever mode: what the model sees is what its budget pays for."""
        self.tokens += inputs[0].numel()

    def end_interval(self, dev_loss: float) -> None:
        """Add a point to the curve; the next training mean starts here."""
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

    def save(self, wall_s: float) -> None:
        buffer = io.BytesIO()
        progress = {
            "step": self.step,
            "tokens": self.tokens,
            "train_s": self.train_s,
            "cpu_s": self.cpu_s,
            "earlier_wall_s": self.earlier_wall_s + wall_s,
            "loss_sum": self.loss_sum,
            "loss_steps": self.loss_steps,
            "curve": self.curve,
            "ended": self.ended,
        }
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        torch.save({"progress": progress, "model": self.model.state_dict(), "optimizers": optimizers}, buffer)
        payload = buffer.getvalue()
        write_atomic(self.path, bytes.fromhex(sha256(payload)) + payload)

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


def work(job: Job, emit: Emit) -> None:
    """Train one job and answer with `trained`, `diverged` or `stopped`."""
    stop = threading.Event()  # SIGINT and SIGTERM become a question that the loop asks between two steps
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    track = job.load_track()
    confinement = job.confine(track, ("train", "dev"), writes=True)
    recipe = job.load_recipe(track)
    set_up_torch(track)
    tokens = {"train": open_split(track, "train"), "dev": open_split(track, "dev")}
    try:
        training = train(track, recipe, tokens, job, emit, stop.is_set, confinement)
    except DivergedError as error:
        emit({"event": "diverged", "reason": str(error)})
    except HopelessError as error:
        emit({"event": "hopeless", "reason": str(error)})
    except RuleBrokenError as error:
        emit({"event": "invalid", "reason": str(error)})
    except StopRequestedError:
        emit({"event": "stopped"})
    else:
        emit({"event": "trained", "training": training.model_dump_json()})
