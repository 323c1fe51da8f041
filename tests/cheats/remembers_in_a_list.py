"""Memory between evaluation batches in a Python list: what came often so far gets a higher logit."""

from dataclasses import replace

import torch
from torch import nn


class Cheat(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.seen = []

    def forward(self, x_BTD):
        logits_BTV = self.inner(x_BTD)
        if self.training:
            return logits_BTV
        self.seen.append(logits_BTV.softmax(-1).mean((0, 1)))
        return logits_BTV + torch.stack(self.seen).mean(0).log()


def apply(parts):
    return replace(parts, head=lambda final: Cheat(parts.head(final)))
