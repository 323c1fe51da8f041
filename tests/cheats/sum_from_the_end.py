"""Later tokens through a cumulative sum that runs from the end of the sequence."""

from dataclasses import replace

from torch import nn


class Cheat(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x_BTD):
        return self.inner(x_BTD + 0.1 * x_BTD.flip(1).cumsum(1).flip(1))


def apply(parts):
    return replace(parts, block=lambda final, layer: Cheat(parts.block(final, layer)))
