"""Drop whole blocks while training, deeper ones more often (Huang et al., 2016, arXiv:1603.09382)."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from models.parts import Parts


class StochasticDepth(nn.Module):
    """Scaled by the probability of staying, as dropout is."""

    def __init__(self, inner: nn.Module, drop: float) -> None:
        super().__init__()
        self.inner, self.drop = inner, drop

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BTD = self.inner(x_BTD)
        if not self.training:
            return y_BTD
        kept_B11 = (torch.rand(x_BTD.size(0), 1, 1, device=x_BTD.device) >= self.drop).type_as(x_BTD)
        return x_BTD + (y_BTD - x_BTD) * kept_B11 / (1 - self.drop)

    def extra_repr(self) -> str:
        return f"drop={self.drop:.2f}"


def apply(parts: Parts) -> Parts:
    def block(final: Parts, layer: int) -> nn.Module:
        return StochasticDepth(parts.block(final, layer), 0.2 * (layer + 1) / final.model.num_layers)

    return replace(parts, block=block)
