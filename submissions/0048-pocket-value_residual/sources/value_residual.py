"""Value residual: each layer mixes the first layer's values into its own (Zhou et al., 2024, arXiv:2410.17897).

Later layers keep a way to what the tokens were before the layers below mixed them. The share is learned, a number a
layer, and starts at one half.

Topic: attention
Source: arXiv:2410.17897; https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2024-11-06_ShortcutsTweaks/README.md
Claimed: equal loss with 16 % fewer parameters and 20 % less data (abstract). modded-nanogpt (124M): -0.0123 nats with
    one half, a further -0.0086 with learned shares, one seed each.
Constants: of the source
"""

from models.seams import Attention, Parts, Tensor, Vector, Wrapper, nn


class ValueResidual(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int, attention: Attention) -> None:
        super().__init__(inner, parts, layer)
        self.value_share = Vector(1, start=0.5)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_BTHK, k_BTGK, v_BTGK = self.inner(x_BTD)
        first_BTGK = self.context.seen.setdefault("first values", v_BTGK)
        return q_BTHK, k_BTGK, v_BTGK + self.value_share.weight * (first_BTGK - v_BTGK)


def apply(parts: Parts) -> Parts:
    return parts.wrap(projection=ValueResidual)
