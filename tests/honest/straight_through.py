"""Ternary feed-forward weights with a straight-through gradient (BitNet b1.58; Ma et al., 2024, arXiv:2402.17764)."""

from dataclasses import replace

import torch
from torch import nn

from models.gpt import FeedForward


class Ternary(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight):
        scale = weight.abs().mean().clamp(min=1e-5)
        ctx.scale = scale
        ctx.save_for_backward(weight)
        return (weight / scale).round().clamp(-1, 1) * scale

    @staticmethod
    def backward(ctx, gradient):
        (weight,) = ctx.saved_tensors
        return gradient * (weight.abs() <= 2 * ctx.scale)


class TernaryFeedForward(FeedForward):
    def forward(self, x_BTD):
        hidden = nn.functional.linear(x_BTD, Ternary.apply(self.up.weight)).relu().square()
        return nn.functional.linear(hidden, Ternary.apply(self.down.weight))


def apply(parts):
    return replace(parts, feed_forward=lambda final, layer: TernaryFeedForward(final.model))
