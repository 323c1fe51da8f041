"""A causal depthwise convolution before each block (Primer; So et al., 2021, arXiv:2109.08668)."""

from dataclasses import replace

import torch.nn as nn
import torch.nn.functional as F

WIDTH = 4


class ShortConvolution(nn.Module):
    def __init__(self, inner, dim):
        super().__init__()
        self.inner = inner
        self.convolution = nn.Conv1d(dim, dim, WIDTH, groups=dim, bias=False)

    def forward(self, x_BTD):
        padded_BDT = F.pad(x_BTD.mT, (WIDTH - 1, 0))
        return self.inner(x_BTD + self.convolution(padded_BDT).mT)


def apply(parts):
    return replace(parts, block=lambda final, layer: ShortConvolution(parts.block(final, layer), final.model.dim))
