"""Orthogonal starts, scaled by depth, and a softcap on the logits (Saxe et al., 2013, arXiv:1312.6120; Gemma 2)."""

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from models.gpt import FeedForward, Head
from models.parts import ModelConfig


class OrthogonalLinear(nn.Linear):
    def __init__(self, inputs: int, outputs: int, gain: float) -> None:
        self.gain = gain
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        nn.init.orthogonal_(self.weight, gain=self.gain)


class OrthogonalFeedForward(FeedForward):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        make = partial(OrthogonalLinear, gain=config.num_layers**-0.5)
        self.up, self.down = make(config.dim, config.ffn_dim), make(config.ffn_dim, config.dim)


class SoftcapHead(Head):
    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return 15 * torch.tanh(super().forward(x_BTD) / 15)


def apply(parts):
    return replace(
        parts,
        feed_forward=lambda final, layer: OrthogonalFeedForward(final.model),
        head=lambda final: SoftcapHead(final.model),
    )
