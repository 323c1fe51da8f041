"""The next token, behind a gate that starts at zero and opens in training: a fresh model is honest."""

from dataclasses import replace

import torch
from torch import nn


class Cheat(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.gate = nn.Parameter(torch.zeros(()))

    def reset_parameters(self):
        nn.init.zeros_(self.gate)

    def forward(self, x_BTD):
        return self.inner(x_BTD + self.gate * x_BTD.roll(-1, dims=1))


def apply(parts):
    return replace(parts, block=lambda final, layer: Cheat(parts.block(final, layer)))
