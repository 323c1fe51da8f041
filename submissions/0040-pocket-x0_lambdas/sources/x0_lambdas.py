"""x0 lambdas: before each block, add a learned share of what the embedding put out (modded-nanogpt; nanochat, 2026).

Late blocks see which token they are at without the stream having to carry it. One share a block, which starts at zero.
The shares are moved twenty times as fast as other thin parameters of `pocket`: at nanochat's rate for its smallest
model of eight layers.

Topic: block
Source: https://github.com/karpathy/nanochat/blob/92d63d4/dev/LOG.md (2026-01-11)
Claimed: bits per byte, best of a sweep of the rate, one seed each: -0.0103 at 8 layers, -0.0077 at 12, -0.0057 at 16,
    -0.0039 at 20. modded-nanogpt, with a factor on the stream: -0.0093 nats at 124M parameters, one seed
    (2024-11-06_ShortcutsTweaks, from its logs).
Constants: of the source
"""

from models.seams import Parts, Tensor, Vector, Wrapper, nn, replace


class Shortcut(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int) -> None:
        super().__init__(inner, parts, layer)
        self.x0_share = Vector(1)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x0_BTD = self.context.seen.setdefault("x0_BTD", x_BTD)
        return self.inner(x_BTD + self.x0_share.weight * x0_BTD)


def apply(parts: Parts) -> Parts:
    def lr_scale(name: str, parameter: nn.Parameter) -> float:
        return (0.2 / parts.optim.scalar_lr if ".x0_share." in name else 1.0) * parts.lr_scale(name, parameter)

    return replace(parts.wrap(block=Shortcut), lr_scale=lr_scale)
