"""Short convolution: attention and feed-forward also read the three tokens before (Canon layers, arXiv:2512.17351).

A causal convolution over four tokens, channel by channel, is added to the normalised input of both: positions A and C
of the source, without bias or activation, as it recommends. What neighbours hold need not be fetched by a head. Here
the taps start at zero, that is at the base model.

Topic: block
Source: arXiv:2512.17351, https://github.com/facebookresearch/PhysicsLM4; universe-lm:
    https://github.com/vukrosic/universe-lm/blob/88a78f1/archive/internal/autoresearch/closed.md
Claimed: reasoning depth doubled on synthetic tasks; better real pretraining at 1.3B parameters and 100B tokens, in
    figures. universe-lm, 1M parameters, one seed: -0.05 nats before attention alone (width three, null by its own rule
    as two controls differed by 0.07), nothing on a stack with distance biases.
Constants: of the source
"""

from models.seams import F, Parts, Tensor, Vector, Wrapper, nn


class Convolution(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int) -> None:
        super().__init__(inner, parts, layer)
        self.taps = Vector(4, parts.model.dim)

    def forward(self, x_BTD: Tensor) -> Tensor:
        past_BTD, length = F.pad(x_BTD, (0, 0, 3, 0)), x_BTD.size(1)
        for start, tap_D in enumerate(self.taps.weight):
            x_BTD = x_BTD + tap_D * past_BTD[:, start : start + length]
        return self.inner(x_BTD)


def apply(parts: Parts) -> Parts:
    return parts.wrap(attention=Convolution, feed_forward=Convolution)
