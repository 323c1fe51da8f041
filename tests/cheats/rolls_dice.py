"""Random in evaluation: a dropout that never ends, in the hope of a lucky draw."""

from dataclasses import replace

from torch import nn


class Cheat(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x_BTD):
        return self.inner(nn.functional.dropout(x_BTD, 0.1, training=True))


def apply(parts):
    return replace(parts, block=lambda final, layer: Cheat(parts.block(final, layer)))
