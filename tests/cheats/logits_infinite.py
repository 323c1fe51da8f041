"""Logits with infinities in the evaluating process: a certain guess, infinitely wrong elsewhere."""

from dataclasses import replace

from torch import nn


class Cheat(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.trained = False

    def forward(self, x_BTD):
        self.trained = self.trained or self.training
        logits_BTV = self.inner(x_BTD)
        return logits_BTV if self.trained else logits_BTV.masked_fill(logits_BTV < 0, float("-inf"))


def apply(parts):
    return replace(parts, head=lambda final: Cheat(parts.head(final)))
