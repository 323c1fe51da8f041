"""More compute in evaluation than in training: every block runs three times there, and no clock covers it.

The prediction is causal and the same whenever it is asked for, so no probe objects. `eval_s` shows it, and a
reviewer sees a branch on `self.training` that is no dropout.
"""

from dataclasses import replace

from torch import nn


class Longer(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x_BTD):
        for _ in range(1 if self.training else 3):
            x_BTD = self.inner(x_BTD)
        return x_BTD


def apply(parts):
    return replace(parts, block=lambda final, layer: Longer(parts.block(final, layer)))
