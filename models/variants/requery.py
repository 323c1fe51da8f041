"""Re-draw the first layer's attention and change nothing else (an experiment on the noise)."""

from dataclasses import replace

from torch import Tensor, nn

from models.parts import Parts


class Redrawn(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.redrawn = module

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.redrawn(x_BTD)


def apply(parts: Parts) -> Parts:
    def attention(final: Parts, layer: int) -> nn.Module:
        module = parts.attention(final, layer)
        return Redrawn(module) if layer == 0 else module

    return replace(parts, attention=attention)
