"""Logits that are NaN in the evaluating process: a comparison with NaN must not pass."""

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
        return logits_BTV if self.trained else logits_BTV * float("nan")


def apply(parts):
    return replace(parts, head=lambda final: Cheat(parts.head(final)))
