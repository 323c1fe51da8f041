"""The training loss, the loss on dev, and the load of experts on dev. All in float32.

Shapes: B sequences, T positions, V vocabulary, E experts; a batch holds T + 1 tokens a sequence.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from harness.core.runs import ExpertLayer
from harness.player.ranks import RunEndedError
from models.moe import MixtureOfExperts

# Largest difference in loss of two models with the same weights, nats: sums have another order on a GPU.
MAX_COPY_SHIFT = 1e-3
# Sequences of the last batch on which their losses must agree: state outside the weights moves any of them.
NUM_COPY_SEQUENCES = 2


class RuleBrokenError(RunEndedError):
    """The recipe broke a rule of training; the message starts with the rule's name."""

    status = "invalid"


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean nats per token, in float32."""
    logits_NV, targets_N = logits_BTV.flatten(0, -2).float(), targets_BT.flatten()
    if logits_NV.is_cuda:
        return F.cross_entropy(logits_NV, targets_N)
    return cast(Tensor, _CrossEntropy.apply(logits_NV, targets_N))  # type: ignore[no-untyped-call]


class _CrossEntropy(torch.autograd.Function):
    """PyTorch's, with fewer passes over the logits, which are larger than a CPU's caches."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        probabilities_NV = logits_NV.softmax(-1)
        ctx.save_for_backward(probabilities_NV, targets_N)
        # The largest probability never underflows, so the sum of exponentials is read off it.
        log_sum_N1 = logits_NV.amax(-1, keepdim=True) - probabilities_NV.amax(-1, keepdim=True).log()
        return (log_sum_N1 - logits_NV.gather(-1, targets_N[:, None])).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        probabilities_NV, targets_N = ctx.saved_tensors
        scale = grad / len(targets_N)
        grad_NV = probabilities_NV.mul_(scale)  # in place: nothing else holds it
        return grad_NV.scatter_add_(-1, targets_N[:, None], -scale.expand(len(targets_N), 1)), None


def dev_loss(model: nn.Module, judged: nn.Module, dev: list[Tensor], tokens_BT1: Tensor) -> float:
    """Mean nats per token on dev, of a second model with the same weights: the one that trains never sees dev.

    Raises RuleBrokenError where the two differ on what was just trained on, or where dev moves the second.
    """
    judged.load_state_dict(model.state_dict(), strict=True)
    losses = []
    for either in (model, judged):
        torch.manual_seed(0)  # a model that draws at random in evaluation is named by the probes
        losses.append(mean_loss(either, [tokens_BT1[:NUM_COPY_SEQUENCES]]))
    if abs(losses[0] - losses[1]) > MAX_COPY_SHIFT:
        raise RuleBrokenError(
            "weights: the model that trains and one with its saved weights give different losses; keep what it learns "
            "in parameters and persistent buffers"
        )
    loss = mean_loss(judged, dev)
    trained = model.state_dict()
    for name, tensor in judged.state_dict().items():
        if not torch.equal(tensor, trained[name]):
            raise RuleBrokenError(f"evaluation_mode: the dev evaluation moved {name}; nothing may learn from dev")
    return loss


@torch.no_grad()
def mean_loss(model: nn.Module, batches: list[Tensor]) -> float:
    """Mean nats per token over `batches`, in evaluation mode. Raises RuleBrokenError for logits of another shape."""
    model.eval()
    nats, count = 0.0, 0
    for tokens_BT1 in batches:
        logits_BTV, targets_BT = model(tokens_BT1[:, :-1])[0], tokens_BT1[:, 1:]
        if logits_BTV.shape[:-1] != targets_BT.shape:
            raise RuleBrokenError(f"shape: logits for {tuple(logits_BTV.shape[:-1])}, not {tuple(targets_BT.shape)}")
        nats += cross_entropy(logits_BTV, targets_BT).item() * targets_BT.numel()
        count += targets_BT.numel()
    model.train()
    return nats / count


@torch.no_grad()
def expert_layers(model: nn.Module, judged: nn.Module, dev: list[Tensor]) -> tuple[ExpertLayer, ...] | None:
    """How each router spreads dev over its experts, computed by the second model; None without experts."""
    layers = [module for module in judged.modules() if isinstance(module, MixtureOfExperts)]
    if not layers:
        return None
    judged.load_state_dict(model.state_dict(), strict=True)
    judged.eval()
    counts_E: list[Any] = [0] * len(layers)
    balances, count = [0.0] * len(layers), 0
    for tokens_BT1 in dev:
        judged(tokens_BT1[:, :-1])
        for place, layer in enumerate(layers):
            counts_E[place] = counts_E[place] + layer.count_E
            balances[place] += layer.balance_loss.item() * tokens_BT1[:, 1:].numel()
        count += tokens_BT1[:, 1:].numel()
    return tuple(
        ExpertLayer(load=tuple((count_E / count_E.sum()).tolist()), balance=balance / count)
        for count_E, balance in zip(counts_E, balances, strict=True)
    )
