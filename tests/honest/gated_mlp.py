"""SwiGLU: a gated feed-forward at equal width (Shazeer, 2020, arXiv:2002.05202)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from models.gpt import Linear

if TYPE_CHECKING:
    from models.parts import ModelConfig, Parts


@dataclass(frozen=True)
class Widths:
    dim: int
    hidden: int

    @classmethod
    def of(cls, config: ModelConfig) -> Widths:
        return cls(config.dim, 2 * config.ffn_dim // 3)


class SwiGLU(nn.Module):
    def __init__(self, widths: Widths, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.gate, self.up = (Linear(widths.dim, widths.hidden) for _ in range(2))
        self.down = Linear(widths.hidden, widths.dim, zero=True)

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BTD: Tensor = self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))
        return F.dropout(y_BTD, self.dropout, self.training)


def apply(parts: Parts) -> Parts:
    def feed_forward(final: Parts, layer: int) -> nn.Module:
        return SwiGLU(Widths.of(final.model), final.model.dropout)

    return replace(parts, feed_forward=feed_forward)
