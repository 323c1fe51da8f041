"""Later tokens through the mean over the whole sequence, as instance normalisation takes it."""

from dataclasses import replace

from torch import nn


class Cheat(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x_BTD):
        return self.inner(x_BTD - x_BTD.mean(1, keepdim=True))


def apply(parts):
    return replace(parts, block=lambda final, layer: Cheat(parts.block(final, layer)))
