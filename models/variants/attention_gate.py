"""Attention gate: each head's output is scaled by a sigmoid of the input's first channels (modded-nanogpt, 2025).

A head that finds nothing can answer nothing, instead of attending to a token that carries no meaning. The gate starts
at one, twice the sigmoid of zero, that is at the base model; in the source it starts at a half.

Topic: attention
Source: https://github.com/KellerJordan/modded-nanogpt/tree/master/records/track_1_short/2025-08-23_SparseAttnGate;
    a gate that reads the whole input: arXiv:2505.06708
Claimed: 1,695 instead of 1,750 steps for a record with other changes (124M parameters, 14 runs); nanochat's LOG,
    2026-01-17: no improvement
Constants: of the source
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
