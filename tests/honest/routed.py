"""Two expert feed-forwards behind a sigmoid gate with a balance loss, written without the base's router.

Source: Liu et al., 2024, arXiv:2412.19437 (DeepSeek-V3), much reduced. Training moves the running load, a buffer.
"""

from dataclasses import replace

import torch
from torch import Tensor

from models.moe import MixtureOfExperts
from models.parts import ModelConfig, Parts


class BiasedExperts(MixtureOfExperts):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(replace(config, num_experts=4, top_k=2))
        self.register_buffer("load_E", torch.full((4,), 0.25))

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BTD = super().forward(x_BTD)
        if self.training:
            with torch.no_grad():
                share_E = self.router(x_BTD).softmax(-1).flatten(0, -2).mean(0)
                self.load_E.lerp_(share_E, 0.1)
        self.aux_loss = self.aux_loss + 0.001 * (self.load_E - 0.25).square().sum()
        return y_BTD


def apply(parts: Parts) -> Parts:
    match parts.model.num_experts:
        case 0:
            return replace(parts, feed_forward=lambda final, layer: BiasedExperts(final.model))
        case count if count > 0:
            raise ValueError(f"the track has {count} experts already")
    return parts
