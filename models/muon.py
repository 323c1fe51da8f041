"""The optimizer Muon, for the matrices inside the blocks: momentum with orthogonalised updates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models.parts import Context

# A matrix with m rows and at least LONG x m columns is orthogonalised through its Gram matrix (m x m). With n columns
# this takes 2 n/m + 17 products of m x m matrices. Without the Gram matrix it would take 10 n/m + 5.
LONG = 2


# Coefficients (a, b, c) of the polynomial x -> a x + b x**3 + c x**5, for each of five iterations. They are Keller
# Jordan's, who chose them for a steep slope at zero.
QUINTICS = ((3.4445, -4.7750, 2.0315),) * 5


class Muon(Optimizer):
    """Nesterov momentum whose updates are orthogonalised by a Newton-Schulz iteration.

    Source: Keller Jordan, 2024, kellerjordan.github.io/posts/muon. Parameters of the same shape are stacked and
    orthogonalised together. A parameter with more than two dimensions is itself a stack of matrices. A variant can
    override `quintics` and the methods below `step`.

    Shapes: S parameters of one shape, m rows, n columns.
    """

    quintics: tuple[tuple[float, float, float], ...] = QUINTICS
    """Coefficients (a, b, c) of each Newton-Schulz iteration."""

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
        """Has `progress`, the fraction of the training steps already done."""

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
        """The momentum in this step, for the matrices of a parameter group."""
        return float(group["momentum"])

    def orthogonalize(self, updates_Smn: Tensor, state: dict[str, Any]) -> Tensor:
        """updates_Smn -> orthogonalised updates_Smn.

        `state` is one dictionary for all S parameters. What a variant stores in it is saved in checkpoints.
        """
        return orthogonalize(updates_Smn, self.quintics)

    def scale(self, shape: torch.Size) -> float:
        """The factor by which the orthogonalised update of a matrix is multiplied, besides the learning rate.

        With this factor, the updates of matrices with more rows than columns have the same root mean square as the
        updates of square matrices.
        """
        return max(1.0, shape[-2] / shape[-1]) ** 0.5

    def decay(self, parameter: Tensor, update: Tensor, rate: float) -> None:
        """Apply weight decay to a matrix, before the update is subtracted. `rate`: learning rate times weight decay."""
        parameter.mul_(1 - rate)


def orthogonalize(matrices: Tensor, quintics: Sequence[tuple[float, float, float]] = QUINTICS) -> Tensor:
    """Matrices of the same shape (..., m, n), with all singular values moved to roughly [0.7, 1.2].

    The computation is in bfloat16 on a GPU that supports it, else in float32, because bfloat16 is slower on a CPU
    (`python benchmarks/speed.py` measures it).
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
    """b G + c G G for G = x x^T, the Gram matrix (m, m).

    One step of Muon computes a x + (b G + c G G) x. A table of a, b and c is in QUINTICS.
    """
    return torch.baddbmm(gram, gram, gram, beta=b, alpha=c)


def _gram_polynomial(gram: Tensor, quintics: Sequence[tuple[float, float, float]]) -> Tensor:
    """gram (m, m) -> the (m, m) matrix by which all iterations together multiply a matrix with this Gram matrix.

    Not for bfloat16: the Gram matrix has the squares of the singular values, for which bfloat16 has too few digits.
    """
    product = factor = _factor(gram, quintics[0])
    for quintic in quintics[1:]:
        gram = torch.bmm(torch.bmm(factor, gram), factor)
        factor = _factor(gram, quintic)
        product = torch.bmm(factor, product)
    return product


def _factor(gram: Tensor, quintic: tuple[float, float, float]) -> Tensor:
    """The (m, m) matrix by which one iteration multiplies a matrix: a I + b gram + c gram ** 2."""
    a, b, c = quintic
    factor = _quadratic(gram, b, c)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    return factor
