"""The linear layer, RMS norm, squared ReLU and causal attention.

The backward passes of RMS norm, squared ReLU and attention are written by hand for CPUs, where they are faster than the
backward passes of autograd (`python benchmarks/speed.py pocket` measures by how much). On a GPU PyTorch's own kernels
are used.

Shapes: B batch, T position, H query heads, G key heads, K head width, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Attention is computed for this many queries at a time. With few queries, few scores are masked, and they fit into the
# cache.
QUERY_BLOCK = 64
# Up to this many positions the attention weights are kept for the backward pass. With more, they take too much memory.
MAX_KEPT_POSITIONS = 512


class Linear(nn.Linear):
    """A linear layer without bias. Its weights start at zero if `zero`, else with PyTorch's variance, 1/(3 fan-in).

    If the last matrix of a residual block is zero, the block is the identity at first (arXiv:1901.09321).
    """

    def __init__(self, in_features: int, out_features: int, *, zero: bool = False) -> None:
        self.zero = zero
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        if self.zero:
            nn.init.zeros_(self.weight)
        else:
            nn.init.normal_(self.weight, std=(3 * self.in_features) ** -0.5)


class RMSNorm(nn.RMSNorm):
    """x_BTD divided by the root mean square of its D channels, times a learned gain (arXiv:1910.07467)."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            return super().forward(x)
        return _RMSNorm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain_D: Tensor, eps: float) -> Tensor:
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.size(-1)).add_(eps).rsqrt_()
        normed = x * inverse
        ctx.save_for_backward(normed, inverse, gain_D)
        return normed * gain_D

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, inverse, gain_D = ctx.saved_tensors
        product = grad * normed
        gain_grad_D = product.flatten(0, -2).sum(0)
        grad = grad * gain_D
        along = torch.mul(grad, normed, out=product).sum(-1, keepdim=True).div_(-normed.size(-1))
        return grad.addcmul_(normed, along).mul_(inverse), gain_grad_D, None


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0) ** 2 (arXiv:2109.08668)."""
    if x.is_cuda:
        positive = F.relu(x)
        return positive * positive  # .square() would run in float32 under autocast
    return _SquaredReLU.apply(x)  # type: ignore[no-untyped-call]


class _SquaredReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = x.relu()
        ctx.save_for_backward(positive)
        return positive.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return (grad * positive).mul_(2)


def causal_attention(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
    """(q_BTHK, k_BTGK, v_BTGK) -> y_BTHK: causal softmax attention, scores scaled by K ** -0.5 (arXiv:1706.03762)."""
    q_BHTK, k_BGTK, v_BGTK = (x.transpose(1, 2) for x in (q_BTHK, k_BTGK, v_BTGK))
    groups = q_BHTK.size(1) // k_BGTK.size(1)
    if q_BHTK.is_cuda or q_BHTK.size(2) > MAX_KEPT_POSITIONS:
        y_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BGTK, v_BGTK, is_causal=True, enable_gqa=groups > 1)
    else:
        if groups > 1:  # arXiv:2305.13245
            k_BGTK, v_BGTK = (x.repeat_interleave(groups, dim=1) for x in (k_BGTK, v_BGTK))
        flat = _CausalAttention.apply(*(x.flatten(0, 1) for x in (q_BHTK, k_BGTK, v_BGTK)))  # type: ignore[no-untyped-call]
        y_BHTK = flat.unflatten(0, q_BHTK.shape[:2])
    return y_BHTK.transpose(1, 2)


class _CausalAttention(torch.autograd.Function):
    """Causal attention, computed for blocks of QUERY_BLOCK queries, one block after the other.

    Shapes: N = batch size times heads, Q queries of a block, S positions to which the block attends.
    """

    @staticmethod
    def forward(ctx: Any, q_NTK: Tensor, k_NTK: Tensor, v_NTK: Tensor) -> Tensor:
        blocks, weights = [], []
        for start, end in _blocks(q_NTK.size(1)):
            mask_QS = q_NTK.new_full((end - start, end), -torch.inf).triu(start + 1)
            scores_NQS = torch.baddbmm(mask_QS, q_NTK[:, start:end], k_NTK[:, :end].mT, alpha=q_NTK.size(-1) ** -0.5)
            weights.append(torch.softmax(scores_NQS, -1, out=scores_NQS))
            blocks.append(torch.bmm(weights[-1], v_NTK[:, :end]))
        y_NTK = torch.cat(blocks, 1)
        ctx.save_for_backward(q_NTK, k_NTK, v_NTK, y_NTK, *weights)
        return y_NTK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NTK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_NTK, k_NTK, v_NTK, y_NTK, *weights = ctx.saved_tensors
        scale = q_NTK.size(-1) ** -0.5
        q_grads, k_grad, v_grad = [], torch.zeros_like(k_NTK), torch.zeros_like(v_NTK)
        along_NT1 = (grad_NTK * y_NTK).sum(-1, keepdim=True)
        for (start, end), weights_NQS in zip(_blocks(q_NTK.size(1)), weights, strict=True):
            grad_NQK = grad_NTK[:, start:end]
            v_grad[:, :end].baddbmm_(weights_NQS.mT, grad_NQK)
            scores_grad_NQS = torch.bmm(grad_NQK, v_NTK[:, :end].mT).sub_(along_NT1[:, start:end]).mul_(weights_NQS)
            q_grads.append(torch.bmm(scores_grad_NQS, k_NTK[:, :end]))
            k_grad[:, :end].baddbmm_(scores_grad_NQS.mT, q_NTK[:, start:end], alpha=scale)
        return torch.cat(q_grads, 1).mul_(scale), k_grad, v_grad


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + QUERY_BLOCK, length)) for start in range(0, length, QUERY_BLOCK)]
