"""One logit more than the vocabulary has tokens."""

from dataclasses import replace

from torch import nn


class Cheat(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x_BTD):
        return nn.functional.pad(self.inner(x_BTD), (0, 1))


def apply(parts):
    return replace(parts, head=lambda final: Cheat(parts.head(final)))
