"""Works outside the clock: weights are improved during the dev evaluation, which no clock covers."""

from dataclasses import replace

from torch import nn


class Cheat(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x_BTD):
        if not self.training:
            for parameter in self.inner.parameters():
                parameter.mul_(0.999)
        return self.inner(x_BTD)


def apply(parts):
    return replace(parts, block=lambda final, layer: Cheat(parts.block(final, layer)))
