"""Backout: subtract a learned share of the stream as it was two thirds up, before the head (modded-nanogpt, 2025-10-04).

What the early layers need as context need not stay in what predicts the next token. The share starts at one half.

Topic: model
Source: https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2025-10-04_Backout/README.md; https://github.com/karpathy/nanochat/blob/437943bd90a0e01c46afc445de4022ffeefaae9c/dev/LOG.md (2026-01-16)
Claimed: modded-nanogpt (124M): 146.9 to 140.7 seconds, with tuning and 90 steps fewer, 5 runs; alone nothing measured.
    nanochat: no improvement.
Constants: of the source (start at one half; after two thirds of the blocks)
"""

from models.seams import Parts, Tensor, Vector, Wrapper, nn


class Kept(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int) -> None:
        super().__init__(inner, parts, layer)
        self.is_kept = layer == 2 * parts.model.num_layers // 3

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BTD: Tensor = self.inner(x_BTD)
        if self.is_kept:
            self.context.seen["backout"] = y_BTD
        return y_BTD


class Backout(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts) -> None:
        super().__init__(inner, parts)
        self.share = Vector(1, start=0.5)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.inner(x_BTD - self.share.weight * self.context.seen["backout"])


def apply(parts: Parts) -> Parts:
    return parts.wrap(block=Kept, head=Backout)
