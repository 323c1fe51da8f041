"""Residual lambdas: multiply the stream by a learned number before each block, at first 1.1 (modded-nanogpt, 2025).

What an early block adds is multiplied once for each later block, so the number says how far back the prediction looks.
It compounds over the layers, therefore nanochat moves it at a rate of 0.005, half that of thin parameters on `pocket`.

Topic: block
Source: https://github.com/KellerJordan/modded-nanogpt/tree/f411b3d/records/track_1_short/2025-11-18_RefineSkip
    and https://github.com/karpathy/nanochat/blob/92d63d4/dev/LOG.md (2026-01-11)
Claimed: modded-nanogpt: about 0.001 nats for starting at 1.1 instead of 1, at 124M parameters, number of seeds not
    said. nanochat: a small improvement on top of x0 lambdas, no number.
Constants: of the source
"""

from models.seams import Parts, Tensor, Vector, Wrapper, nn, replace


class Scaled(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int) -> None:
        super().__init__(inner, parts, layer)
        self.stream_scale = Vector(1, start=1.1)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.inner(self.stream_scale.weight * x_BTD)


def apply(parts: Parts) -> Parts:
    def lr_scale(name: str, parameter: nn.Parameter) -> float:
        return (0.005 / parts.optim.scalar_lr if ".stream_scale." in name else 1.0) * parts.lr_scale(name, parameter)

    return replace(parts.wrap(block=Scaled), lr_scale=lr_scale)
