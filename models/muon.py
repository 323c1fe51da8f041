"""Muon: momentum with orthogonalised updates, for the matrices inside the blocks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models.parts import Context

# From this ratio of sides n/m on, iterating on the Gram matrix alone is cheaper: 2 n/m + 17 products of m x m,
# against 10 n/m + 5 for iterating on the matrix.
LONG = 2


# (a, b, c) of the quintic x -> a x + b x**3 + c x**5 in each of five iterations: Keller Jordan's, chosen for a steep
# slope at zero.
QUINTICS = ((3.4445, -4.7750, 2.0315),) * 5


class Muon(Optimizer):
    """Momentum, orthogonalised by a Newton-Schulz iteration (Keller Jordan, 2024, kellerjordan.github.io/posts/muon).

    Matrices of one shape are stacked and iterated together. A parameter with more than two dimensions
    is a stack of matrices already. A variant overrides one of the methods below `step`, or `quintics`.

    Shapes: S matrices of one shape, m rows, n columns.
    """

    quintics: tuple[tuple[float, float, float], ...] = QUINTICS
    """Coefficients of each iteration."""

    def __init__(
        self,
        params: Any,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        context: Context | None = None,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.context = context or Context()
        """`context.progress` is the share of the steps that are done."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            momentum = self.momentum(group)
            stacks: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - momentum)
                nesterov = parameter.grad.lerp(state["momentum"], momentum)
                stacks[parameter.shape].append((parameter, nesterov))
            for shape, members in stacks.items():
                state = self.state[members[0][0]]
                updates_Smn = self.orthogonalize(torch.stack([update for _, update in members]), state)
                scale = group["lr"] * self.scale(shape)
                for (parameter, _), update in zip(members, updates_Smn, strict=True):
                    self.decay(parameter, update, group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-scale)

    def momentum(self, group: dict[str, Any]) -> float:
        """The momentum of this step, for the matrices of a group."""
        return float(group["momentum"])

    def orthogonalize(self, updates_Smn: Tensor, state: dict[str, Any]) -> Tensor:
        """updates_Smn -> orthogonalised updates_Smn. The S matrices share `state`, which is kept in checkpoints."""
        return orthogonalize(updates_Smn, self.quintics)

    def scale(self, shape: torch.Size) -> float:
        """Factor on an orthogonalised update, besides the learning rate.

        It keeps the update's root mean square the same for tall matrices (out x in) as for square ones.
        """
        return max(1.0, shape[-2] / shape[-1]) ** 0.5

    def decay(self, parameter: Tensor, update: Tensor, rate: float) -> None:
        """Shrink a matrix before its update is subtracted; `rate` is learning rate times weight decay."""
        parameter.mul_(1 - rate)


def orthogonalize(matrices: Tensor, quintics: Sequence[tuple[float, float, float]] = QUINTICS) -> Tensor:
    """Move the singular values of each matrix to roughly [0.7, 1.2]; keeps the shape (..., m, n).

    Computes in bfloat16 on a GPU that has it, else in float32: bfloat16 is slower on a CPU
    (`python benchmarks/speed.py`).
    """
    has_bf16 = matrices.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    x = (matrices.bfloat16() if has_bf16 else matrices.float()).flatten(0, -3)
    wide = x.size(-2) <= x.size(-1)
    x = x if wide else x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if not has_bf16 and x.size(-1) >= LONG * x.size(-2):
        x = torch.bmm(_gram_polynomial(torch.bmm(x, x.mT), quintics), x)
    else:
        for a, b, c in quintics:
            gram = torch.bmm(x, x.mT)
            x = torch.baddbmm(x, _quadratic(gram, b, c), x, beta=a)
    return (x if wide else x.mT).reshape(matrices.shape).type_as(matrices)


def _quadratic(gram: Tensor, b: float, c: float) -> Tensor:
    """The quintic's second and third term: b gram + c gram ** 2."""
    return torch.baddbmm(gram, gram, gram, beta=b, alpha=c)


def _gram_polynomial(gram: Tensor, quintics: Sequence[tuple[float, float, float]]) -> Tensor:
    """The (m, m) product of all iterations' factors for a long matrix, computed from its Gram matrix alone.

    The Gram matrix holds squared singular values, for which bfloat16 has too few digits.
    """
    product = factor = _factor(gram, quintics[0])
    for quintic in quintics[1:]:
        gram = torch.bmm(torch.bmm(factor, gram), factor)
        factor = _factor(gram, quintic)
        product = torch.bmm(factor, product)
    return product


def _factor(gram: Tensor, quintic: tuple[float, float, float]) -> Tensor:
    """The (m, m) factor of one iteration: a I + b gram + c gram ** 2."""
    a, b, c = quintic
    factor = _quadratic(gram, b, c)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    return factor
