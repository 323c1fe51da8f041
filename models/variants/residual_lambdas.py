"""Residual lambdas: multiply the stream by a learned number before every block (nanochat, 2026-01-11).

Earlier contributions can fade or grow. The numbers start at one and move at a hundredth of the other scalars' rate.

Topic: block
Source: https://github.com/karpathy/nanochat/blob/437943bd90a0e01c46afc445de4022ffeefaae9c/dev/LOG.md (2026-01-11); https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2025-11-18_RefineSkip/README.md
Claimed: nanochat: a small further improvement beside the x0 lambdas, no number. modded-nanogpt (124M): about 0.001 nats
    from starting them at 1.1.
Constants: of the source (start at one, a hundredth of the rate)
"""

from models.seams import Parts, Tensor, Vector, Wrapper, nn, replace


class Scaled(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int) -> None:
        super().__init__(inner, parts, layer)
        self.kept = Vector(1, start=1.0)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.inner(self.kept.weight * x_BTD)


def apply(parts: Parts) -> Parts:
    def lr_scale(name: str, parameter: nn.Parameter) -> float:
        return (0.01 if name.endswith(".kept.weight") else 1.0) * parts.lr_scale(name, parameter)

    return replace(parts.wrap(block=Scaled), lr_scale=lr_scale)
