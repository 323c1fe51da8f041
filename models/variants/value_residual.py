"""Value residual: every layer mixes the first layer's values into its own (Zhou et al., 2024, arXiv:2410.17897).

What the tokens themselves say stays within reach of the later layers. One learned share a layer, which starts at a
half; in the first layer it mixes the values with themselves and does nothing.

Topic: attention
Source: arXiv:2410.17897; the learned share: modded-nanogpt,
    https://github.com/KellerJordan/modded-nanogpt/tree/master/records/track_1_short/2024-11-06_ShortcutsTweaks
Claimed: equal loss with 16.11 % fewer parameters and 20.3 % less data (abstract); modded-nanogpt: 0.0123 nats with a
    half, 0.0086 more with a learned share (124M parameters, one seed each)
Constants: of the source
"""

from models.seams import Attention, Parts, Tensor, Vector, Wrapper, nn


class ValueResidual(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int, attention: Attention) -> None:
        super().__init__(inner, parts, layer)
        self.first_share = Vector(1, start=0.5)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_BTHK, k_BTGK, v_BTGK = self.inner(x_BTD)
        first_BTGK = self.context.seen.setdefault("first_value", v_BTGK)
        return q_BTHK, k_BTGK, v_BTGK + self.first_share.weight * (first_BTGK - v_BTGK)


def apply(parts: Parts) -> Parts:
    return parts.wrap(projection=ValueResidual)
