"""Attention gate: each head's output is scaled by a sigmoid of the input's first channels (modded-nanogpt, 2025-08-23).

A head that finds nothing can answer nothing, instead of attending to a token that carries no meaning. The gate starts
at one half.

Topic: attention
Source: https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2025-08-23_SparseAttnGate/README.md; arXiv:2505.06708
Claimed: modded-nanogpt (124M): an estimated 50 of 1,750 steps, with other changes, 14 runs. Qiu et al.: consistent over
    30 forms at 1.7B and 15B (experts) parameters. nanochat: no improvement.
Constants: of the source (12 channels, start at one half)
"""

from models.seams import Attention, Linear, Parts, Tensor, Wrapper, nn


class Gate(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int, attention: Attention) -> None:
        super().__init__(inner, parts, layer)
        self.gate = Linear(12, parts.model.num_heads, zero=True)

    def forward(self, y_BTHK: Tensor, x_BTD: Tensor) -> Tensor:
        return self.inner(self.gate(x_BTD[..., :12]).sigmoid()[..., None] * y_BTHK, x_BTD)


def apply(parts: Parts) -> Parts:
    return parts.wrap(output=Gate)
