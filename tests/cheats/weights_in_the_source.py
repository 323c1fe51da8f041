"""Weights that were trained elsewhere, as constants in the code; the test puts one more here than is allowed."""

from dataclasses import replace

import torch

from models.gpt import FeedForward

WEIGHTS = [0.37]


class Pretrained(FeedForward):
    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("known", torch.tensor(WEIGHTS))

    def forward(self, x_BTD):
        return super().forward(x_BTD) + self.known.mean()


def apply(parts):
    return replace(parts, feed_forward=lambda final, layer: Pretrained(final.model))
