"""Merged projection: query, key and value come from one matrix (the original project, 5-dollar-llm).

One product instead of three; Muon then makes the whole matrix orthogonal at once. It is for the lane `speed`.

Topic: attention
Source: https://github.com/Open-Superintelligence-Lab/5-dollar-llm
Claimed: faster; no number that a log backs
Constants: none
"""

from models.seams import Attention, Linear, Parts, Tensor, replace


class Merged(Attention):
    def __init__(self, parts: Parts, layer: int) -> None:
        super().__init__(parts, layer)
        self.widths = [matrix.out_features for matrix in (self.query, self.key, self.value)]
        self.merged = Linear(parts.model.dim, sum(self.widths))
        del self.query, self.key, self.value

    def project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_BTHK, k_BTGK, v_BTGK = (
            part.unflatten(-1, (-1, self.head_dim)) for part in self.merged(x_BTD).split(self.widths, dim=-1)
        )
        return q_BTHK, k_BTGK, v_BTGK


def apply(parts: Parts) -> Parts:
    return replace(parts, attention=Merged)
