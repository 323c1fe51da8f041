"""Backout: before the head, subtract a learned share of the stream as it was at two thirds of the depth (snimu, 2025).

What early blocks add serves the later ones as context and need not be part of the prediction. The share starts at one
half. The source keeps the stream after block 8 of 0 to 11; the same share of the depth is block 2 of 0 to 3 here.

Topic: model
Source: https://github.com/KellerJordan/modded-nanogpt/tree/f411b3d/records/track_1_short/2025-10-04_Backout
Claimed: record 40, with tuning and other changes: 146.9 to 140.7 s to 3.28 nats at 124M parameters, 5 runs; nothing
    measured alone. nanochat: no improvement (log of 2026-01-16), yet in its code since, with another layer and share.
Constants: of the source
"""

from models.seams import Parts, Tensor, Vector, Wrapper, nn


class Keep(Wrapper):
    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.context.seen.setdefault(f"after_block_{self.layer}", self.inner(x_BTD))


class Backout(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts) -> None:
        super().__init__(inner, parts)
        self.kept = f"after_block_{2 * parts.model.num_layers // 3}"
        self.backout_share = Vector(1, start=0.5)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.inner(x_BTD - self.backout_share.weight * self.context.seen[self.kept])


def apply(parts: Parts) -> Parts:
    return parts.wrap(block=Keep, head=Backout)
