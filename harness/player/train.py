"""The training step in the player. It gets one batch at a time, no clock, and neither the dev nor the val text.

Shapes: B sequences, T positions, N tokens, V vocabulary; a batch has T + 1 tokens of each sequence.
"""

from __future__ import annotations

import io
import pickle
import struct
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim import Optimizer

from harness.core.errors import LlmbenchError
from harness.core.project import derive_seed
from harness.core.runs import BatchShape
from harness.core.track import Track
from harness.data.plan import make_plan, plan_of
from harness.player.device import Device
from harness.player.protocol import Assignment, RuleBrokenError
from harness.player.ranks import Ranks
from harness.variants.conflicts import check_rates, check_used
from harness.variants.recipe import Recipe


class Training:
    """The training of one model: everything that changes from step to step, such as the optimizers' states."""

    def __init__(self, assignment: Assignment, recipe: Recipe, model: nn.Module, device: Device, ranks: Ranks) -> None:
        self.assignment, self.recipe, self.model, self.device, self.ranks = assignment, recipe, model, device, ranks
        self.optimizers = build_optimizers(recipe, model)
        self.batches = batches_of(recipe, assignment.track)
        plan = plan_of(assignment.track, self.batches)
        self.num_steps = assignment.num_steps or plan.num_steps
        steps = assignment.read_steps
        self.read_steps = plan.dev_steps(assignment.track.budget.dev_evaluations) if steps is None else {*steps}
        self.together = model
        """The model, or a wrapper of it with which a backward pass gives every rank the mean gradient."""
        self.unread: list[Tensor] = []
        self.passed = 0
        model.register_forward_pre_hook(self._count)

    def _count(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.passed += inputs[0].numel()

    def step(self, tokens_BT1: Tensor, step: int) -> bytes:
        """Train on one batch. Returns the losses that were read from the device since the previous call, as float64.

        Raises RuleBrokenError if the model processed more or fewer tokens than the batch has, or if the optimizers do
        not update every parameter exactly once.
        """
        assignment, ranks = self.assignment, self.ranks
        torch.manual_seed(derive_seed("dropout", assignment.seed, step, *ranks.key))
        parts = self.recipe.parts
        parts.context.step, parts.context.num_steps = step, self.num_steps
        lr_scale = parts.schedule(step, self.num_steps, parts.optim)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = group["initial_lr"] * lr_scale
        self.passed = 0
        with self.device.autocast():
            logits_BTV, aux_loss = self.together(tokens_BT1[:, :-1])
            loss = cross_entropy(logits_BTV, tokens_BT1[:, 1:])
        (loss if aux_loss is None else loss + aux_loss).backward()
        if ranks.size > 1:  # an optimizer that draws at random draws the same on each rank
            torch.manual_seed(derive_seed("optimizer", assignment.seed, step))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        parts.context.step = self.num_steps  # an evaluation has progress 1
        if self.passed != (handed := tokens_BT1[:, :-1].numel()):
            raise RuleBrokenError(
                f"budget: in a step the model processed {self.passed} tokens, but the batch has {handed}; use each "
                f"token exactly once"
            )
        if not cover_everything(self.optimizers, self.model):
            raise RuleBrokenError(
                "coverage: after a step the optimizers do not update every parameter exactly once; correct "
                "`optimizer` in the variant"
            )
        self.unread.append(loss.detach())
        done = step + 1
        if done % self.device.steps_between_waits and done not in self.read_steps:
            return b""
        self.device.wait()
        losses = [loss.item() for loss in self.unread]
        self.unread.clear()
        return struct.pack(f"<{len(losses)}d", *losses)

    def save(self) -> bytes:
        """The training state: weights and optimizers.

        Each step seeds the random generators again, so these are not saved.
        """
        buffer = io.BytesIO()
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        torch.save({"model": self.model.state_dict(), "optimizers": optimizers}, buffer)
        return buffer.getvalue()

    def resume(self, saved: bytes) -> None:
        """Load the training state that `save` returned. Raises LlmbenchError if it does not fit the model."""
        try:
            content = torch.load(io.BytesIO(saved), weights_only=True)
            self.model.load_state_dict(content["model"])
            for optimizer, state in zip(self.optimizers, content["optimizers"], strict=True):
                optimizer.load_state_dict(state)
        except (RuntimeError, ValueError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise LlmbenchError(
                f"the checkpoint does not fit the model: {error}; build the same model each time, or delete the run's "
                f"folder"
            ) from error


def batches_of(recipe: Recipe, track: Track) -> tuple[BatchShape, ...] | None:
    """The shapes of the recipe's batches; None if they are those of the track."""
    shapes = make_plan(track, recipe.parts.batch_shape)
    check_used(recipe.traces, "batch_shape", "call `parts.batch_shape`")
    if shapes is not None and track.compile:
        raise LlmbenchError(
            "batch_shape: a track with compile = true needs batches of one shape; use `--set compile=false`"
        )
    return shapes


def build_optimizers(recipe: Recipe, model: nn.Module) -> list[Optimizer]:
    """The recipe's optimizers. Raises LlmbenchError unless they update every parameter exactly once."""
    optimizers = recipe.parts.optimizer(model, recipe.parts.optim)
    if not cover_everything(optimizers, model):
        raise LlmbenchError(
            "the optimizers do not update every parameter exactly once; correct `optimizer` in the variant"
        )
    check_rates(recipe.traces, recipe.parts.muon, optimizers)
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["initial_lr"] = group["lr"]
    return optimizers


def cover_everything(optimizers: list[Optimizer], model: nn.Module) -> bool:
    """Whether every parameter of the model is in exactly one parameter group of the optimizers."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    covered = [parameter for group in groups for parameter in group["params"]]
    return len(covered) == len(set(covered)) and set(covered) == set(model.parameters())


def warm_up(model: nn.Module, device: Device, shape_BT1: tuple[int, int], vocab_size: int) -> None:
    """One forward and backward pass on dummy tokens; weights and buffers are restored.

    Raises LlmbenchError if the model does not return logits for every position.
    """
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}  # a buffer may change
    tokens_BT = torch.zeros(shape_BT1, dtype=torch.int64, device=device.name)[:, :-1]  # with the strides of a batch
    with device.autocast():
        output: Any = model(tokens_BT)
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


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross-entropy in nats per token, computed in float32."""
    logits_NV, targets_N = logits_BTV.flatten(0, -2).float(), targets_BT.flatten()
    if logits_NV.is_cuda:
        return F.cross_entropy(logits_NV, targets_N)
    return cast(Tensor, _CrossEntropy.apply(logits_NV, targets_N))  # type: ignore[no-untyped-call]


class _CrossEntropy(torch.autograd.Function):
    """PyTorch's cross-entropy with fewer passes over the logits, which are larger than a CPU's caches."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        probabilities_NV = logits_NV.softmax(-1)
        ctx.save_for_backward(probabilities_NV, targets_N)
        # log-sum-exp from the largest probability, which never underflows.
        log_sum_N1 = logits_NV.amax(-1, keepdim=True) - probabilities_NV.amax(-1, keepdim=True).log()
        return (log_sum_N1 - logits_NV.gather(-1, targets_N[:, None])).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        probabilities_NV, targets_N = ctx.saved_tensors
        scale = grad / len(targets_N)
        grad_NV = probabilities_NV.mul_(scale)  # in place: nothing else uses it
        return grad_NV.scatter_add_(-1, targets_N[:, None], -scale.expand(len(targets_N), 1)), None
