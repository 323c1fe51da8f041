"""The last target of a row is the first token of the row below: used at the last position only."""

from dataclasses import replace

from torch import nn


class Cheat(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x_BTD):
        below_BD = nn.functional.pad(x_BTD[1:, 0], (0, 0, 0, 1))
        last_BTD = nn.functional.pad(below_BD[:, None], (0, 0, x_BTD.size(1) - 1, 0))
        return self.inner(x_BTD + last_BTD)


def apply(parts):
    return replace(parts, block=lambda final, layer: Cheat(parts.block(final, layer)))
