"""A short causal convolution before each block (Canon layers; Allen-Zhu, 2025, arXiv:2512.17351).

Each channel sees its last four values. It starts at zero, that is at the base model.

Topic: block
Source: arXiv:2512.17351; arXiv:2109.08668
Claimed: deeper reasoning on synthetic tasks, help in real pretraining at academic scale (Allen-Zhu, 2025)
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
    return parts.wrap(block=ShortConvolution)
