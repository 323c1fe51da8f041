"""The training loss, in float32. Shapes: B sequences, T positions, N tokens, V vocabulary."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class RuleBrokenError(Exception):
    """The recipe broke a rule of training; the message starts with the rule's name."""


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
