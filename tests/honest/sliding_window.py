"""Attention over a window, each layer from a learned mixture with what came before, recomputed in the backward pass.

Windows: Beltagy et al., 2020, arXiv:2004.05150. Recomputing: Chen et al., 2016, arXiv:1604.06174.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.gpt import Attention
from models.parts import Parts


class WindowAttention(Attention):
    def __init__(self, parts: Parts, layer: int) -> None:
        super().__init__(parts, layer)
        self.window = 8 * (layer + 1)
        self.mix_D = nn.Parameter(torch.empty(parts.model.dim))

    def reset_parameters(self) -> None:
        torch.nn.init.constant_(self.mix_D, 0.1)

    def forward(self, x_BTD: Tensor) -> Tensor:
        mean_BTD = x_BTD.cumsum(1) / torch.arange(1, x_BTD.size(1) + 1, device=x_BTD.device)[:, None]
        return checkpoint(self._attend, torch.lerp(x_BTD, mean_BTD, self.mix_D), use_reentrant=False)

    def _attend(self, x_BTD: Tensor) -> Tensor:
        q, k, v = (m(x_BTD).unflatten(-1, (-1, self.head_dim)) for m in (self.query, self.key, self.value))
        q, k = self.query_key(q, k)
        k, v = (t.repeat_interleave(q.size(2) // k.size(2), dim=2) for t in (k, v))
        distance_TT = torch.arange(x_BTD.size(1))[:, None] - torch.arange(x_BTD.size(1))
        allowed_TT = (distance_TT >= 0) & (distance_TT < self.window)
        y = nn.functional.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), attn_mask=allowed_TT)
        return self.out(y.transpose(1, 2).flatten(-2))


def apply(parts: Parts) -> Parts:
    return replace(parts, attention=WindowAttention)
