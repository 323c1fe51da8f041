"""Acts differently where it never trained: in the evaluating process it sees the next token."""

from dataclasses import replace

from torch import nn


class Cheat(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.trained = False

    def forward(self, x_BTD):
        self.trained = self.trained or self.training
        return self.inner(x_BTD if self.trained else x_BTD + x_BTD.roll(-1, dims=1))


def apply(parts):
    return replace(parts, block=lambda final, layer: Cheat(parts.block(final, layer)))
