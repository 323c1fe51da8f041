"""Placebo: re-draw the token embedding's start and change nothing else (source: this project's rule).

What separates this arm from the record is luck alone, so it measures a track's noise and how often
the rule accepts nothing. A wrapped module normally sits under the name `inner`, which the random
streams leave out; under any other name its parameters get another stream.
"""

from dataclasses import replace

from torch import Tensor, nn

from models.parts import Parts


class Redrawn(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.redrawn = module

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.redrawn(tokens_BT)


def apply(parts: Parts) -> Parts:
    return replace(parts, embedding=lambda final: Redrawn(parts.embedding(final)))
