"""Memory between evaluation batches in a buffer that evaluation moves."""

from dataclasses import replace

import torch
from torch import nn


class Cheat(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x_BTD):
        self.mean.lerp_(x_BTD.detach().mean(), 0.1)
        return self.inner(x_BTD - self.mean.clone())


def apply(parts):
    return replace(parts, block=lambda final, layer: Cheat(parts.block(final, layer)))
