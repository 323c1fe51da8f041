"""Muon for the matrices inside the blocks, AdamW for the rest, and the learning-rate schedule."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from models.parts import OptimConfig

# A matrix with a side below this has too few directions for orthogonalising to mean much (assumption):
# gates and routers go to AdamW, as in modded-nanogpt.
MIN_MUON_SIDE = 16
# From this ratio of sides n/m on, it is cheaper to iterate on the Gram matrix alone: 2 n/m + 17 products of m x m,
# where iterating on the matrix takes 10 n/m + 5.
LONG = 2


class Muon(Optimizer):
    """Momentum, orthogonalised by a Newton-Schulz iteration (Keller Jordan, 2024, kellerjordan.github.io/posts/muon).

    Matrices of one shape are stacked and iterated together. A parameter with more than two dimensions
    is a stack of matrices already.
    """

    def __init__(self, params: list[nn.Parameter], *, lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            stacks: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                nesterov = parameter.grad.lerp(state["momentum"], group["momentum"])
                stacks[parameter.shape].append((parameter, nesterov))
            for shape, members in stacks.items():
                updates = orthogonalize(torch.stack([update for _, update in members]))
                # Keeps the update's root mean square the same for tall matrices (out x in) as for square ones.
                scale = group["lr"] * max(1.0, shape[-2] / shape[-1]) ** 0.5
                for (parameter, _), update in zip(members, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-scale)


def orthogonalize(matrices: Tensor, num_iterations: int = 5) -> Tensor:
    """Each matrix of a stack, with its singular values moved to roughly [0.7, 1.2]; keeps (..., m, n).

    The quintic's coefficients are Jordan's, chosen for slope at zero. bfloat16 on a GPU that has it; float32 on a
    CPU, where bfloat16 is slower (`python benchmarks/speed.py`).
    """
    has_bf16 = matrices.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    x = (matrices.bfloat16() if has_bf16 else matrices.float()).flatten(0, -3)
    wide = x.size(-2) <= x.size(-1)
    x = x if wide else x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if not has_bf16 and x.size(-1) >= LONG * x.size(-2):
        x = torch.bmm(_gram_polynomial(torch.bmm(x, x.mT), num_iterations), x)
    else:
        for _ in range(num_iterations):
            gram = torch.bmm(x, x.mT)
            x = torch.baddbmm(x, _quadratic(gram), x, beta=3.4445)
    return (x if wide else x.mT).reshape(matrices.shape).type_as(matrices)


def _quadratic(gram: Tensor) -> Tensor:
    """Its second and third term: -4.7750 gram + 2.0315 gram ** 2."""
    return torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)


def _gram_polynomial(gram: Tensor, num_iterations: int) -> Tensor:
    """The matrix by which all iterations together multiply a long matrix, from its small Gram matrix alone.

    The Gram matrix holds squared singular values, for which bfloat16 has too few digits.
    """
    product = factor = _factor(gram)
    for _ in range(num_iterations - 1):
        gram = torch.bmm(torch.bmm(factor, gram), factor)
        factor = _factor(gram)
        product = torch.bmm(factor, product)
    return product


def _factor(gram: Tensor) -> Tensor:
    """What one iteration multiplies a matrix by."""
    factor = _quadratic(gram)
    factor.diagonal(dim1=-2, dim2=-1).add_(3.4445)
    return factor


def muon_and_adamw(model: nn.Module, config: OptimConfig) -> list[Optimizer]:
    """Parameter groups by place: matrices in the blocks, the embedding, the head, and all that is thin."""
    groups: dict[str, list[nn.Parameter]] = {"blocks": [], "embedding": [], "head": [], "scalar": []}
    for name, parameter in model.named_parameters():
        thin = parameter.ndim < 2 or min(parameter.shape[-2:]) < MIN_MUON_SIDE
        place = "scalar" if thin else name.partition(".")[0]
        groups[place if place in groups else "blocks"].append(parameter)
    adamw = AdamW(
        [
            {"params": groups["embedding"], "lr": config.embed_lr, "weight_decay": config.weight_decay},
            {"params": groups["head"], "lr": config.head_lr, "weight_decay": config.weight_decay},
            {"params": groups["scalar"], "lr": config.scalar_lr, "weight_decay": 0.0},
        ],
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        fused=True,
    )
    decay = config.weight_decay if config.muon_weight_decay is None else config.muon_weight_decay
    return [Muon(groups["blocks"], lr=config.muon_lr, momentum=config.muon_momentum, weight_decay=decay), adamw]


def linear_schedule(step: int, num_steps: int, config: OptimConfig) -> float:
    """Linear warm-up, constant, linear warm-down. `step` counts from 0; no step has rate zero.

    >>> [round(linear_schedule(s, 4, OptimConfig(muon_lr=1, embed_lr=1, head_lr=1, scalar_lr=1,
    ...     warmup_fraction=0.5, warmdown_fraction=0.5)), 2) for s in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    warmup = config.warmup_fraction * num_steps
    warmdown = config.warmdown_fraction * num_steps
    rise = (step + 1) / warmup if step + 1 < warmup else 1.0
    fall = (num_steps - step) / warmdown if num_steps - step < warmdown else 1.0
    return min(rise, fall)
