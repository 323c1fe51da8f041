"""Other rows through a roll across the batch: the next window of the text is often the row below."""

from dataclasses import replace

from torch import nn


class Cheat(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x_BTD):
        return self.inner(x_BTD + 0.1 * x_BTD.roll(-1, dims=0))


def apply(parts):
    return replace(parts, block=lambda final, layer: Cheat(parts.block(final, layer)))
