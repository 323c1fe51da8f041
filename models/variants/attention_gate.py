"""Attention gate: each head's output is scaled by a sigmoid of the input's first channels (modded-nanogpt, 2025).

A head that finds nothing can answer nothing, instead of attending to a token that carries no meaning. The gate starts
at one, twice the sigmoid of zero, that is at the base model.
"""

from models.seams import Attention, Linear, Parts, Tensor, Wrapper, nn


class Gate(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int, attention: Attention) -> None:
        super().__init__(inner, parts, layer)
        self.gate = Linear(12, parts.model.num_heads, zero=True)

    def forward(self, y_BTHK: Tensor, x_BTD: Tensor) -> Tensor:
        return self.inner(2 * self.gate(x_BTD[..., :12]).sigmoid()[..., None] * y_BTHK, x_BTD)


def apply(parts: Parts) -> Parts:
    return parts.wrap(output=Gate)
