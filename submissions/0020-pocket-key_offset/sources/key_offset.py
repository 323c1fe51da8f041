"""Key offset: half of each key does not rotate and comes from the token before (modded-nanogpt, 2025-12-14).

A query can then ask for what stood before a token, so that one layer does what induction takes two for. As in the
source half of each head's channels rotate, with angles of 1 to 1/1024 a position, evenly spaced on a log scale; the
other half of the key is moved on by one position.

Topic: attention
Source: https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2025-12-14_PartialKeyOffset/README.md
Claimed: modded-nanogpt (124M): 131.2 to 128.8 seconds and 50 steps fewer, with four other changes, 11 runs; alone
    nothing measured. On all channels it was worse.
Constants: of the source (half of the channels, base 1,024); every layer, its best loss, where it has long windows
"""

from models.seams import Parts, Tensor, Wrapper, nn, torch


class KeyOffset(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int) -> None:
        super().__init__(inner, parts, layer)
        for frequency_J in inner.buffers():  # the rotary's: channels j and J + j turn together
            turning, still = frequency_J.chunk(2)
            turning.copy_(1024 ** -torch.linspace(0, 1, len(turning)))
            still.zero_()

    def forward(self, q_BTHK: Tensor, k_BTGK: Tensor) -> tuple[Tensor, Tensor]:
        q_BTHK, k_BTGK = self.inner(q_BTHK, k_BTGK)
        last_BTGK = torch.cat((k_BTGK[:, :1], k_BTGK[:, :-1]), dim=1)
        own_BTG2J, last_BTG2J = (x.unflatten(-1, (2, -1)).chunk(2, dim=-1) for x in (k_BTGK, last_BTGK))
        return q_BTHK, torch.cat((own_BTG2J[0], last_BTG2J[1]), dim=-1).flatten(-2)


def apply(parts: Parts) -> Parts:
    return parts.wrap(query_key=KeyOffset)
