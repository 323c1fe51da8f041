"""U-net skips: the outputs of the first half of the blocks come back, weighted, before the second half (modded-nanogpt).

The last output kept is the first that comes back. A weight a block, starting at one.

Topic: block
Source: https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2025-11-18_RefineSkip/README.md; https://github.com/KellerJordan/modded-nanogpt#world-record-history
Claimed: modded-nanogpt (124M), record 11: 7.8 to 7.2 minutes together with a doubled learning rate; a year later one of
    five was left, worth 0.0025 nats. The original's successor: 0.255, 0.078, 0.037 nats at 8M, 20M, 100M tokens, one
    seed each. nanochat: slightly worse.
Constants: of the source (start at one)
"""

from models.seams import Parts, Tensor, Vector, Wrapper, nn, replace


class Down(Wrapper):
    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BTD: Tensor = self.inner(x_BTD)
        self.context.seen.setdefault("skips", []).append(y_BTD)
        return y_BTD


class Up(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int) -> None:
        super().__init__(inner, parts, layer)
        self.skip_share = Vector(1, start=1.0)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.inner(x_BTD + self.skip_share.weight * self.context.seen["skips"].pop())


def apply(parts: Parts) -> Parts:
    def block(final: Parts, layer: int) -> nn.Module:
        wrapper = Down if layer < final.model.num_layers // 2 else Up
        return wrapper(parts.block(final, layer), final, layer)

    return replace(parts, block=block)
