"""Lion for every parameter, in stacked operations, with cosine decay (Chen et al., 2023, arXiv:2302.06675)."""

import math
from dataclasses import replace

import torch
from torch.optim import Optimizer


class Lion(Optimizer):
    def __init__(self, params, lr, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in parameters]
            for p in parameters:
                self.state[p].setdefault("momentum", torch.zeros_like(p))
            momenta = [self.state[p]["momentum"] for p in parameters]
            beta1, beta2 = group["betas"]
            updates = torch._foreach_lerp(momenta, gradients, 1 - beta1)
            torch._foreach_sign_(updates)
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, updates, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - beta2)


def cosine(step, num_steps, config):
    return 0.5 * (1 + math.cos(math.pi * step / num_steps))


def apply(parts):
    def optimizer(model, config):
        thin = [p for p in model.parameters() if p.ndim < 2]
        thick = [p for p in model.parameters() if p.ndim >= 2]
        groups = [{"params": thick, "weight_decay": 0.1}, {"params": thin}]
        return [Lion(groups, lr=config.scalar_lr / 10)]

    return replace(parts, optimizer=optimizer, schedule=cosine)
