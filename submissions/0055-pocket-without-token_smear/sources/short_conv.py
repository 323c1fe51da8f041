"""A short causal convolution before attention and feed-forward (Canon layers; Allen-Zhu, 2025, arXiv:2512.17351).

Each channel of the normalised input is added to a mix of its last four values: positions A and C of the source, without
bias or activation, as it recommends. The stream itself is left alone. It starts at zero, that is at the base model.

Topic: block
Source: arXiv:2512.17351; https://github.com/facebookresearch/PhysicsLM4;
    https://github.com/vukrosic/universe-lm/blob/88a78f1/archive/internal/autoresearch/closed.md
Claimed: deeper reasoning on synthetic tasks, help in real pretraining at academic scale (Allen-Zhu, 2025), no single
    number. universe-lm (1M parameters, one seed each): -0.05 nats before attention alone, null by its own rule as two
    controls differed by 0.07; +0.012 on a stack with distance biases.
Constants: of the source (four tokens)
"""

from models.seams import F, Parts, Tensor, Vector, Wrapper, nn


class ShortConvolution(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int) -> None:
        super().__init__(inner, parts, layer)
        self.kernel = Vector(parts.model.dim, 1, 4)

    def forward(self, x_BTD: Tensor) -> Tensor:
        mixed_BDT = F.conv1d(F.pad(x_BTD.mT, (3, 0)), self.kernel.weight, groups=x_BTD.size(-1))
        return self.inner(x_BTD + mixed_BDT.mT)


def apply(parts: Parts) -> Parts:
    return parts.wrap(attention=ShortConvolution, feed_forward=ShortConvolution)
