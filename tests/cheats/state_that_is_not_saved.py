"""State that training has and evaluation does not get: a running mean in a buffer that is not saved."""

from dataclasses import replace

import torch
from torch import nn


class Cheat(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def forward(self, x_BTD):
        if self.training:
            self.scale.mul_(1.05)
        return self.inner(x_BTD) * self.scale.clone()


def apply(parts):
    return replace(parts, head=lambda final: Cheat(parts.head(final)))
