"""Partial key offset: the half of each key that does not rotate is the last token's (modded-nanogpt, 2025).

A query can then find the token after one that it looks for, and a single layer does what induction takes two for. As
in the source only half of the channels rotate, with frequencies from 1 to 1/1024, evenly spaced on a log scale.

Topic: attention
Source: https://github.com/KellerJordan/modded-nanogpt/tree/master/records/track_1_short/2025-12-14_PartialKeyOffset
Claimed: nothing measured alone; five changes together 131.2 to 128.8 seconds and 50 steps (124M parameters, 11 runs)
Constants: of the source, but in every layer (its best loss; it offsets the long windows alone, for speed)
"""

from models.seams import Parts, Tensor, Wrapper, nn, torch


class KeyOffset(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int) -> None:
        super().__init__(inner, parts, layer)
        for frequency_J in inner.buffers():  # the rotary's: channel j turns with channel j + J
            moving, still = frequency_J.chunk(2)
            moving.copy_(1024 ** -torch.linspace(0, 1, len(moving)))
            still.zero_()

    def forward(self, q_BTHK: Tensor, k_BTGK: Tensor) -> tuple[Tensor, Tensor]:
        q_BTHK, k_BTGK = self.inner(q_BTHK, k_BTGK)
        last_BTGK = torch.cat((k_BTGK[:, :1], k_BTGK[:, :-1]), dim=1)
        pairs_BTG2J, last_BTG2J = (x.unflatten(-1, (2, -1)).chunk(2, -1) for x in (k_BTGK, last_BTGK))
        return q_BTHK, torch.cat((pairs_BTG2J[0], last_BTG2J[1]), -1).flatten(-2)


def apply(parts: Parts) -> Parts:
    return parts.wrap(query_key=KeyOffset)
